"""Tunnels: CONNECT to a host and port, and to a protocol that the server itself speaks (RFC 9114 §4.4, RFC 9220)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, Setting, encode_frame

from tests.loopback.http_peers import dial, other_client, other_server, request, served
from tests.loopback.support import nothing_left, until
from whimbrel import (
    Busy,
    ConnectionClosed,
    Limits,
    LocalProtocolError,
    RemoteProtocolError,
    StreamReset,
    StreamStopped,
    http,
)
from whimbrel.http import ErrorCode, Request, RequestRejected, Tunnel, TunnelRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.loopback.http_peers import Fields, OtherClient
    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 8000  # 2 MB, not a multiple of any buffer's size.
TARGET = "example.org:22"
CONNECT = [(b":method", b"CONNECT"), (b":authority", TARGET.encode())]


def extended(protocol: bytes = b"chat", *more: tuple[bytes, bytes]) -> Fields:
    method, *rest = request("CONNECT", "/room?x=1")
    return [method, (b":protocol", protocol), *rest, *more]


async def hello(request: Request) -> None:
    await request.respond(200, {}, b"hello")


async def echo(request: Request) -> None:
    """Sends back what comes, and ends when it ends."""
    async with await request.accept({"x-echo": "yes"}) as tunnel:
        async for chunk in tunnel:
            await tunnel.write(chunk)


async def fill(tunnel: Tunnel) -> None:
    while True:
        await tunnel.write(LARGE)


async def drain(tunnel: Tunnel, received: list[bytes]) -> None:
    while data := await tunnel.read(100):
        received.append(data)


class Held:
    """A handler that gives its tunnels to the test, and returns when the test says so."""

    def __init__(self) -> None:
        self.tunnels: asyncio.Queue[Tunnel] = asyncio.Queue()
        self.done = asyncio.Event()

    async def __call__(self, request: Request) -> None:
        self.tunnels.put_nowait(await request.accept())
        await self.done.wait()


@contextlib.asynccontextmanager
async def ends(
    certificates: Certificates, *, protocol: str | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Tunnel, Tunnel]]:
    """Both ends of one tunnel, the client's first."""
    held = Held()
    kinds: dict[str, http.Handler] = {protocol: held} if protocol else {}
    async with (
        http.serve(
            hello, "127.0.0.1", cert=certificates.pair, connect=held, protocols=kinds, limits=limits or Limits()
        ) as server,
        dial(certificates, server) as client,
    ):
        tunnel = await client.tunnel(None if protocol else TARGET, protocol=protocol)
        yield tunnel, await held.tunnels.get()
        held.done.set()


# What opens a tunnel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [None, "chat"])
async def test_a_tunnel_carries_bytes_both_ways(certificates: Certificates, protocol: str | None) -> None:
    async with served(certificates, hello, connect=echo, protocols={"chat": echo}) as (_, client):
        async with client.tunnel(None if protocol else TARGET, protocol=protocol) as tunnel:
            assert (tunnel.status, tunnel.headers["x-echo"], tunnel.protocol) == (200, "yes", protocol)
            await tunnel.write(b"one")
            assert await tunnel.readexactly(3) == b"one"
            await tunnel.write(b"two")
            await tunnel.finish()
            assert await tunnel.read() == b"two"
        assert (await client.request("GET", "/")).status == 200


async def test_a_handler_sees_what_was_asked(certificates: Certificates) -> None:
    seen: list[tuple[object, ...]] = []

    async def handler(request: Request) -> None:
        seen.append((request.method, request.authority, request.protocol, request.target, request.headers.get("x")))
        await request.accept()

    async with served(certificates, hello, connect=handler, protocols={"chat": handler}) as (_, client):
        await client.tunnel(TARGET, headers={"x": "1"})
        await client.tunnel(protocol="chat", target="/room?x=1", headers={"x": "2"})
        await client.tunnel("other.example", protocol="chat")
        assert seen == [
            ("CONNECT", TARGET, None, "", "1"),
            ("CONNECT", client.authority, "chat", "/room?x=1", "2"),
            ("CONNECT", "other.example", "chat", "/", None),
        ]


