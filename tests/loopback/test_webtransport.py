"""WebTransport sessions: streams both ways, datagrams, and how they end (draft-ietf-webtrans-http3)."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import Setting, encode_frame

from tests.loopback.http_peers import other_client, other_server, request, served
from tests.loopback.support import nothing_left, until
from tests.loopback.test_examples import shown
from whimbrel import (
    ConnectionClosed,
    LocalProtocolError,
    ReceiveStream,
    RemoteProtocolError,
    Stream,
    StreamReset,
    StreamStopped,
    http,
)
from whimbrel.http import ErrorCode, Request, TunnelRefused, WebTransportClosed, WebTransportSession
from whimbrel.http._capsules import capsule, varint
from whimbrel.http._webtransport import MAX_SESSIONS, from_http3, to_http3

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.loopback.http_peers import OtherClient
    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 8000  # 2 MB, not a multiple of any buffer's size.
SESSION = [(b":method", b"CONNECT"), (b":protocol", b"webtransport"), *request("CONNECT", "/chat")[1:]]
CLOSE = 0x2843


async def hello(request: Request) -> None:
    await request.respond(200, {}, b"hello")


async def echo(request: Request) -> None:
    """Sends back what comes: on the same stream, on one of its own, or as a datagram."""
    async with await request.accept_webtransport() as session, asyncio.TaskGroup() as tasks:

        async def answer(stream: Stream | ReceiveStream) -> None:
            data = await stream.read()
            back = stream if isinstance(stream, Stream) else await session.open_send_stream()
            async with back:
                await back.write(data)

        async def datagrams() -> None:
            with contextlib.suppress(WebTransportClosed):
                while True:
                    session.send_datagram(await session.receive_datagram())

        tasks.create_task(datagrams())
        async for stream in session.streams():
            tasks.create_task(answer(stream))


@contextlib.asynccontextmanager
async def ends(certificates: Certificates) -> AsyncIterator[tuple[WebTransportSession, WebTransportSession]]:
    """Both ends of one session, the client's first."""
    accepted: asyncio.Queue[WebTransportSession] = asyncio.Queue()
    done = asyncio.Event()

    async def handler(request: Request) -> None:
        accepted.put_nowait(await request.accept_webtransport())
        await done.wait()

    async with served(certificates, hello, protocols={"webtransport": handler}) as (_, client):
        session = await client.webtransport("/chat")
        yield session, await accepted.get()
        done.set()


# Streams and datagrams ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["client", "server"])
async def test_either_end_opens_streams_in_both_directions(certificates: Certificates, first: str) -> None:
    async with ends(certificates) as (client, server):
        one, other = (client, server) if first == "client" else (server, client)
        async with await one.open_stream() as asking:
            assert asking.bytes_written == 0
            answering = await other.accept_stream()  # It need not have any bytes yet.
            assert isinstance(answering, Stream)
            await asking.write(b"question")
            await asking.finish()
            assert await answering.read() == b"question"
            sending = asyncio.create_task(answering.write(LARGE))
            assert await asking.readexactly(len(LARGE)) == LARGE
            await sending
            await answering.finish()
            assert await asking.read() == b""
            assert (asking.bytes_written, answering.bytes_written) == (8, len(LARGE))


@pytest.mark.parametrize("first", ["client", "server"])
async def test_either_end_opens_streams_in_one_direction(certificates: Certificates, first: str) -> None:
    async with ends(certificates) as (client, server):
        one, other = (client, server) if first == "client" else (server, client)
        async with asyncio.TaskGroup() as tasks:

            async def send(number: int) -> None:
                async with await one.open_send_stream() as stream:
                    await stream.write(b"%d" % number * 1000)

            for number in range(50):
                tasks.create_task(send(number))
            received = []
            for _ in range(50):
                stream = await other.accept_stream()
                assert not isinstance(stream, Stream)
                received.append(await stream.read())
        assert sorted(received) == sorted(b"%d" % number * 1000 for number in range(50))


async def test_datagrams_go_both_ways(certificates: Certificates) -> None:
    async with ends(certificates) as (client, server):
        for one, other in ((client, server), (server, client)):
            data = b"x" * one.max_datagram_size
            one.send_datagram(data)
            assert await other.receive_datagram() == data
        assert client.datagrams_dropped == 0


