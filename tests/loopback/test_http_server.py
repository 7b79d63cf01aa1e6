"""HTTP/3 applications: what handlers see and send, and how requests, answers and connections end."""

from __future__ import annotations

import asyncio
import io
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, encode_frame

from tests.loopback.http_peers import other_client, request, served
from tests.loopback.support import nothing_left, turns, until
from whimbrel import (
    ConnectionClosed,
    Limits,
    LocalProtocolError,
    RemoteProtocolError,
    SessionStore,
    StreamReset,
    http,
)
from whimbrel.http import BodyTooShort, ErrorCode, FilePart, Request, RequestRejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 8000  # 2 MB, not a multiple of any buffer's size.


async def hello(request: Request) -> None:
    await request.respond(200, {"content-type": "text/plain"}, b"hello")


async def echo(request: Request) -> None:
    await request.start(200)
    async for chunk in request:
        await request.write(chunk)
    await request.finish(request.trailers)


async def pieces_of(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 300_000):
        yield data[start : start + 300_000]


# What handlers see and send -------------------------------------------------------------------------------------------


async def test_a_handler_sees_what_was_asked(certificates: Certificates) -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> None:
        seen.append(request)
        assert await request.read() == b"content"
        await request.respond(200)

    async with served(certificates, handler) as (server, client):
        headers = [("Accept", "*/*"), ("x", "1"), ("x", "2")]
        await client.request("POST", "/a%20b?c=d?e", headers=headers, body=b"content", trailers={"t": "u"})
        (one,) = seen
        assert (one.method, one.scheme, one.authority) == ("POST", "https", client.authority)
        assert (one.target, one.path, one.query) == ("/a%20b?c=d?e", "/a%20b", "c=d?e")
        assert one.headers["accept"] == "*/*"
        assert one.headers.get_all("x") == ["1", "2"]
        assert dict(one.trailers) == {"t": "u"}
        assert one.client == client.connection.path.local
        (connection,) = server.connections
        assert one.connection is connection


@pytest.mark.parametrize(
    "kind", ["bytes", "bytearray", "memoryview", "pieces", "stream", "file", "rest of file", "part"]
)
async def test_content_of_every_kind_arrives_whole(certificates: Certificates, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LARGE)

    async def handler(request: Request) -> None:
        with (tmp_path / "file").open("rb") as file:
            if kind == "rest of file":
                file.seek(1000)
            contents: dict[str, http.Content] = {
                "bytes": LARGE,
                "bytearray": bytearray(LARGE),
                "memoryview": memoryview(LARGE),
                "pieces": pieces_of(LARGE),
                "stream": io.BytesIO(LARGE),
                "file": file,
                "rest of file": file,
                "part": FilePart(file.fileno(), 1000, 500_000),
            }
            await request.respond(200, {}, contents[kind])

    expected = {"rest of file": LARGE[1000:], "part": LARGE[1000:501_000]}.get(kind, LARGE)
    async with served(certificates, handler) as (_, client):
        response = await client.request("GET", "/")
        assert await response.read() == expected
        length = response.headers.get("content-length")
        assert length == (None if kind in ("pieces", "stream") else str(len(expected)))
        assert "date" in response.headers


async def test_an_answer_is_made_step_by_step(certificates: Certificates) -> None:
    """Each step arrives before the next is made: streams of events, and progress."""
    step = asyncio.Event()

    async def handler(request: Request) -> None:
        await request.start(200, {"content-type": "text/plain"})
        for word in (b"one", b"two"):
            await step.wait()
            step.clear()
            await request.write(word)
        await request.finish({"checksum": "6"})

    async with served(certificates, handler) as (_, client):
        response = await client.request("GET", "/")
        assert response.headers["content-type"] == "text/plain"
        for word in (b"one", b"two"):
            step.set()
            assert await anext(response) == word
        assert await response.read() == b""
        assert dict(response.trailers) == {"checksum": "6"}