@pytest.mark.parametrize("size", [1, 5, 100_000])
async def test_a_tunnel_is_read_as_every_stream(certificates: Certificates, size: int) -> None:
    async with ends(certificates) as (here, there):
        sending = asyncio.create_task(here.write(b"GET / line\n" + bytes(1000) + LARGE[: size * 3]))
        assert await there.readuntil(b" ") == b"GET "
        assert await there.readline() == b"/ line\n"
        assert await there.readexactly(1000) == bytes(1000)
        buffer = bytearray(size)
        count = await there.readinto(buffer)
        received = bytes(buffer[:count])
        while len(received) < size * 3:
            piece = await there.read(size)
            assert len(piece) <= size
            received += piece
        assert received == LARGE[: size * 3]
        await sending


async def test_what_is_written_is_counted_without_its_frames(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there):

        async def send(data: bytes | bytearray | memoryview) -> None:
            await here.write(data)

        for data in (b"x", bytearray(LARGE), memoryview(LARGE)[5:], LARGE, b""):
            before = here.bytes_written
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send(data))
                assert await there.readexactly(len(data)) == bytes(data)
            assert here.bytes_written - before == len(data)


async def test_leaving_the_block_ends_both_directions(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there):
        async with here:
            await here.write(b"bye")
        assert await there.read() == b"bye"
        with pytest.raises(StreamStopped) as stopped:
            await fill(there)
        assert stopped.value.code == ErrorCode.H3_NO_ERROR
        assert here.is_over
        assert there.is_over


async def test_an_exception_in_the_block_gives_the_tunnel_up(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there):
        with pytest.raises(ZeroDivisionError):
            async with here:
                raise ZeroDivisionError
        with pytest.raises(StreamReset) as reset:
            await there.read()
        assert reset.value.code == ErrorCode.H3_REQUEST_CANCELLED


# What opens none ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [None, "chat"])
async def test_a_refusal_says_why(certificates: Certificates, protocol: str | None) -> None:
    async def handler(request: Request) -> None:
        await request.respond(403, {"x-why": "rule 3"}, b"not to there\nand so on\n" + bytes(10_000))

    async with served(certificates, hello, connect=handler, protocols={"chat": handler}) as (_, client):
        with pytest.raises(TunnelRefused, match="status 403: not to there") as refused:
            await client.tunnel(None if protocol else TARGET, protocol=protocol)
        assert (refused.value.status, refused.value.headers["x-why"]) == (403, "rule 3")
        assert refused.value.body.startswith(b"not to there\n")
        assert len(refused.value.body) == 4096
        assert not client._responses
        assert (await client.request("GET", "/")).status == 200


async def test_a_refusal_that_does_not_end_is_not_waited_for(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http._client, "REFUSAL_PATIENCE", 0.01)

    async def handler(request: Request) -> None:
        await request.start(403)
        await request.write(b"because")
        await asyncio.Event().wait()

    async with served(certificates, hello, connect=handler) as (_, client):
        with pytest.raises(TunnelRefused, match="status 403"):
            await client.tunnel(TARGET)


async def test_tunnels_are_served_by_handlers_of_tunnels_alone(certificates: Certificates) -> None:
    async def surprised(request: Request) -> None:
        raise AssertionError(f"asked for {request.method}")

    async with served(certificates, surprised, protocols={"chat": echo}) as (_, client):
        with pytest.raises(TunnelRefused, match="501"):
            await client.tunnel(TARGET)
        with pytest.raises(TunnelRefused, match="501: CONNECT for talk is not served") as refused:
            await client.tunnel(protocol="talk")
        assert refused.value.status == 501
    async with served(certificates, surprised, connect=echo) as (_, client):
        # RFC 8441 §3: not without the server's word for it.
        with pytest.raises(TunnelRefused, match="no extended CONNECT") as refused:
            await client.tunnel(protocol="chat")
        assert refused.value.status == 0
        # It was not even asked.
        assert (await client.tunnel(TARGET)).id == 0