async def test_sessions_are_kept_apart(certificates: Certificates) -> None:
    async with served(certificates, hello, protocols={"webtransport": echo}) as (_, client):

        async def use(number: int) -> None:
            async with client.webtransport(f"/{number}") as session:
                async with await session.open_stream() as stream:
                    await stream.write(b"%d" % number)
                    await stream.finish()
                    assert await stream.read() == b"%d" % number
                async with await session.open_send_stream() as sending:
                    await sending.write(b"%d" % number)
                assert await (await session.accept_stream()).read() == b"%d" % number
                session.send_datagram(b"%d" % number)
                assert await session.receive_datagram() == b"%d" % number

        await asyncio.gather(*map(use, range(MAX_SESSIONS)))
        assert (await client.request("GET", "/")).status == 200


async def test_what_a_server_sends_at_once_is_not_lost(certificates: Certificates) -> None:
    """Its streams may be looked at before its answer is."""

    async def handler(request: Request) -> None:
        session = await request.accept_webtransport()
        session.send_datagram(b"datagram")
        async with await session.open_send_stream() as one:
            await one.write(b"one")
        async with await session.open_stream() as both:
            await both.write(b"both")
        await session.wait_closed()

    async with served(certificates, hello, protocols={"webtransport": handler}) as (_, client):
        for _ in range(10):
            async with client.webtransport("/") as session:
                streams = [await session.accept_stream() for _ in range(2)]
                assert {await stream.read() for stream in streams} == {b"one", b"both"}
                assert await session.receive_datagram() == b"datagram"


async def test_a_handler_sees_what_was_asked(certificates: Certificates) -> None:
    seen: list[tuple[str, str | None, str]] = []

    async def handler(request: Request) -> None:
        seen.append((request.target, request.protocol, request.headers["origin"]))
        async with await request.accept_webtransport({"x": "y"}) as session:
            assert session.connection is request.connection

    async with served(certificates, hello, protocols={"webtransport": handler}) as (_, client):
        async with client.webtransport("/chat?room=1", headers={"origin": "https://example.org"}) as session:
            assert session.headers["x"] == "y"
            assert session.connection is client.connection
        assert seen == [("/chat?room=1", "webtransport", "https://example.org")]


# Giving up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 29, 30, 31, 0x52E4, (1 << 32) - 1])
def test_codes_of_the_application_are_translated_and_back(code: int) -> None:
    assert from_http3(to_http3(code)) == code
    assert (to_http3(code) - 0x21) % 0x1F != 0  # Those are reserved (RFC 9114 §8.1).


def test_codes_are_where_the_draft_says() -> None:
    assert (to_http3(0), to_http3((1 << 32) - 1)) == (0x52E4A40FA8DB, 0x52E5AC983162)
    with pytest.raises(LocalProtocolError):
        to_http3(1 << 32)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_streams_are_given_up_with_codes_of_the_application(certificates: Certificates, first: str) -> None:
    async with ends(certificates) as (client, server):
        one, other = (client, server) if first == "client" else (server, client)
        mine = await one.open_stream()
        theirs = await other.accept_stream()
        assert isinstance(theirs, Stream)
        mine.reset(1234)
        with pytest.raises(StreamReset) as reset:
            await theirs.read()
        told = asyncio.Event()
        theirs.on_stopped(told.set)
        mine.stop(5678)
        await told.wait()
        with pytest.raises(StreamStopped) as stopped:
            await theirs.write(b"x")
        assert (reset.value.code, stopped.value.code) == (1234, 5678)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_closing_tells_the_peer_why(certificates: Certificates, first: str) -> None:
    async with ends(certificates) as (client, server):
        one, other = (client, server) if first == "client" else (server, client)
        stream = await one.open_stream()
        theirs = await other.accept_stream()
        assert isinstance(theirs, Stream)
        await one.close(77, "enough " + "ä" * 1000)
        closed = await other.wait_closed()
        assert (closed.code, closed.by_peer, closed.is_clean) == (77, True, True)
        assert closed.reason.startswith("enough ä")
        assert len(closed.reason.encode()) <= 1024
        for session, by_peer in ((one, False), (other, True)):
            with pytest.raises(WebTransportClosed, match="code 77: enough") as raised:
                await session.open_stream()
            assert raised.value.by_peer == by_peer
            with pytest.raises(WebTransportClosed):
                await session.accept_stream()
            with pytest.raises(WebTransportClosed):
                session.send_datagram(b"x")
            with pytest.raises(WebTransportClosed):
                await session.receive_datagram()
        for one_end in (stream, theirs):
            with pytest.raises(WebTransportClosed, match="code 77"):
                await one_end.read()
            with pytest.raises(WebTransportClosed, match="code 77"):
                await one_end.write(b"x")


