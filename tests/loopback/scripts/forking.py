"""Forks with a live connection: `forking.py CA PORT`. Parent and child say what became of it."""

import asyncio
import functools
import os
import sys

import whimbrel


def target(descriptor: int) -> str:
    """What a descriptor leads to; "" if it is not open."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - no file
    except FileNotFoundError:
        return ""


async def dial() -> whimbrel.Connection:
    authority, port = sys.argv[1:]
    return await whimbrel.connect("127.0.0.1", int(port), alpn="test", verify=authority, migration=None)


async def ask(connection: whimbrel.Connection) -> bytes:
    stream = await connection.open_stream()
    await stream.write(b"alive")
    await stream.finish()
    return await stream.read()


def child(connection: whimbrel.Connection, stream: whimbrel.Stream, sockets: set[str]) -> None:
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
    assert not [number for number in range(256) if target(number) in sockets], "the child kept a socket"


async def parent_and_child() -> None:
    connection = await dial()
    stream = await connection.open_stream()
    await stream.write(b"x")
    sockets = {target(number) for number in connection._pump.endpoint.descriptors()}
    sockets = {name for name in sockets if name.startswith("socket:")}
    assert sockets
    number = os.fork()
    if number == 0:
        status = 1
        try:
            child(connection, stream, sockets)
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