@pytest.mark.parametrize(("protocols", "announced"), [({}, None), ({"chat": echo}, 1)])
async def test_extended_connect_is_announced_where_it_is_served(
    certificates: Certificates, protocols: dict[str, http.Handler], announced: int | None
) -> None:
    async with (
        served(certificates, hello, connect=echo, protocols=protocols) as (server, _),
        other_client(certificates, server) as other,
    ):
        await other.answer(other.ask(request()))
        assert other.h3.received_settings is not None
        assert other.h3.received_settings.get(Setting.ENABLE_CONNECT_PROTOCOL) == announced


@pytest.mark.parametrize(
    ("authority", "protocol", "target"),
    [
        (None, None, "/"),
        ("example.org", None, "/"),
        ("example.org:", None, "/"),
        ("user@example.org:22", None, "/"),
        ("a b:22", None, "/"),
        (None, "a b", "/"),
        (None, "chat", "room"),
    ],
)
async def test_a_tunnel_that_http_does_not_allow_is_the_callers_mistake(
    certificates: Certificates, authority: str | None, protocol: str | None, target: str
) -> None:
    async with served(certificates, hello, connect=echo, protocols={"chat": echo}) as (_, client):
        with pytest.raises(LocalProtocolError):
            await client.tunnel(authority, protocol=protocol, target=target)


@pytest.mark.parametrize(
    "headers",
    [
        [(b":method", b"CONNECT"), (b":authority", b"example.org")],
        [*CONNECT, (b":path", b"/")],
        [*CONNECT, (b":scheme", b"https")],
        [(b":method", b"CONNECT"), (b":protocol", b"chat"), (b":authority", b"example.org")],
        [(b":method", b"CONNECT"), (b":protocol", b"a b"), *request()[1:]],
        [(b":method", b"GET"), (b":protocol", b"chat"), *request()[1:]],
    ],
    ids=["no port", "path", "scheme", "no path", "no token", "GET"],
)
async def test_malformed_requests_for_tunnels_are_refused(certificates: Certificates, headers: Fields) -> None:
    async with (
        served(certificates, hello, connect=echo, protocols={"chat": echo}) as (server, _),
        other_client(certificates, server) as other,
    ):
        assert (await other.answer(other.ask(headers, end=False))).reset == ErrorCode.H3_MESSAGE_ERROR
        assert (await other.answer(other.ask(request()))).content == b"hello"


async def test_only_connect_can_be_accepted_and_once(certificates: Certificates) -> None:
    raised: list[LocalProtocolError] = []

    async def handler(request: Request) -> None:
        for headers in ({"content-length": "5"}, {}, {}):
            try:
                await request.accept(headers)
            except LocalProtocolError as error:
                raised.append(error)
        if request.method == "GET":
            await hello(request)

    async with served(certificates, handler, connect=handler) as (_, client):
        assert (await client.request("GET", "/")).status == 200
        assert len(raised) == 3
        async with client.tunnel(TARGET) as tunnel:
            assert await tunnel.read() == b""
        assert len(raised) == 5


# Each direction ends by itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["client", "server"])
async def test_one_direction_ends_before_the_other(certificates: Certificates, first: str) -> None:
    async with ends(certificates) as (client, server):
        done, still = (client, server) if first == "client" else (server, client)
        await done.write(b"question")
        await done.finish()
        assert await still.read() == b"question"
        assert await still.read() == b""
        assert [done.is_over, still.is_over] == [False, False]
        sending = asyncio.create_task(still.write(LARGE))
        assert await done.readexactly(len(LARGE)) == LARGE
        await sending
        await still.finish()
        assert await done.read() == b""
        assert done.is_over
        assert still.is_over
        with pytest.raises(LocalProtocolError):
            await done.write(b"more")