async def test_iteration_ends_quietly_when_all_is_well(certificates: Certificates) -> None:
    async with ends(certificates) as (client, server):
        await client.close()
        assert [stream async for stream in server.streams()] == []
    async with ends(certificates) as (client, server):
        await client.close(1)
        with pytest.raises(WebTransportClosed):
            _ = [stream async for stream in server.streams()]


async def test_a_handler_that_returns_closes_its_session(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        session = await request.accept_webtransport()
        stream = await session.accept_stream()
        assert await stream.read() == b"go"

    async with served(certificates, hello, protocols={"webtransport": handler}) as (_, client):
        session = await client.webtransport("/")
        async with await session.open_send_stream() as stream:
            await stream.write(b"go")
        closed = await session.wait_closed()
        assert (closed.code, closed.by_peer, closed.is_clean) == (0, True, True)
        assert not client.webtransports


async def test_a_handler_that_fails_breaks_its_session_off(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> None:
        session = await request.accept_webtransport()
        await session.accept_stream()
        raise ZeroDivisionError

    async with served(certificates, hello, protocols={"webtransport": handler}) as (_, client):
        session = await client.webtransport("/")
        stream = await session.open_stream()
        closed = await session.wait_closed()
        assert (closed.by_peer, closed.is_clean, closed.reason) == (True, False, "H3_INTERNAL_ERROR")
        with pytest.raises(WebTransportClosed, match="broke off"):
            await stream.read()
        assert "ZeroDivisionError" in caplog.text
        assert (await client.request("GET", "/")).status == 200


async def test_a_session_ends_with_its_connection(certificates: Certificates) -> None:
    async with served(certificates, hello, protocols={"webtransport": echo}) as (server, client):
        session = await client.webtransport("/")
        waiting = [asyncio.create_task(session.accept_stream()), asyncio.create_task(session.receive_datagram())]
        await asyncio.sleep(0)
        await server.close()
        for task in waiting:
            with pytest.raises((ConnectionClosed, WebTransportClosed)):
                await task
        assert not (await session.wait_closed()).is_clean


async def test_nothing_is_left_behind(certificates: Certificates) -> None:
    async with nothing_left(), served(certificates, hello, protocols={"webtransport": echo}) as (server, client):
        session = await client.webtransport("/")
        streams = [await session.open_stream() for _ in range(5)]
        for stream in streams:
            await stream.write(b"half")
        async with client.webtransport("/") as other, await other.open_stream() as stream:
            await stream.write(b"x")
        assert len(client.webtransports) == 1
        await client.close()
        assert not client.webtransports
        await until(lambda: not server.connections)


# What is not agreed on ------------------------------------------------------------------------------------------------


async def test_a_server_that_knows_no_webtransport_is_not_asked(certificates: Certificates) -> None:
    for protocols in ({}, {"chat": echo}):
        async with served(certificates, hello, protocols=protocols) as (_, client):
            with pytest.raises(TunnelRefused, match="no WebTransport") as refused:
                await client.webtransport("/")
            assert refused.value.status == 0


async def test_a_refusal_says_why(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        with pytest.raises(LocalProtocolError):
            await request.accept_webtransport({"content-length": "5"})
        await request.respond(404, {}, b"no such room\n")

    async with served(certificates, hello, protocols={"webtransport": handler}) as (_, client):
        with pytest.raises(TunnelRefused, match="404: no such room"):
            await client.webtransport("/nowhere")
        assert not client.webtransports


async def test_other_requests_are_no_sessions(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        with pytest.raises(LocalProtocolError):
            await request.accept_webtransport()
        await request.respond(200)

    async with served(certificates, handler, protocols={"webtransport": echo}) as (_, client):
        assert (await client.request("GET", "/")).status == 200


async def test_no_more_sessions_than_were_announced(certificates: Certificates) -> None:
    async with served(certificates, hello, protocols={"webtransport": echo}) as (server, client):
        sessions = [await client.webtransport("/") for _ in range(MAX_SESSIONS)]
        with pytest.raises(TunnelRefused, match="16 sessions at once"):
            await client.webtransport("/")
        await sessions.pop().close()
        await client.webtransport("/")
        # A client that asks all the same.
        async with other_client(certificates, server, datagrams=True) as other:
            streams = [other.ask(SESSION, end=False) for _ in range(MAX_SESSIONS + 1)]
            await until(lambda: sum(bool(other.answers[stream].headers) for stream in streams) == MAX_SESSIONS)
            assert (await other.answer(streams[-1])).reset == ErrorCode.H3_REQUEST_REJECTED


# With aioquic ---------------------------------------------------------------------------------------------------------


async def opened(other: OtherClient, headers: list[tuple[bytes, bytes]] = SESSION) -> int:
    """A session of the other client's."""
    session = other.ask(headers, end=False)
    await until(lambda: bool(other.answers[session].headers))
    assert other.answers[session].status == 200
    return session


@pytest.mark.parametrize(("protocols", "announced"), [({"chat": echo}, None), ({"webtransport": echo}, 1)])
async def test_webtransport_is_announced_where_it_is_served(
    certificates: Certificates, protocols: dict[str, http.Handler], announced: int | None
) -> None:
    async with (
        served(certificates, hello, protocols=protocols) as (server, _),
        other_client(certificates, server) as other,
    ):
        await other.answer(other.ask(request()))
        settings = other.h3.received_settings
        assert settings is not None
        assert settings.get(Setting.ENABLE_WEBTRANSPORT) == announced
        assert settings.get(0xC671706A) == (announced and MAX_SESSIONS)  # Draft 7's.


async def test_a_client_of_others_has_sessions(certificates: Certificates) -> None:
    async with (
        served(certificates, hello, protocols={"webtransport": echo}) as (server, _),
        other_client(certificates, server, datagrams=True) as other,
    ):
        session = await opened(other, [*SESSION, (b"sec-webtransport-http3-draft02", b"1")])
        assert other.answers[session].headers["sec-webtransport-http3-draft"] == "draft02"
        both = other.open_in_session(session, LARGE)
        await until(lambda: len(other.raw.get(both, b"")) == len(LARGE))
        assert other.raw[both] == LARGE
        one = other.h3.create_webtransport_stream(session, is_unidirectional=True)
        other.send(one, b"hello", end=True)
        await until(lambda: list(other.webtransport.values()) == [b"hello"])
        other.h3.send_datagram(session, b"hello")
        other.transmit()
        await until(lambda: other.datagrams == [(session, b"hello")])
        other.h3.send_data(session, capsule(CLOSE, bytes(4) + b"bye"), end_stream=True)
        other.transmit()
        assert (await other.answer(session)).reset is None


async def test_a_server_of_others_has_sessions(certificates: Certificates) -> None:
    async with (
        other_server(certificates) as (servers, port),
        http.connect("127.0.0.1", port, verify=certificates.ca, migration=None) as client,
        client.webtransport("/chat") as session,
    ):
        async with await session.open_stream() as stream:
            await stream.write(LARGE)
            await stream.finish()
            assert await stream.read() == LARGE
        async with await session.open_send_stream() as sending:
            await sending.write(b"hello")
        back = await session.accept_stream()
        assert await back.read() == b"hello"
        session.send_datagram(b"hello")
        assert await session.receive_datagram() == b"hello"
        (server,) = servers
        both = server.h3.create_webtransport_stream(session.id)
        server._quic.send_stream_data(both, b"from me")
        server.transmit()
        theirs = await session.accept_stream()
        assert isinstance(theirs, Stream)
        assert await theirs.readexactly(7) == b"from me"
        server.h3.send_data(session.id, capsule(0x17, bytes(100_000)) + capsule(CLOSE, b"\0\0\0\5bye"), end_stream=True)
        server.transmit()
        closed = await session.wait_closed()
        assert (closed.code, closed.reason) == (5, "bye")


async def test_a_stream_of_no_session_is_refused(certificates: Certificates) -> None:
    async with (
        served(certificates, hello, protocols={"webtransport": echo}) as (server, _),
        other_client(certificates, server, datagrams=True) as other,
    ):
        await opened(other)
        stream = other.open()
        other.send(stream, b"\x40\x41" + varint(400) + b"hello")
        answer = await other.answer(stream)
        assert answer.reset == ErrorCode.WT_BUFFERED_STREAM_REJECTED
        await until(lambda: answer.stopped is not None)
        one = other.open_unidirectional(b"\x40\x54" + varint(400) + b"hello")
        await until(lambda: other.stops.get(one) == ErrorCode.WT_BUFFERED_STREAM_REJECTED)
        assert (await other.answer(other.ask(request()))).content == b"hello"


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
async def test_an_introduction_may_come_in_pieces(certificates: Certificates, cut: int) -> None:
    async with (
        served(certificates, hello, protocols={"webtransport": echo}) as (server, _),
        other_client(certificates, server, datagrams=True) as other,
    ):
        for _ in range(20):  # So that the number of the session takes two bytes.
            await other.answer(other.ask(request()))
        session = await opened(other)
        both = other.open()
        introduction = b"\x40\x41" + varint(session)
        assert len(introduction) == 4
        other.send(both, introduction[:cut])
        await other.answer(other.ask(request()))
        other.own.add(both)
        other.send(both, introduction[cut:] + b"hello", end=True)
        await until(lambda: other.raw.get(both) == b"hello")


@pytest.mark.parametrize(
    ("kind", "wire", "code"),
    [
        ("both", b"\x40\x41" + varint(3), ErrorCode.H3_ID_ERROR),
        ("one", b"\x40\x54" + varint(2), ErrorCode.H3_ID_ERROR),
        ("late", b"\x40\x41" + varint(0), ErrorCode.H3_FRAME_ERROR),
    ],
)
async def test_introductions_that_make_no_sense_end_the_connection(
    certificates: Certificates, kind: str, wire: bytes, code: int
) -> None:
    async with (
        served(certificates, hello, protocols={"webtransport": echo}) as (server, _),
        other_client(certificates, server, datagrams=True) as other,
    ):
        session = await opened(other)
        match kind:
            case "both":
                other.send(other.open(), wire)
            case "one":
                other.open_unidirectional(wire)
            case "late":
                other.send(session, wire)
        assert await other.failure() == code


async def test_streams_of_webtransport_are_refused_where_it_was_not_announced(certificates: Certificates) -> None:
    async with (
        served(certificates, hello) as (server, _),
        other_client(certificates, server) as other,
    ):
        stream = other.open()
        other.send(stream, b"\x40\x41" + varint(0) + b"hello")
        assert (await other.answer(stream)).reset is not None
        assert (await other.answer(other.ask(request()))).content == b"hello"


@pytest.mark.parametrize(
    "wire",
    [
        capsule(CLOSE, b"abc"),
        capsule(CLOSE, bytes(4) + b"\xff"),
        capsule(CLOSE, bytes(4 + 1025)),
        varint(CLOSE) + varint(1 << 30),
        varint(CLOSE) + varint(10) + b"cut",
        varint(0x17) + varint(10) + b"cut",
        varint(CLOSE)[:1],
        capsule(CLOSE, bytes(4)) + b"more",
    ],
    ids=["short", "no UTF-8", "long", "huge", "cut", "unknown, cut", "type cut", "more"],
)
async def test_a_malformed_end_breaks_the_session_off(certificates: Certificates, wire: bytes) -> None:
    ended: asyncio.Queue[WebTransportClosed] = asyncio.Queue()

    async def handler(request: Request) -> None:
        session = await request.accept_webtransport()
        ended.put_nowait(await session.wait_closed())
        await session.connection.wait_closed()

    async with (
        served(certificates, hello, protocols={"webtransport": handler}) as (server, _),
        other_client(certificates, server, datagrams=True) as other,
    ):
        session = await opened(other)
        other.h3.send_data(session, wire, end_stream=True)
        other.transmit()
        closed = await ended.get()
        if not wire.endswith(b"more"):  # That comes when all is said.
            assert not closed.is_clean
            assert (await other.answer(session)).reset == ErrorCode.H3_MESSAGE_ERROR
        assert (await other.answer(other.ask(request()))).content == b"hello"


async def test_a_server_opens_streams_only_in_sessions(certificates: Certificates) -> None:
    async with (
        other_server(certificates) as (servers, port),
        http.connect("127.0.0.1", port, verify=certificates.ca, migration=None) as client,
    ):
        session = await client.webtransport("/")
        (server,) = servers
        stream = server._quic.get_next_available_stream_id()
        server._quic.send_stream_data(stream, encode_frame(0x21, b"grease") + encode_uint_var(0) + b"\x01x")
        server.transmit()
        with pytest.raises(RemoteProtocolError):
            await session.accept_stream()


# The page -------------------------------------------------------------------------------------------------------------


def test_what_the_page_shows_runs(certificates: Certificates) -> None:
    code = shown("docs/webtransport.md")
    assert len(code) == 3
    files = {"ca": certificates.ca, "certificate": certificates.chain, "key": certificates.key}
    given = "".join(f"{name} = {str(file)!r}\n" for name, file in files.items())
    body = textwrap.indent("".join(code), "    ")
    program = f"import asyncio\n{given}async def page_of_docs():\n{body}\nasyncio.run(page_of_docs())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "b'hello'"
    assert done.stdout.splitlines()[-2:] == ["b'HELLO'", "403 b'not to example.org:22\\n'"]
