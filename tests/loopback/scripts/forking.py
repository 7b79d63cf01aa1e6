"""Forks with a live connection: `forking.py CA PORT`. Parent and child say what became of it."""

import asyncio
import functools
import os
import sys

import whimbrel


async def dial() -> whimbrel.Connection:
    authority, port = sys.argv[1:]
    return await whimbrel.connect("127.0.0.1", int(port), alpn="test", verify=authority, migration=None)


async def ask(connection: whimbrel.Connection) -> bytes:
    stream = await connection.open_stream()
    await stream.write(b"alive")
    await stream.finish()
    return await stream.read()


def child(connection: whimbrel.Connection, stream: whimbrel.Stream) -> None:
    uses = [connection.stats, lambda: connection.path, connection.path_changes, stream.reset]
    starts = (connection.open_stream(), connection.close(), stream.read(), stream.write(b"x"))
    uses += [functools.partial(start.send, None) for start in starts]
    for use in uses:
        said = ""
        try:
            use()
        except RuntimeError as error:
            said = str(error)
        assert "forked" in said, f"{use} worked after fork"


async def parent_and_child() -> None:
    connection = await dial()
    stream = await connection.open_stream()
    await stream.write(b"x")
    number = os.fork()
    if number == 0:
        status = 1
        try:
            child(connection, stream)
            del connection, stream
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(number, 0)  # noqa: ASYNC222 - the server is another process
    assert os.waitstatus_to_exitcode(status) == 0
    assert await ask(connection) == b"alive"
    # A child that goes on to dial by itself: the loop of its parent is of no use to it.
    number = os.fork()
    if number == 0:
        status = 1
        try:
            asyncio._set_running_loop(None)
            with asyncio.Runner() as runner:
                fresh = runner.run(dial())
                assert runner.run(ask(fresh)) == b"alive"
                runner.run(fresh.close())
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(number, 0)  # noqa: ASYNC222 - the server is another process
    assert os.waitstatus_to_exitcode(status) == 0
    assert await ask(connection) == b"alive"
    stream.reset()
    await connection.close()


asyncio.run(parent_and_child())
sys.stdout.write("both fine\n")