@pytest.mark.parametrize("protocol", [None, "chat"])
@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_reset_is_of_one_direction(certificates: Certificates, first: str, protocol: str | None) -> None:
    async with ends(certificates, protocol=protocol) as (client, server):
        one, other = (client, server) if first == "client" else (server, client)
        one.reset()
        with pytest.raises(StreamReset) as reset:
            await other.read()
        # RFC 9114 §4.4: a server that connects for others says that the connection failed.
        failed = first == "server" and protocol is None
        assert reset.value.code == (ErrorCode.H3_CONNECT_ERROR if failed else ErrorCode.H3_REQUEST_CANCELLED)
        await other.write(b"still here")
        await other.finish()
        assert await one.read() == b"still here"


@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_stop_is_of_one_direction(certificates: Certificates, first: str) -> None:
    async with ends(certificates) as (client, server):
        one, other = (client, server) if first == "client" else (server, client)
        told = asyncio.Event()
        other.on_stopped(told.set)
        one.stop(0x1234)
        await told.wait()
        with pytest.raises(StreamStopped) as stopped:
            await other.write(b"nobody")
        assert stopped.value.code == 0x1234
        with pytest.raises(LocalProtocolError):
            await one.read()
        await one.write(b"still here")
        await one.finish()
        assert await other.read() == b"still here"
        assert one.is_over
        assert other.is_over


async def test_what_came_before_a_reset_is_read_first(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there):
        await there.write(b"x" * 5000)
        assert await here.read(100) == b"x" * 100
        there.reset(0x77)
        received: list[bytes] = []
        with pytest.raises(StreamReset) as reset:
            await drain(here, received)
        assert received
        assert reset.value.code == 0x77
        with pytest.raises(StreamReset):  # Whoever asks again is told again.
            await here.read(1)


