"""Cancelling, threads, forks, forgotten objects, the interpreter's end: nothing is left behind, nothing hangs."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import whimbrel
from tests.loopback.support import (
    Certificates,
    dial,
    echo_server,
    native_threads,
    nothing_left,
    pair,
    relay,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_a_connection_leaves_nothing(certificates: Certificates, host: str) -> None:
    async with (
        echo_server(certificates, host) as server,
        nothing_left(),
        dial(server, certificates) as connection,
        await connection.open_stream() as stream,
    ):
        await stream.write(b"x")
        assert await stream.readexactly(1) == b"x"


async def test_a_server_leaves_nothing(certificates: Certificates) -> None:
    async with nothing_left(), pair(certificates) as (client, server):
        assert client.alpn == server.alpn


async def test_a_server_forgets_connections_that_ended(certificates: Certificates) -> None:
    async with echo_server(certificates) as server, nothing_left():
        for _ in range(5):
            async with dial(server, certificates) as connection:
                await connection.open_stream()
        await until(lambda: not server.connections and not server._tasks)


async def test_cancelling_connect(certificates: Certificates) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        hole.setblocking(False)
        async with nothing_left():
            dialling = asyncio.create_task(_dial_blind(hole.getsockname()[1], certificates))
            await _readable(hole)
            while _drain(hole):
                pass
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
        assert _drain(hole), "the peer was told nothing"


async def test_cancelling_a_read(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        stream = await client.open_stream()
        await stream.write(b"x")
        there = await server.accept_stream()
        assert await there.readexactly(1) == b"x"
        async with nothing_left():
            for _ in range(3):
                await _cancelled(there.read())
                await _cancelled(server.accept_stream())
                await _cancelled(server.receive_datagram())
                await _cancelled(server.wait_closed())
        await stream.write(b"y")
        assert await there.readexactly(1) == b"y"


async def test_a_cancelled_accept_hands_its_stream_to_the_next(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        first, second = (asyncio.create_task(server.accept_stream()) for _ in range(2))
        await turns()
        stream = await client.open_stream()
        await stream.write(b"x")
        # Woken and cancelled in the same turn of the loop.
        waiting = server._accepters._waiting
        await until(lambda: len(waiting) < 2)
        first.cancel()
        done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        accepted = [task.result() for task in done if not task.cancelled()] or [await second]
        assert accepted[0].id == stream.id
        for task in (first, second):
            task.cancel()
        await asyncio.wait([first, second])


async def test_cancelling_a_wait_for_streams(certificates: Certificates) -> None:
    limits = whimbrel.Limits(max_streams=1)
    async with pair(certificates, server_limits=limits) as (client, server):
        only = await client.open_stream()
        await only.write(b"x")
        there = await server.accept_stream()
        assert isinstance(there, whimbrel.Stream)
        waiting = [asyncio.create_task(client.open_stream()) for _ in range(3)]
        await turns()
        waiting[0].cancel()
        for stream in (only, there):
            await stream.finish()
        assert await only.read() == b""
        assert await there.read() == b"x"
        assert (await waiting[1]).id == only.id + 4
        waiting[2].cancel()
        await asyncio.wait(waiting)


async def test_cancelling_close_closes(certificates: Certificates) -> None:
    async with echo_server(certificates) as server, relay(server) as between:
        connection = await whimbrel.connect(*between.address, alpn="test", verify=certificates.ca, migration=None)
        stream = await connection.open_stream()
        between.silent = True
        await stream.write(b"nobody acknowledges this")
        await stream.finish()
        closing = asyncio.create_task(connection.close(linger=100))
        await turns()
        assert not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await connection.wait_closed()
        assert connection._pump.endpoint.descriptors() == []


async def test_a_foreign_thread_is_turned_away(certificates: Certificates) -> None:
    async with pair(certificates) as (client, _):
        stream = await client.open_stream()
        said: list[str] = []

        def call() -> None:
            for use in (client.stats, stream.reset, client.path_changes, lambda: client.path, client.streams):
                with pytest.raises(RuntimeError) as caught:
                    use()
                said.append(str(caught.value))
            for start in (client.open_stream(), client.close(), stream.read(), stream.write(b"x"), stream.finish()):
                with pytest.raises(RuntimeError) as caught:
                    start.send(None)
                said.append(str(caught.value))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert len(said) == 10
        assert all("event loop of another thread" in text for text in said)
        await stream.write(b"still fine")
        stream.reset()


async def test_a_dropped_connection_warns_and_is_closed(certificates: Certificates) -> None:
    ends: list[whimbrel.Connection] = []

    async def handler(connection: whimbrel.Connection) -> None:
        ends.append(connection)
        await connection.wait_closed()

    async with whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn="test") as server, nothing_left():
        connection = await dial(server, certificates)
        await until(lambda: len(ends) == 1)
        with pytest.warns(ResourceWarning, match=r"<Connection to 127\.0\.0\.1:\d+> was never closed"):
            del connection
        await ends.pop().wait_closed()
        await until(lambda: not server._tasks)


async def test_a_dropped_server_warns_and_is_closed(certificates: Certificates) -> None:
    async with nothing_left():
        server = await echo_server(certificates)
        with pytest.warns(ResourceWarning, match=r"<Server on 127\.0\.0\.1:\d+> was never closed"):
            del server


async def test_the_interpreter_ends_at_once_and_tells_the_peer(certificates: Certificates, scripts: Path) -> None:
    ended = asyncio.get_running_loop().create_future()

    async def handler(connection: whimbrel.Connection) -> None:
        stream = await connection.accept_stream()
        assert isinstance(stream, whimbrel.Stream)
        async with stream:
            await stream.write(await stream.readexactly(1))
            try:
                await stream.read(1)
            except whimbrel.ConnectionClosed as error:
                ended.set_result((error.code, error.by_peer))

    async with whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn="test") as server:
        process = await _start(scripts / "exiting.py", certificates, server)
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        began = asyncio.get_running_loop().time()
        process.stdin.write(b"\n")
        assert await ended == (0, True)
        assert await process.wait() == 0
        assert asyncio.get_running_loop().time() - began < 2.0
        await _errors_of(process)


async def test_after_fork_the_child_fails_clearly_and_the_parent_lives(
    certificates: Certificates, scripts: Path
) -> None:
    async with echo_server(certificates) as server:
        process = await _start(scripts / "forking.py", certificates, server)
        output, errors = await process.communicate()
        assert (output, errors) == (b"both fine\n", b"")
        assert process.returncode == 0


async def test_a_blocked_loop_leaves_the_connection_alive(certificates: Certificates) -> None:
    """The guard thread answers for both ends while Python computes."""
    async with pair(certificates, idle_timeout=0.3) as (client, server):
        stream = await client.open_stream()
        await stream.write(b"x")
        there = await server.accept_stream()
        received = client.stats().datagrams_received
        data = os.urandom(1 << 20)
        await stream.write(data)
        _compute_until(lambda: client.stats().datagrams_received > received + 5)
        await stream.finish()
        assert await there.read() == b"x" + data


async def test_no_thread_before_the_first_connection(certificates: Certificates) -> None:
    threads = native_threads()
    described = whimbrel.connect("127.0.0.1", 1, alpn="test", verify=certificates.ca)
    # Fewer, if another test's guard thread was about to end.
    assert native_threads() <= threads
    del described


def _compute_until(condition: Callable[[], bool]) -> None:
    while not condition():
        sum(range(1000))


async def _cancelled(operation: object) -> None:
    task = asyncio.ensure_future(operation)  # type: ignore[call-overload]
    await turns()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _dial_blind(port: int, certificates: Certificates) -> whimbrel.Connection:
    return await whimbrel.connect("127.0.0.1", port, alpn="test", verify=certificates.ca, timeout=None)


async def _readable(hole: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(hole, readable.cancel)
    await asyncio.wait([readable])
    loop.remove_reader(hole)


def _drain(hole: socket.socket) -> bool:
    try:
        return bool(hole.recv(65536))
    except BlockingIOError:
        return False


async def _start(script: Path, certificates: Certificates, server: whimbrel.Server) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        str(certificates.ca),
        str(server.addresses[0][1]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def _errors_of(process: asyncio.subprocess.Process) -> None:
    _, errors = await process.communicate()
    assert b"Traceback" not in errors
