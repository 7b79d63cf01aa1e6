"""`whimbrel.anyio`, on trio and on asyncio, with a server of the blocking face."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

import whimbrel
import whimbrel.anyio
import whimbrel.sync
from tests.loopback.support import ALPN, SOON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["trio", "asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Each that anyio can run on."""
    if request.param == "trio":
        return "trio", {}
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class Site:
    """A server, and how to reach it."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self._servers: list[whimbrel.sync.Server] = []
        self.connections: list[whimbrel.sync.Connection] = []

    def serve(self, handler: Callable[[whimbrel.sync.Connection], None]) -> whimbrel.sync.Server:
        def noted(connection: whimbrel.sync.Connection) -> None:
            self.connections.append(connection)
            handler(connection)

        server = whimbrel.sync.serve(noted, "127.0.0.1", cert=self._certificates.pair, alpn=ALPN)
        self._servers.append(server)
        return server

    def connect(self, handler: Callable[[whimbrel.sync.Connection], None], **options: Any) -> Any:
        address = self.serve(handler).addresses[0]
        return whimbrel.anyio.connect(*address, alpn=ALPN, verify=self._certificates.ca, **options)

    def close(self) -> None:
        for server in self._servers:
            server.close()


@pytest.fixture
def site(certificates: Certificates) -> Iterator[Site]:
    made = Site(certificates)
    yield made
    made.close()


def echo(connection: whimbrel.sync.Connection) -> None:
    threads = []
    for stream in connection.streams():
        assert isinstance(stream, whimbrel.sync.Stream)
        threads.append(threading.Thread(target=_echo, args=[stream]))
        threads[-1].start()
    for thread in threads:
        thread.join()


def _echo(stream: whimbrel.sync.Stream) -> None:
    with contextlib.suppress(whimbrel.WhimbrelError), stream:
        shutil.copyfileobj(stream, stream)


async def until(condition: Callable[[], bool]) -> None:
    """Let the others run until it is so."""
    with anyio.fail_after(SOON):
        while not condition():
            await anyio.lowlevel.checkpoint()


def wait(connection: whimbrel.sync.Connection) -> None:
    connection.wait_closed()


async def test_a_stream_is_one_of_anyios(site: Site) -> None:
    async with site.connect(echo) as connection:
        assert connection.alpn == ALPN
        async with await connection.open_stream() as stream:
            assert isinstance(stream, anyio.abc.ByteStream)
            await stream.send(b"one\ntwo\n")
            await stream.send_eof()
            lines = BufferedByteReceiveStream(stream)
            assert await lines.receive_until(b"\n", 100) == b"one"
            assert await lines.receive_exactly(4) == b"two\n"
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            assert stream.extra(anyio.abc.SocketAttribute.remote_address) == connection.path.remote


async def test_more_than_all_buffers_hold_goes_both_ways_at_once(site: Site) -> None:
    data = os.urandom(5_000_000)
    async with site.connect(echo) as connection:

        async def both_ways() -> None:
            async with await connection.open_stream() as stream, anyio.create_task_group() as tasks:

                async def send() -> None:
                    await stream.send(data)
                    await stream.send_eof()

                tasks.start_soon(send)
                assert b"".join([chunk async for chunk in stream]) == data

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(both_ways)


async def test_a_cancelled_wait_loses_nothing(site: Site) -> None:
    async with site.connect(echo) as connection:
        stream = await connection.open_stream()
        with anyio.move_on_after(0.01) as scope:
            await stream.receive()
        assert scope.cancelled_caught
        await stream.send(b"something")
        assert await stream.receive(4) == b"some"
        assert await stream.receive() == b"thing"
        await stream.aclose()


async def test_a_cancelled_send_has_sent_what_it_says(site: Site) -> None:
    data = os.urandom(50_000_000)
    come, go = threading.Event(), threading.Event()
    received = bytearray()

    def read_late(connection: whimbrel.sync.Connection) -> None:
        stream = connection.accept_stream()
        assert isinstance(stream, whimbrel.sync.Stream)
        assert go.wait(SOON)
        while piece := stream.read(1 << 20):
            received.extend(piece)
        come.set()
        stream.close()

    async with site.connect(read_late) as connection:
        stream = await connection.open_stream()
        with anyio.move_on_after(0.2):
            await stream.send(data)
        taken = stream.bytes_written
        assert 0 < taken < len(data)
        go.set()
        await stream.send(data[taken:])
        await stream.send_eof()
        assert await anyio.to_thread.run_sync(come.wait, SOON)
        assert received == data
        await stream.aclose()


async def test_what_the_peer_does_to_a_stream_is_told_in_anyios_words(site: Site) -> None:
    def refuse(connection: whimbrel.sync.Connection) -> None:
        for stream in connection.streams():
            assert isinstance(stream, whimbrel.sync.Stream)
            stream.readexactly(1)
            stream.reset(7)
            stream.stop(9)

    async with site.connect(refuse) as connection:
        stream = await connection.open_stream()
        await stream.send(b"x")
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()
        assert isinstance(caught.value.__cause__, whimbrel.StreamReset)
        assert caught.value.__cause__.code == 7
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.send(bytes(50_000_000))
        assert isinstance(caught.value.__cause__, whimbrel.StreamStopped)
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"more")


async def test_leaving_by_an_exception_is_no_good_end(site: Site) -> None:
    ends: list[BaseException] = []

    def read(connection: whimbrel.sync.Connection) -> None:
        stream = connection.accept_stream()
        try:
            stream.read()
        except whimbrel.StreamReset as error:
            ends.append(error)
        try:
            connection.accept_stream()
        except whimbrel.ConnectionLost as error:
            ends.append(error)

    async def fail() -> None:
        async with site.connect(read) as connection:
            stream = await connection.open_stream()
            await stream.send(b"half")
            with contextlib.suppress(ZeroDivisionError):
                async with stream:
                    raise ZeroDivisionError
            await until(lambda: bool(ends))
            raise KeyError("not wrapped in a group")

    with pytest.raises(KeyError):
        await fail()
    await until(lambda: len(ends) == 2)
    assert isinstance(ends[0], whimbrel.StreamReset)
    assert isinstance(ends[1], whimbrel.ConnectionClosed)
    assert ends[1].code == 1


async def test_one_reads_and_one_writes_at_a_time(site: Site) -> None:
    async with site.connect(wait) as connection, anyio.create_task_group() as tasks:
        stream = await connection.open_stream()
        tasks.start_soon(stream.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
        tasks.cancel_scope.cancel()


async def test_streams_and_datagrams_of_the_peers(site: Site) -> None:
    def speak(connection: whimbrel.sync.Connection) -> None:
        with connection.open_send_stream() as stream:
            stream.write(b"hello")
        connection.send_datagram(b"datagram")
        connection.send_datagram(connection.receive_datagram())
        connection.close()

    async with site.connect(speak) as connection:
        stream = await connection.accept_stream()
        assert isinstance(stream, anyio.abc.ByteReceiveStream)
        assert not isinstance(stream, anyio.abc.ByteStream)
        assert [chunk async for chunk in stream] == [b"hello"]
        assert await connection.receive_datagram() == b"datagram"
        assert connection.max_datagram_size > 1000
        connection.send_datagram(b"back")
        assert await connection.receive_datagram() == b"back"
        assert [stream async for stream in connection.streams()] == []


async def test_the_end_of_a_connection_reaches_all_that_waits(site: Site) -> None:
    def close(connection: whimbrel.sync.Connection) -> None:
        stream = connection.accept_stream()
        stream.read(1)
        connection.close(5, "enough")

    async with site.connect(close) as connection:
        stream = await connection.open_stream()
        told: list[BaseException | None] = []

        async def note(call: Callable[[], Any]) -> None:
            try:
                await call()
            except (whimbrel.ConnectionLost, anyio.BrokenResourceError) as error:
                told.append(error)

        async with anyio.create_task_group() as tasks:
            for call in (stream.receive, connection.accept_stream, connection.receive_datagram):
                tasks.start_soon(note, call)
            await anyio.wait_all_tasks_blocked()
            await stream.send(b"x")
        assert len(told) == 3
        causes = [error if isinstance(error, whimbrel.ConnectionLost) else error.__cause__ for error in told if error]
        assert {getattr(error, "code", None) for error in causes} == {5}


async def test_networks_by_hand(site: Site) -> None:
    """Real moves are in tests/lab/test_anyio.py."""
    async with site.connect(echo) as connection, anyio.create_task_group() as tasks:
        ended = anyio.Event()

        async def watch() -> None:
            assert [change async for change in connection.path_changes()] == []
            assert [change async for change in connection.path_changes()] == []
            ended.set()

        tasks.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        assert (await connection.probe(interface="lo")).interface == "lo"
        assert (await connection.migrate(interface="lo")).interface == "lo"
        with pytest.raises(whimbrel.NoRoute):
            await connection.migrate(interface="tun7")
        assert connection.stats().bytes_sent > 1000
        await connection.close()
        await ended.wait()


async def test_a_dial_can_be_cancelled_and_leaves_nothing(certificates: Certificates) -> None:
    with anyio.move_on_after(0.05) as scope:
        async with whimbrel.anyio.connect("192.0.2.1", 9, alpn=ALPN, verify=certificates.ca, timeout=0.3):
            raise AssertionError("nobody is there")
    assert scope.cancelled_caught


async def test_a_dial_that_fails_says_why(certificates: Certificates, site: Site) -> None:
    address = site.serve(echo).addresses[0]
    with pytest.raises(whimbrel.CertificateError):
        async with whimbrel.anyio.connect(*address, alpn=ALPN):
            raise AssertionError("it is not trusted")


async def test_cancelling_all_closes_the_connection_and_leaves_nothing(site: Site) -> None:
    address = site.serve(wait).addresses[0]
    for _ in range(3):
        with anyio.CancelScope() as scope:
            async with whimbrel.anyio.connect(*address, alpn=ALPN, verify=site._certificates.ca) as connection:
                stream = await connection.open_stream()
                scope.cancel()
                await stream.receive()
        assert scope.cancelled_caught
    await until(lambda: len(site.connections) == 3 and all(gone._lost for gone in site.connections))
    # As a failure, not as a good end.
    assert {gone._lost[1] for gone in site.connections if gone._lost} == {1}