async def test_a_handler_that_returns_closes_its_tunnel(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        tunnel = await request.accept()
        await tunnel.write(b"that is all")

    async with served(certificates, hello, connect=handler) as (_, client):
        tunnel = await client.tunnel(TARGET)
        assert await tunnel.read() == b"that is all"
        with pytest.raises(StreamStopped):
            await fill(tunnel)
        assert not client._tunnels


async def test_a_handler_that_fails_resets_its_tunnel(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> None:
        tunnel = await request.accept()
        await tunnel.readexactly(1)
        raise ZeroDivisionError

    async with served(certificates, hello, connect=handler) as (_, client):
        tunnel = await client.tunnel(TARGET)
        await tunnel.write(b"x")
        with pytest.raises(StreamReset) as reset:
            await tunnel.read()
        assert reset.value.code == ErrorCode.H3_INTERNAL_ERROR
        assert "ZeroDivisionError" in caplog.text
        assert (await client.request("GET", "/")).status == 200


async def test_a_client_that_goes_is_no_failure_of_the_handler(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    left = asyncio.Event()

    async def handler(request: Request) -> None:
        try:
            await echo(request)
        finally:
            left.set()

    async with served(certificates, hello, connect=handler) as (_, client):
        tunnel = await client.tunnel(TARGET)
        tunnel.cancel()
        await left.wait()
        assert tunnel.is_over
        assert not client._tunnels
    assert "failed" not in caplog.text


# Back-pressure, cancelling, many at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_who_does_not_read_holds_back_who_writes_and_nobody_else(
    certificates: Certificates, direction: str
) -> None:
    async with served(certificates, hello, connect=Held()) as (server, client):
        held = server._handlers.connect
        assert isinstance(held, Held)
        here = await client.tunnel(TARGET)
        there = await held.tunnels.get()
        reader, writer = (there, here) if direction == "up" else (here, there)
        writing = asyncio.create_task(writer.write(bytes(100_000_000)))
        await until(lambda: writer.bytes_written > 1_000_000)
        for _ in range(3):
            assert await (await client.request("GET", "/")).read() == b"hello"
        assert not writing.done()
        assert writer.bytes_written < 50_000_000
        with pytest.raises(Busy):
            await writer.write(b"me too")
        for _ in range(50):
            await reader.readexactly(2_000_000)
        await writing


async def test_a_cancelled_read_loses_nothing(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there):
        reading = asyncio.create_task(here.readexactly(6))
        await there.write(b"abc")
        await until(lambda: bool(here._chunks) or there.bytes_written == 3)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await there.write(b"def")
        assert await here.readexactly(6) == b"abcdef"


async def test_a_cancelled_write_has_sent_what_it_says(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there):
        data = LARGE * 20
        writing = asyncio.create_task(here.write(data))
        await until(lambda: here.bytes_written > 0 and here.id in here._connection._writers)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        taken = here.bytes_written
        assert 0 < taken < len(data)
        if here._due:  # As good as always.
            with pytest.raises(LocalProtocolError, match="cancelled write"):
                await here.finish()
        rest = asyncio.create_task(here.write(data[taken:]))
        assert await there.readexactly(len(data)) == data
        await rest
        await here.finish()
        assert await there.read() == b""


async def test_a_tunnel_that_is_not_answered_can_be_cancelled(certificates: Certificates) -> None:
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async with served(certificates, hello, connect=handler) as (_, client):
        opening = asyncio.create_task(_opened(client))
        await asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await given_up.wait()
        assert not client._responses
        assert (await client.request("GET", "/")).status == 200


async def _opened(client: http.Client) -> Tunnel:
    return await client.tunnel(TARGET)


async def test_a_hundred_tunnels_at_once(certificates: Certificates) -> None:
    async with nothing_left(), served(certificates, hello, connect=echo) as (_, client):

        async def use(number: int) -> None:
            async with client.tunnel(TARGET) as tunnel:
                data = b"%d" % number * 10_000
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(tunnel.write(data))
                    assert await tunnel.readexactly(len(data)) == data
                await tunnel.finish()
                assert await tunnel.read() == b""

        # More than the server allows at once: the others wait for their turn.
        await asyncio.gather(*map(use, range(100)))
        assert not client._tunnels
        assert not client.http3._h3._stream.keys() - set(range(3, 100, 4))  # type: ignore[attr-defined]


# The end of the connection --------------------------------------------------------------------------------------------


async def test_a_server_that_drains_lets_tunnels_end(certificates: Certificates) -> None:
    async with served(certificates, hello, connect=echo) as (server, client):
        tunnel = await client.tunnel(TARGET)
        closing = asyncio.create_task(server.close(drain=30))
        await until(lambda: client._goaway is not None)
        with pytest.raises(RequestRejected):
            await client.tunnel(TARGET)
        await tunnel.write(b"still")
        assert await tunnel.readexactly(5) == b"still"
        await tunnel.finish()
        assert await tunnel.read() == b""
        await closing


async def test_tunnels_end_with_their_connection(certificates: Certificates) -> None:
    async with served(certificates, hello, connect=Held()) as (server, client):
        tunnel = await client.tunnel(TARGET)
        reading = asyncio.create_task(tunnel.read())
        await until(lambda: tunnel.id in client.connection._readers)
        await server.close()
        with pytest.raises((ConnectionClosed, StreamReset)):
            await reading


async def test_a_client_that_closes_gives_its_tunnels_up(certificates: Certificates) -> None:
    async with nothing_left(), served(certificates, hello, connect=echo) as (_, client):
        tunnel = await client.tunnel(TARGET)
        reading = asyncio.create_task(tunnel.read())
        await until(lambda: tunnel.id in client.connection._readers)
        await client.close()
        with pytest.raises((ConnectionClosed, LocalProtocolError)):
            await reading
        assert not client._tunnels


# With aioquic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [CONNECT, extended()], ids=["plain", "extended"])
async def test_a_client_of_others_has_tunnels(certificates: Certificates, headers: Fields) -> None:
    async with (
        served(certificates, hello, connect=echo, protocols={"chat": echo}) as (server, _),
        other_client(certificates, server) as other,
    ):
        stream = other.ask(headers, end=False)
        await until(lambda: bool(other.answers[stream].headers))
        assert other.answers[stream].status == 200
        other.h3.send_data(stream, LARGE, end_stream=False)
        other.transmit()
        await until(lambda: len(other.answers[stream].received) == len(LARGE))
        assert other.answers[stream].content == LARGE
        other.h3.send_data(stream, b"", end_stream=True)
        other.transmit()
        await other.answer(stream)
        assert other.answers[stream].reset is None
        assert other.answers[stream].stopped is None


@pytest.mark.parametrize("protocol", [None, "chat"])
async def test_a_server_of_others_has_tunnels(certificates: Certificates, protocol: str | None) -> None:
    authority = None if protocol else TARGET
    names = [b":method", b":protocol", b":scheme", b":authority", b":path"] if protocol else [b":method", b":authority"]
    async with (
        other_server(certificates) as (servers, port),
        http.connect("127.0.0.1", port, verify=certificates.ca, migration=None) as client,
    ):
        await client.tunnel(authority, protocol=protocol)
        # RFC 9110 §9.3.6: what the answer says of a length is to be ignored.
        servers[0].answer = [(b":status", b"200"), (b"content-length", b"5")]
        async with client.tunnel(authority, protocol=protocol, headers={"x": "y"}) as tunnel:
            sending = asyncio.create_task(tunnel.write(LARGE))
            assert await tunnel.readexactly(len(LARGE)) == LARGE
            await sending
            await tunnel.finish()
            assert await tunnel.read() == b""
        assert [name for name, _ in servers[0].asked[tunnel.id]] == [*names, b"x"]


@pytest.mark.parametrize("frame", [FrameType.HEADERS, FrameType.SETTINGS, FrameType.DATA])
async def test_what_is_no_data_within_a_tunnel_ends_the_connection(certificates: Certificates, frame: int) -> None:
    seen: list[BaseException] = []

    async def handler(request: Request) -> None:
        tunnel = await request.accept()
        try:
            await tunnel.read()
        except RemoteProtocolError as error:
            seen.append(error)
            raise

    async with (
        served(certificates, hello, connect=handler) as (server, _),
        other_client(certificates, server) as other,
    ):
        stream = other.ask(CONNECT, end=False)
        await until(lambda: bool(other.answers[stream].headers))
        match frame:
            case FrameType.HEADERS:
                other.h3.send_headers(stream, [(b"a", b"b")], end_stream=True)
                other.transmit()
            case FrameType.SETTINGS:
                other.send(stream, encode_frame(frame, b""))
            case FrameType.DATA:
                other.send(stream, encode_uint_var(frame) + encode_uint_var(10) + b"half", end=True)
        expected = ErrorCode.H3_FRAME_ERROR if frame == FrameType.DATA else ErrorCode.H3_FRAME_UNEXPECTED
        assert await other.failure() == expected
        await until(lambda: bool(seen))


async def test_unknown_frames_within_a_tunnel_are_skipped(certificates: Certificates) -> None:
    async with (
        served(certificates, hello, connect=echo) as (server, _),
        other_client(certificates, server) as other,
    ):
        stream = other.ask(CONNECT, end=False)
        await until(lambda: bool(other.answers[stream].headers))
        other.send(stream, encode_frame(0x21, b"grease"))
        other.h3.send_data(stream, b"x", end_stream=True)
        other.transmit()
        assert (await other.answer(stream)).content == b"x"


async def test_a_client_of_others_resets(certificates: Certificates) -> None:
    async with (
        served(certificates, hello, connect=Held()) as (server, _),
        other_client(certificates, server) as other,
    ):
        held = server._handlers.connect
        assert isinstance(held, Held)
        stream = other.ask(CONNECT, b"before", end=False)
        tunnel = await held.tunnels.get()
        assert await tunnel.readexactly(6) == b"before"
        _reset(other, stream)
        with pytest.raises(StreamReset, match="H3_CONNECT_ERROR") as reset:
            await tunnel.read()
        assert reset.value.code == ErrorCode.H3_CONNECT_ERROR
        tunnel.cancel()
        assert (await other.answer(stream)).reset == ErrorCode.H3_CONNECT_ERROR


def _reset(other: OtherClient, stream: int) -> None:
    other._quic.reset_stream(stream, ErrorCode.H3_CONNECT_ERROR)
    other.transmit()