async def test_what_comes_is_sent_back_as_it_comes(certificates: Certificates) -> None:
    async with served(certificates, echo) as (_, client):
        response = await client.request("POST", "/", body=pieces_of(LARGE), trailers={"a": "b"})
        assert await response.read() == LARGE
        assert dict(response.trailers) == {"a": "b"}


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_some_answers_have_no_content(certificates: Certificates, method: str, status: int) -> None:
    async def handler(request: Request) -> None:
        await request.respond(status, {"etag": '"1"'}, b"hello", trailers={"not": "sent"})

    async with served(certificates, handler) as (server, client), other_client(certificates, server) as other:
        response = await client.request(method, "/")
        assert (response.status, response.headers["etag"]) == (status, '"1"')
        assert await response.read() == b""
        assert response.headers.get("content-length") == ("5" if method == "HEAD" else None)
        if method != "HEAD":  # It takes the length that is told for one that is promised.
            answer = await other.answer(other.ask(request(method)))
            assert (answer.status, answer.content, answer.trailers) == (status, b"", [])


async def test_interim_responses_come_first(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.inform(103, {"link": "</style.css>"})
        await request.respond(200, {}, b"done")
        with pytest.raises(LocalProtocolError):
            await request.inform(103)

    async with served(certificates, handler) as (server, client), other_client(certificates, server) as other:
        answer = await other.answer(other.ask(request()))
        assert answer.interim == [[(b":status", b"103"), (b"link", b"</style.css>")]]
        assert (answer.status, answer.content) == (200, b"done")
        response = await client.request("GET", "/")
        assert (response.status, await response.read()) == (200, b"done")


async def test_a_client_that_waits_to_be_asked_for_its_content_is_asked(certificates: Certificates) -> None:
    async with served(certificates, echo) as (server, _), other_client(certificates, server) as other:

        async def reading(request: Request) -> None:
            await request.respond(200, {}, await request.read())

        async with served(certificates, reading) as (second, _), other_client(certificates, second) as waiting:
            stream = waiting.ask(request("PUT", "/", (b"expect", b"100-continue")), end=False)
            await until(lambda: bool(waiting.answers[stream].interim))
            assert waiting.answers[stream].interim == [[(b":status", b"100")]]
            waiting.h3.send_data(stream, b"content", end_stream=True)
            waiting.transmit()
            assert (await waiting.answer(stream)).content == b"content"
        # Where an answer has begun, there is nothing to wait for.
        stream = other.ask(request("PUT", "/", (b"expect", b"100-continue")), end=False)
        await until(lambda: bool(other.answers[stream].headers))
        assert other.answers[stream].interim == []


async def test_an_early_answer_arrives_though_the_rest_of_the_request_is_not_read(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.respond(413, {}, b"too large\n")

    async with served(certificates, handler) as (server, client), other_client(certificates, server) as other:
        for _ in range(5):
            response = await client.request("PUT", "/", body=bytes(30_000_000))
            assert (response.status, await response.read()) == (413, b"too large\n")
        stream = other.ask(request("PUT"), bytes(100_000), end=False)
        answer = await other.answer(stream)
        assert (answer.status, answer.content) == (413, b"too large\n")
        # RFC 9114 §4.1: it is no error of the client's.
        await until(lambda: answer.stopped is not None)
        assert answer.stopped == ErrorCode.H3_NO_ERROR


@pytest.mark.parametrize("wrong", ["status", "interim", "header", "connection", "length", "twice", "late"])
async def test_an_answer_that_http_does_not_allow_is_the_handlers_mistake(
    certificates: Certificates, wrong: str
) -> None:
    raised: list[LocalProtocolError] = []

    async def handler(request: Request) -> None:
        try:
            match wrong:
                case "status":
                    await request.respond(1000)
                case "interim":
                    await request.start(100)
                case "header":
                    await request.respond(200, {"a b": "c"})
                case "connection":
                    await request.respond(200, {"transfer-encoding": "chunked"})
                case "length":
                    await request.respond(200, {"content-length": "five"})
                case "twice":
                    await request.respond(200)
                    await request.respond(200)
                case "late":
                    await request.write(b"before the start")
        except LocalProtocolError as error:
            raised.append(error)
        if request.status is None:
            await request.respond(500)

    async with served(certificates, handler) as (_, client):
        response = await client.request("GET", "/")
        assert response.status == (200 if wrong == "twice" else 500)
        assert len(raised) == 1


async def test_what_came_early_is_done_at_once_only_where_it_does_no_harm(certificates: Certificates) -> None:
    """A copy of it may come, so what changes something waits for the end of the handshake (RFC 8470)."""
    was_early: dict[str, tuple[bool, bool]] = {}

    async def handler(request: Request) -> None:
        was_early[request.method] = request.early, request.connection._core.is_connected()
        await request.respond(200)

    async with http.serve(handler, "127.0.0.1", cert=certificates.pair, early_data=True) as server:
        port, sessions = server.addresses[0][1], SessionStore()
        for method in ("HEAD", "GET", "PUT"):  # The first has no ticket yet.
            async with http.connect(
                "127.0.0.1", port, verify=certificates.ca, migration=None, sessions=sessions, early_data=True
            ) as client:
                assert (await client.request(method, "/")).status == 200
                await turns(20)  # The next ticket is on its way.
        # Whether a GET is answered before the handshake is complete, is a matter of microseconds here.
        assert was_early.pop("GET")[0]
        assert was_early == {"HEAD": (False, True), "PUT": (True, True)}


# How it goes wrong ----------------------------------------------------------------------------------------------------


async def test_a_handler_that_fails_early_is_answered_for(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> None:
        if request.path == "/fail":
            raise ZeroDivisionError("by the handler")
        if request.path == "/good":
            await hello(request)

    async with served(certificates, handler) as (_, client):
        assert (await client.request("GET", "/fail")).status == 500
        assert "ZeroDivisionError: by the handler" in caplog.text
        assert (await client.request("GET", "/silent")).status == 500
        assert "without an answer" in caplog.text
        assert (await client.request("GET", "/good")).status == 200


@pytest.mark.parametrize("how", ["exception", "short", "long", "no finish"])
async def test_an_answer_that_breaks_off_is_never_taken_for_whole(
    certificates: Certificates, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "whimbrel")
    began = asyncio.Event()

    async def handler(request: Request) -> None:
        if request.path == "/good":
            await hello(request)
            return
        await request.start(200, {} if how == "exception" else {"content-length": "10"})
        await request.write(b"12345")
        await began.wait()
        match how:
            case "exception":
                raise ZeroDivisionError
            case "short":
                with pytest.raises(BodyTooShort):
                    await request.finish()
                raise BodyTooShort
            case "long":
                await request.write(b"678901")
            case "no finish":
                pass

    async with served(certificates, handler) as (server, client), other_client(certificates, server) as other:
        response = await client.request("GET", "/")
        assert await anext(response) == b"12345"
        stream = other.ask(request())
        await until(lambda: other.answers[stream].content == b"12345")
        began.set()
        with pytest.raises(StreamReset) as reset:
            await response.read()
        assert reset.value.code == ErrorCode.H3_INTERNAL_ERROR
        assert (await other.answer(stream)).reset == ErrorCode.H3_INTERNAL_ERROR
        assert (await client.request("GET", "/good")).status == 200
        assert (await other.answer(other.ask(request("GET", "/good")))).content == b"hello"


async def test_a_client_that_gives_up_cancels_the_handler(certificates: Certificates) -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> None:
        if request.path == "/good":
            await hello(request)
            return
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with served(certificates, handler) as (server, client), other_client(certificates, server) as other:
        asking = asyncio.create_task(client.request("GET", "/"))
        await running.wait()
        asking.cancel()
        await cancelled.wait()
        with suppress(asyncio.CancelledError):
            await asking
        assert (await client.request("GET", "/good")).status == 200
        cancelled.clear()
        running.clear()
        stream = other.ask(request())
        await running.wait()
        other._quic.stop_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
        other.transmit()
        await cancelled.wait()


async def test_a_client_that_stops_listening_cancels_a_handler_that_writes(certificates: Certificates) -> None:
    ended: list[type[BaseException]] = []

    async def handler(request: Request) -> None:
        try:
            await request.start(200)
            while True:
                await request.write(bytes(100_000))
        except BaseException as error:
            ended.append(type(error))
            raise

    async with served(certificates, handler) as (_, client):
        async with await client.request("GET", "/") as response:
            await anext(response)
        await until(lambda: bool(ended))
        assert ended == [asyncio.CancelledError]


async def test_a_request_that_breaks_off_ends_the_handlers_reading(certificates: Certificates) -> None:
    running = asyncio.Event()
    seen: list[BaseException] = []

    async def handler(request: Request) -> None:
        running.set()
        try:
            await request.read()
        except StreamReset as error:
            seen.append(error)
            raise

    async with served(certificates, handler) as (server, _), other_client(certificates, server) as other:
        stream = other.ask(request("PUT"), b"half", end=False)
        await running.wait()
        other._quic.reset_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
        other.transmit()
        assert (await other.answer(stream)).reset == ErrorCode.H3_REQUEST_CANCELLED
        assert len(seen) == 1


async def test_cancelled_requests_leave_room_for_others(certificates: Certificates) -> None:
    """More of them than one client may have at once."""

    async def handler(request: Request) -> None:
        await request.start(200)
        if request.path == "/endless":
            while True:
                await request.write(bytes(10_000))

    async with served(certificates, handler, limits=Limits(max_streams=8)) as (_, client):
        for _ in range(50):
            async with asyncio.timeout(10):
                response = await client.request("GET", "/endless")
            await anext(response)
            await response.close()
        async with asyncio.timeout(10):
            assert (await client.request("GET", "/")).status == 200


async def test_handlers_that_go_on_after_their_answer_count(certificates: Certificates) -> None:
    """To QUIC their streams are done: without a bound of ours, one client could have any number of them at work."""
    running = most = 0
    go_on = asyncio.Event()

    async def handler(request: Request) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await request.respond(200)
        await go_on.wait()
        running -= 1

    async with served(certificates, handler, limits=Limits(max_streams=4)) as (_, client):
        for _ in range(4):
            assert (await client.request("GET", "/")).status == 200
        more = [asyncio.create_task(client.request("GET", "/")) for _ in range(4)]
        await until(lambda: len(client._responses) == 4)
        await turns(1000)
        assert running == 4
        go_on.set()
        assert [response.status for response in await asyncio.gather(*more)] == [200] * 4
        assert most == 4


# Requests that are none -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x")],
        [(b":method", b"GET"), (b":authority", b"x"), (b":path", b"/")],
        [(b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/")],
        [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")],
        request("GET", "no-slash"),
        request("GET", "*"),
        request("GET", "/a b"),
        request("G E T"),
        request("GET", "/", (b"host", b"elsewhere")),
        request("GET", "/", (b"Upper", b"case")),
        request("GET", "/", (b"connection", b"close")),
        request("GET", "/", (b"te", b"gzip")),
        request("GET", "/", (b":late", b"pseudo")),
        request("POST", "/", (b"content-length", b"5"), (b"content-length", b"6")),
        request("POST", "/", (b"content-length", b"+5")),
        [*request("CONNECT", "/")],
    ],
    ids=lambda headers: b" ".join(value for _, value in headers).decode(),
)
async def test_a_malformed_request_ends_its_stream_alone(
    certificates: Certificates, headers: list[tuple[bytes, bytes]]
) -> None:
    async with served(certificates, hello) as (server, _), other_client(certificates, server) as other:
        answer = await other.answer(other.ask(headers))
        assert answer.reset == ErrorCode.H3_MESSAGE_ERROR
        assert (await other.answer(other.ask(request()))).content == b"hello"


@pytest.mark.parametrize(("announced", "sent"), [(b"10", b"12345"), (b"3", b"12345")])
async def test_a_request_with_another_length_than_announced_is_malformed(
    certificates: Certificates, announced: bytes, sent: bytes
) -> None:
    running = asyncio.Event()
    seen: list[BaseException] = []

    async def handler(request: Request) -> None:
        running.set()
        try:
            await request.read()
        except RemoteProtocolError as error:
            seen.append(error)
            raise

    async with served(certificates, handler) as (server, _), other_client(certificates, server) as other:
        stream = other.ask(request("POST", "/", (b"content-length", announced)), end=False)
        await running.wait()
        # More than announced is noticed before the end.
        other.h3.send_data(stream, sent, end_stream=len(sent) < int(announced))
        other.transmit()
        assert (await other.answer(stream)).reset == ErrorCode.H3_MESSAGE_ERROR
        assert len(seen) == 1


async def test_a_request_may_name_its_host_in_the_old_way(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.respond(200, {}, request.authority.encode())

    async with served(certificates, handler) as (server, _), other_client(certificates, server) as other:
        headers = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b"host", b"example.org")]
        assert (await other.answer(other.ask(headers))).content == b"example.org"


async def test_a_stream_without_a_request_is_given_back(certificates: Certificates) -> None:
    async with served(certificates, hello) as (server, _), other_client(certificates, server) as other:
        stream = other.open()
        other.send(stream, encode_frame(0x21, b"grease"), end=True)
        assert (await other.answer(stream)).reset == ErrorCode.H3_REQUEST_INCOMPLETE
        stream = other.open()
        other.send(stream, b"\x01")
        other._quic.reset_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
        other.transmit()
        assert (await other.answer(stream)).reset == ErrorCode.H3_REQUEST_INCOMPLETE
        assert (await other.answer(other.ask(request()))).content == b"hello"


@pytest.mark.parametrize("how", ["long", "many", "unfinished"])
async def test_headers_that_are_too_large_are_refused(certificates: Certificates, how: str) -> None:
    async with served(certificates, hello) as (server, _), other_client(certificates, server) as other:
        if how == "unfinished":
            stream = other.open()
            other.send(stream, encode_uint_var(FrameType.HEADERS) + encode_uint_var(1 << 40) + bytes(100_000))
        else:
            # Short on the wire, and each counts 32 bytes more (RFC 9114 §4.2.2).
            many = [(b"x", b"")] * 3000 if how == "many" else [(b"x", b"y" * 40_000)] * 2
            stream = other.ask([*request(), *many])
        answer = await other.answer(stream)
        assert answer.status == 431
        assert (await other.answer(other.ask(request()))).content == b"hello"


async def test_connect_is_not_served(certificates: Certificates) -> None:
    async with served(certificates, hello) as (server, _), other_client(certificates, server) as other:
        stream = other.ask([(b":method", b"CONNECT"), (b":authority", b"example.org:443")], end=False)
        assert (await other.answer(stream)).status == 501
        assert (await other.answer(other.ask(request()))).content == b"hello"


@pytest.mark.parametrize(
    ("first", "end", "code"),
    [
        (b"\x00" + encode_frame(FrameType.SETTINGS, b""), False, ErrorCode.H3_STREAM_CREATION_ERROR),
        (b"\x01", False, ErrorCode.H3_STREAM_CREATION_ERROR),
        (b"\x02\x3f\xe1\x1f", False, ErrorCode.H3_STREAM_CREATION_ERROR),
    ],
    ids=["second control stream", "push stream", "second encoder stream"],
)
async def test_streams_that_a_client_may_not_open_end_the_connection(
    certificates: Certificates, first: bytes, end: bool, code: int
) -> None:
    async with served(certificates, hello) as (server, client), other_client(certificates, server) as other:
        await other.answer(other.ask(request()))
        other.open_unidirectional(first, end=end)
        assert await other.failure() == code
        assert (await client.request("GET", "/")).status == 200


@pytest.mark.parametrize("stream", ["_local_control_stream_id", "_local_encoder_stream_id", "_local_decoder_stream_id"])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_critical_streams_may_not_end(certificates: Certificates, stream: str, how: str) -> None:
    async with served(certificates, hello) as (server, _), other_client(certificates, server) as other:
        await other.answer(other.ask(request()))
        critical = getattr(other.h3, stream)
        if how == "end":
            other.send(critical, b"", end=True)
        else:
            other._quic.reset_stream(critical, 0)
            other.transmit()
        assert await other.failure() == ErrorCode.H3_CLOSED_CRITICAL_STREAM


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (encode_frame(FrameType.DATA, b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
        (encode_frame(FrameType.SETTINGS, b""), ErrorCode.H3_FRAME_UNEXPECTED),
        (encode_frame(FrameType.GOAWAY, b""), ErrorCode.H3_FRAME_ERROR),
        (encode_frame(FrameType.GOAWAY, b"\x04") + encode_frame(FrameType.GOAWAY, b"\x08"), ErrorCode.H3_ID_ERROR),
        (encode_frame(FrameType.MAX_PUSH_ID, b"\x08") + encode_frame(FrameType.MAX_PUSH_ID, b"\x04"), 0x108),
    ],
)
async def test_frames_that_are_wrong_on_the_control_stream_end_the_connection(
    certificates: Certificates, frame: bytes, code: int
) -> None:
    async with served(certificates, hello) as (server, _), other_client(certificates, server) as other:
        await other.answer(other.ask(request()))
        assert other.h3._local_control_stream_id is not None
        other.send(other.h3._local_control_stream_id, frame)
        assert await other.failure() == code


async def test_frames_in_the_wrong_order_end_the_connection(certificates: Certificates) -> None:
    async with served(certificates, echo) as (server, _), other_client(certificates, server) as other:
        stream = other.open()
        other.send(stream, encode_frame(FrameType.DATA, b"before the headers"))
        assert await other.failure() == ErrorCode.H3_FRAME_UNEXPECTED


async def test_a_client_that_goes_away_says_so_in_its_own_way(certificates: Certificates) -> None:
    """Its GOAWAY names a push, not a request, and any number will do (RFC 9114 §5.2)."""
    async with served(certificates, hello) as (server, _), other_client(certificates, server) as other:
        assert other.h3._local_control_stream_id is not None
        other.send(other.h3._local_control_stream_id, encode_frame(FrameType.GOAWAY, b"\x03"))
        assert (await other.answer(other.ask(request()))).content == b"hello"


# Many at once ---------------------------------------------------------------------------------------------------------


async def test_a_hundred_requests_at_once(certificates: Certificates) -> None:
    waiting: list[Request] = []

    async def handler(request: Request) -> None:
        waiting.append(request)
        await until(lambda: len(waiting) == 100)
        await request.respond(200, {}, request.target.encode() * 1000)

    async with served(certificates, handler) as (_, client):

        async def fetch(number: int) -> bytes:
            return await (await client.request("GET", f"/{number}")).read()

        assert await asyncio.gather(*map(fetch, range(100))) == [b"/%d" % n * 1000 for n in range(100)]


async def test_a_slow_reader_does_not_stop_others(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        if request.path == "/slow":
            await request.start(200)
            while True:
                await request.write(bytes(100_000))
        await request.respond(200, {}, LARGE)

    async with served(certificates, handler) as (_, client):
        slow = await client.request("GET", "/slow")
        for _ in range(5):
            assert await (await client.request("GET", "/")).read() == LARGE
        await anext(slow)
        await slow.close()


async def test_up_and_down_at_the_same_time(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        if request.method == "PUT":
            await request.respond(200, {}, str(len(await request.read())).encode())
        else:
            await request.respond(200, {}, LARGE * 5)

    async with served(certificates, handler) as (_, client):

        async def up() -> bytes:
            return await (await client.request("PUT", "/", body=LARGE * 5)).read()

        async def down() -> bytes:
            return await (await client.request("GET", "/")).read()

        assert list(await asyncio.gather(up(), down(), up(), down())) == [b"%d" % (5 * len(LARGE)), LARGE * 5] * 2


# The end --------------------------------------------------------------------------------------------------------------


async def test_a_server_that_drains_answers_what_it_began(certificates: Certificates) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> None:
        running.set()
        await go_on.wait()
        await hello(request)

    async with served(certificates, handler) as (server, client):
        asking = asyncio.create_task(client.request("GET", "/"))
        await running.wait()
        closing = asyncio.create_task(server.close(drain=30))
        await until(lambda: client._goaway is not None)
        with pytest.raises(RequestRejected):
            await client.request("GET", "/more")
        go_on.set()
        response = await asking
        assert (response.status, await response.read()) == (200, b"hello")
        await closing
        await client.connection.wait_closed()
        with pytest.raises(ConnectionClosed) as closed:
            await client.connection.open_stream()
        assert (closed.value.code, closed.value.by_peer) == (ErrorCode.H3_NO_ERROR, True)


async def test_requests_that_came_after_goaway_are_rejected_unread(certificates: Certificates) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def handler(request: Request) -> None:
        seen.append(request.path)
        running.set()
        await go_on.wait()
        await hello(request)

    async with served(certificates, handler) as (server, _), other_client(certificates, server) as other:
        first = other.ask(request("GET", "/first"))
        await running.wait()
        (session,) = (session for session in server._sessions if session._requests)
        closing = asyncio.create_task(server.close(drain=30))
        await until(lambda: session._last is not None)
        late = await other.answer(other.ask(request("GET", "/late")))
        assert late.reset == ErrorCode.H3_REQUEST_REJECTED
        go_on.set()
        assert (await other.answer(first)).content == b"hello"
        await closing
        assert await other.failure() == ErrorCode.H3_NO_ERROR
        assert seen == ["/first"]


async def test_closing_waits_no_longer_than_it_is_told(certificates: Certificates) -> None:
    cancelled = asyncio.Event()

    async def handler(request: Request) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with served(certificates, handler) as (server, client):
        asking = asyncio.create_task(client.request("GET", "/"))
        await until(lambda: any(session._requests for session in server._sessions))
        await server.close(drain=0.05)
        assert cancelled.is_set()
        with pytest.raises((ConnectionClosed, StreamReset)):
            await asking


async def test_nothing_is_left_behind(certificates: Certificates) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.Event().wait()

    async with nothing_left(), served(certificates, echo) as (server, client):
        assert await (await client.request("POST", "/", body=LARGE)).read() == LARGE
        response = await client.request("POST", "/", body=half())
        assert await anext(response) == b"half"
        assert len(server.connections) == 1
