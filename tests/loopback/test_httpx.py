"""The transport for httpx's asynchronous client: what its callers may count on, over HTTP/3."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.loopback.httpx_peers import settled, silent_tcp, silent_udp
from tests.loopback.support import nothing_left, turns, until
from whimbrel import InsecureWarning, Limits, http
from whimbrel.http import ErrorCode, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import ModuleType
    from typing import Unpack

    from tests.loopback.support import Certificates
    from whimbrel.http._httpx import TransportOptions

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 8000


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


@asynccontextmanager
async def served(
    certificates: Certificates, handler: http.Handler, **options: Unpack[http.ServeOptions]
) -> AsyncIterator[tuple[http.Server, str]]:
    """A server of ours, and its URL."""
    async with http.serve(handler, "127.0.0.1", cert=certificates.pair, **options) as server:
        yield server, f"https://127.0.0.1:{server.addresses[0][1]}/"


def client(certificates: Certificates, timeout: object = 20, **options: Unpack[TransportOptions]) -> httpx.AsyncClient:
    """A client of httpx over a transport of ours."""
    options.setdefault("verify", certificates.ca)
    transport = http.AsyncTransport(**options)
    return httpx.AsyncClient(transport=transport, timeout=timeout)  # type: ignore[arg-type]


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


# Requests and responses -----------------------------------------------------------------------------------------------


async def test_each_library_gets_its_own_kind_of_response(certificates: Certificates, library: Any) -> None:
    async with nothing_left(), served(certificates, hello) as (_, url):
        transport = http.AsyncTransport(verify=certificates.ca)
        assert isinstance(transport, library.AsyncBaseTransport)
        async with library.AsyncClient(transport=transport) as client:
            response = await client.get(url)
            assert isinstance(response, library.Response)
            assert (response.status_code, response.text, response.http_version) == (200, "hello", "HTTP/3")
            assert response.headers["content-type"] == "text/plain"
            with pytest.raises(library.UnsupportedProtocol):
                await client.get("gopher://127.0.0.1/")


async def test_a_request_arrives_as_it_was_made(certificates: Certificates) -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> None:
        seen.append(request)
        await request.respond(200, (), await request.read())

    async with served(certificates, handler) as (_, url), client(certificates) as asks:
        headers = [("X", "1"), ("x", "2"), ("Host", "elsewhere.example"), ("Connection", "x-hop"), ("X-Hop", "3")]
        response = await asks.patch(f"{url}a%20b?c=d%2Fe&f", headers=headers, content="content")
        assert response.text == "content"
        (one,) = seen
        assert (one.method, one.target, one.authority) == ("PATCH", "/a%20b?c=d%2Fe&f", "elsewhere.example")
        assert one.headers.get_all("x") == ["1", "2"]
        assert one.headers["content-length"] == "7"
        assert not {"connection", "x-hop", "host", "transfer-encoding"} & set(one.headers)


@pytest.mark.parametrize("kind", ["bytes", "pieces", "form", "files", "empty"])
async def test_content_of_every_kind_goes_up_and_comes_back(certificates: Certificates, kind: str) -> None:
    contents: dict[str, dict[str, Any]] = {
        "bytes": {"content": LARGE},
        "pieces": {"content": pieces_of(LARGE)},
        "form": {"data": {"a": "b c"}},
        "files": {"files": {"file": ("name", LARGE)}},
        "empty": {"content": b""},
    }
    async with served(certificates, echo) as (_, url), client(certificates) as asks:
        response = await asks.post(url, **contents[kind])
        if kind in ("bytes", "pieces"):
            assert response.content == LARGE
        elif kind == "files":
            assert LARGE in response.content
        else:
            assert response.content == (b"a=b+c" if kind == "form" else b"")


async def test_content_streams_both_ways_at_once(certificates: Certificates) -> None:
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def conversation() -> AsyncIterator[bytes]:
        for word in (b"one", b"two", b"three"):
            yield word
            assert await answers.get() == word  # Only now the next.

    async with (
        served(certificates, echo) as (_, url),
        client(certificates) as asks,
        asks.stream("POST", url, content=conversation()) as response,
    ):
        async for piece in response.aiter_raw():
            answers.put_nowait(piece)


async def test_trailers_come_with_the_end_of_the_content(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.respond(200, (), b"content", trailers=[("checksum", "1"), ("checksum", "2")])

    async with (
        served(certificates, handler) as (_, url),
        client(certificates) as asks,
        asks.stream("GET", url) as response,
    ):
        assert "trailers" not in response.extensions
        await response.aread()
        assert response.extensions["trailers"] == [(b"checksum", b"1"), (b"checksum", b"2")]


async def test_a_response_tells_its_path(certificates: Certificates) -> None:
    async with served(certificates, hello) as (server, url), client(certificates) as asks:
        carrier = (await asks.get(url)).extensions["whimbrel"]
        assert carrier.path.remote == server.addresses[0]
        assert carrier.path.validated
        assert carrier.moves == ()


async def test_redirects_and_cookies_are_followed_as_httpx_does(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        if request.path == "/":
            await request.respond(303, [("location", "/next"), ("set-cookie", "a=b"), ("set-cookie", "c=d")])
        else:
            await request.respond(200, (), f"{request.method} {request.headers.get_all('cookie')}".encode())

    async with served(certificates, handler) as (_, url), client(certificates) as asks:
        response = await asks.post(url, content=b"x", follow_redirects=True)
        assert response.text == "GET ['a=b; c=d']"
        assert [step.status_code for step in response.history] == [303]


# The pool -------------------------------------------------------------------------------------------------------------


async def test_requests_to_one_origin_share_a_connection(certificates: Certificates) -> None:
    all_there = asyncio.Barrier(10)

    async def handler(request: Request) -> None:
        await all_there.wait()
        await request.respond(200)

    async with served(certificates, handler) as (server, url), client(certificates) as asks:
        await asyncio.gather(*(asks.get(url) for _ in range(10)))
        assert len(server.connections) == 1
        assert server.stats().accepted == 1


async def test_an_idle_connection_is_closed_in_time(certificates: Certificates) -> None:
    async with (
        served(certificates, hello) as (server, url),
        client(certificates, limits=httpx.Limits(keepalive_expiry=0.05)) as asks,
    ):
        await asks.get(url)
        await until(lambda: not server.connections)
        assert (await asks.get(url)).status_code == 200


async def test_of_many_idle_connections_the_oldest_are_closed(certificates: Certificates) -> None:
    async with (
        served(certificates, hello) as (first, one),
        served(certificates, hello) as (second, other),
        client(certificates, limits=httpx.Limits(max_keepalive_connections=1)) as asks,
    ):
        await asks.get(one)
        await asks.get(other)
        await until(lambda: not first.connections)
        assert len(second.connections) == 1


async def test_a_connection_that_said_goaway_is_replaced(certificates: Certificates) -> None:
    going = asyncio.Event()

    async def handler(request: Request) -> None:
        await request.start(200)
        await request.write(b"begun")
        if request.path == "/first":
            await going.wait()
        await request.finish()

    async with served(certificates, handler) as (server, url), client(certificates) as asks:
        async with asks.stream("GET", url + "first") as first:
            (session,) = server._sessions
            leaving = asyncio.create_task(session.leave(20.0))
            await until(lambda: session._last is not None)
            assert (await asks.get(url)).text == "begun"
            assert server.stats().accepted == 2
            going.set()
            assert await first.aread() == b"begun"
        await leaving
        await until(lambda: len(server.connections) == 1)


async def test_a_connection_that_died_is_replaced(certificates: Certificates) -> None:
    async with served(certificates, hello) as (server, url), client(certificates) as asks:
        assert (await asks.get(url)).status_code == 200
        (session,) = server._sessions
        (pooled,) = asks._transport._pool._standing.values()  # type: ignore[attr-defined]
        await session.connection.close(ErrorCode.H3_NO_ERROR)
        await pooled.client.connection.wait_closed()
        assert (await asks.get(url)).status_code == 200
        assert server.stats().accepted == 2


@pytest.mark.parametrize("content", ["none", "bytes", "pieces"])
async def test_a_request_that_was_surely_not_looked_at_is_sent_again(certificates: Certificates, content: str) -> None:
    """As long as there is still all of it: what comes from a generator comes once."""
    came: list[bytes] = []

    async def handler(request: Request) -> None:
        came.append(await request.read())
        if len(came) == 1:
            request.abort(ErrorCode.H3_REQUEST_REJECTED)
        else:
            await request.respond(200)

    contents: dict[str, Any] = {"none": None, "bytes": b"content", "pieces": pieces_of(b"content")}
    async with served(certificates, handler) as (server, url), client(certificates) as asks:
        asking = asks.post(url, content=contents[content])
        if content == "pieces":
            with pytest.raises(httpx.RemoteProtocolError, match="rejected"):
                await asking
            assert came == [b"content"]
        else:
            assert (await asking).status_code == 200
            assert came == [b"" if content == "none" else b"content"] * 2
            assert server.stats().accepted == 2  # Where it was refused, it might be refused again.


async def test_a_request_that_is_always_refused_fails(certificates: Certificates) -> None:
    count = 0

    async def handler(request: Request) -> None:
        nonlocal count
        count += 1
        request.abort(ErrorCode.H3_REQUEST_REJECTED)

    async with served(certificates, handler) as (_, url), client(certificates) as asks:
        with pytest.raises(httpx.RemoteProtocolError, match="rejected"):
            await asks.get(url)
        assert count == 3


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_may_have_been_carried_out_is_not_sent_again(
    certificates: Certificates, method: str
) -> None:
    count = 0

    async def handler(request: Request) -> None:
        nonlocal count
        count += 1
        await request.connection.close(ErrorCode.H3_INTERNAL_ERROR, "it went wrong")

    async with served(certificates, handler) as (_, url), client(certificates) as asks:
        with pytest.raises(httpx.RemoteProtocolError, match="it went wrong"):
            await asks.request(method, url, content=b"x")
        assert count == 1


# Failures and time limits ---------------------------------------------------------------------------------------------


async def test_failures_are_httpx_own(certificates: Certificates, library: Any) -> None:
    async def handler(request: Request) -> None:
        if request.path == "/reset":
            request.abort()
        await request.start(200, {"content-length": "10"})
        await request.write(b"half")
        if request.path == "/closed":
            await asyncio.sleep(0)
            await request.connection.close(ErrorCode.H3_INTERNAL_ERROR, "it went wrong")
        request.abort()

    async with (
        served(certificates, handler) as (_, url),
        library.AsyncClient(transport=http.AsyncTransport(verify=certificates.ca)) as asks,
    ):
        for path in ("reset", "half", "closed"):
            with pytest.raises(library.RemoteProtocolError) as caught:
                await asks.get(url + path)
            assert caught.value.request.url == url + path
            assert caught.value.__cause__ is not None
        with pytest.raises(library.LocalProtocolError, match="line end"):
            await asks.get(url, headers={"x": "a\r\nb"})


async def test_a_certificate_that_is_not_trusted_is_no_reason_to_use_tcp_in_silence(
    certificates: Certificates, issue: Callable[..., Certificates], library: Any
) -> None:
    other = issue("127.0.0.1")
    async with (
        served(certificates, hello) as (_, url),
        library.AsyncClient(transport=http.AsyncTransport(verify=other.ca)) as asks,
    ):
        with pytest.raises(library.ConnectError, match="issuer"):
            await asks.get(url)


async def test_a_name_that_does_not_exist_is_told(library: Any) -> None:
    async with library.AsyncClient(transport=http.AsyncTransport()) as asks:
        with pytest.raises(library.ConnectError, match=r"over QUIC: .*cannot find"):
            await asks.get("https://does-not-exist.invalid/")


async def test_half_a_response_is_never_taken_for_the_whole(certificates: Certificates) -> None:
    """Its length is not known, and the connection ends while nobody reads."""

    async def handler(request: Request) -> None:
        await request.start(200)
        await request.write(b"half")
        await asyncio.Event().wait()

    async with served(certificates, handler) as (server, url), client(certificates) as asks:
        async with asks.stream("GET", url) as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == b"half"
            (session,) = server._sessions
            (pooled,) = asks._transport._pool._standing.values()  # type: ignore[attr-defined]
            await session.connection.close(ErrorCode.H3_NO_ERROR)
            await until(lambda: not asks._transport._pool._standing)  # type: ignore[attr-defined]
            await turns()
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(pieces)
        await until(lambda: pooled not in asks._transport._pool._leaving)  # type: ignore[attr-defined]


async def test_certificates_that_are_not_verified_are_warned_of_once(certificates: Certificates) -> None:
    async with served(certificates, hello) as (_, url):
        with pytest.warns(InsecureWarning) as warned:
            asks = client(certificates, verify=False)
        assert [warning.filename for warning in warned] == [__file__]
        async with asks:
            assert (await asks.get(url)).status_code == 200


def test_another_kind_of_loop_is_refused_clearly() -> None:
    trio = pytest.importorskip("trio")

    async def ask() -> None:
        async with httpx.AsyncClient(transport=http.AsyncTransport()) as asks:
            await asks.get("https://localhost/")

    with pytest.raises(RuntimeError, match="asyncio"):
        trio.run(ask)


@pytest.mark.parametrize("where", ["head", "content"])
async def test_silence_is_a_read_timeout(certificates: Certificates, where: str, library: Any) -> None:
    given_up = asyncio.Event()

    async def handler(request: Request) -> None:
        try:
            if where == "content":
                await request.start(200)
                await request.write(b"begun")
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async with served(certificates, handler) as (server, url):
        transport = http.AsyncTransport(verify=certificates.ca)
        async with library.AsyncClient(transport=transport, timeout=library.Timeout(20, read=0.1)) as asks:
            with pytest.raises(library.ReadTimeout, match=r"within 0\.1 s"):
                await asks.get(url)
            await given_up.wait()  # The server was told.
            assert len(server.connections) == 1  # And the connection is not to blame.


async def test_a_slow_source_is_not_a_slow_server(certificates: Certificates) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0.15)  # It is time that is tested.
            yield b"x"

    async def handler(request: Request) -> None:
        await request.respond(200, (), await request.read())

    timeout = httpx.Timeout(20, read=0.1, write=0.1)
    async with served(certificates, handler) as (_, url), client(certificates, timeout) as asks:
        assert (await asks.post(url, content=slowly())).text == "xxx"


async def test_a_server_that_reads_no_more_is_a_write_timeout(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await asyncio.Event().wait()

    timeout = httpx.Timeout(20, write=0.2)
    async with served(certificates, handler) as (_, url), client(certificates, timeout) as asks:
        with pytest.raises(httpx.WriteTimeout):
            await asks.post(url, content=bytes(40_000_000))


@pytest.mark.parametrize("short_of", ["connections", "streams"])
async def test_no_room_is_a_pool_timeout(certificates: Certificates, short_of: str) -> None:
    all_there, done = asyncio.Barrier(4), asyncio.Event()

    async def handler(request: Request) -> None:
        await all_there.wait()
        await done.wait()
        await request.respond(200)

    timeout = httpx.Timeout(20, pool=0.1)
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    async with (
        # Three, since HTTP/3 needs as many of its own.
        served(certificates, handler, limits=Limits(max_streams=3)) as (_, one),
        served(certificates, hello) as (_, other),
        client(certificates, timeout, limits=limits) as asks,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(3):
            tasks.create_task(asks.get(one))
        await all_there.wait()
        with pytest.raises(httpx.PoolTimeout):
            await asks.get(other if short_of == "connections" else one)
        done.set()
        # With room again, there is no reason to fail.
        asks.timeout = httpx.Timeout(20)
        assert (await asks.get(other)).status_code == 200


async def test_nobody_there_is_a_connect_timeout(certificates: Certificates, library: Any) -> None:
    async with silent_tcp() as silent:
        await settled()
        with silent_udp(silent.port):
            transport = http.AsyncTransport(verify=certificates.ca)
            timeout = library.Timeout(20, connect=0.5)
            async with nothing_left(), library.AsyncClient(transport=transport, timeout=timeout) as asks:
                with pytest.raises(library.ConnectTimeout):
                    await asks.get(f"https://127.0.0.1:{silent.port}/")


async def test_a_cancelled_request_is_cancelled_at_the_server(certificates: Certificates) -> None:
    here, given_up = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> None:
        if request.path == "/":
            await request.respond(200)
            return
        try:
            here.set()
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async with served(certificates, handler) as (server, url), client(certificates) as asks:
        asking = asyncio.create_task(asks.get(url + "long"))
        await here.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await given_up.wait()
        assert (await asks.get(url)).status_code == 200
        assert server.stats().accepted == 1


async def test_a_response_that_is_left_half_way_is_cancelled_at_the_server(certificates: Certificates) -> None:
    given_up = asyncio.Event()

    async def handler(request: Request) -> None:
        try:
            await request.start(200)
            while True:
                await request.write(LARGE)
        finally:
            given_up.set()

    async with served(certificates, handler) as (_, url), client(certificates) as asks:
        async with asks.stream("GET", url) as response:
            async for _ in response.aiter_raw():
                break
        await given_up.wait()


async def test_closing_ends_what_goes_on(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.start(200)
        await request.write(b"begun")
        await asyncio.Event().wait()

    async with nothing_left(), served(certificates, handler) as (server, url):
        asks = client(certificates)
        response = await asks.send(asks.build_request("GET", url), stream=True)
        await asks.aclose()
        with pytest.raises((httpx.StreamClosed, httpx.TransportError, RuntimeError)):
            await response.aread()
        with pytest.raises(RuntimeError, match="closed"):
            await asks._transport.handle_async_request(asks.build_request("GET", url))
        await until(lambda: not server.connections)


def test_options_that_make_no_sense_are_refused_at_once(certificates: Certificates) -> None:
    import ssl

    with pytest.raises(TypeError, match=r"ssl\.SSLContext"):
        http.AsyncTransport(verify=ssl.create_default_context())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="head_start"):
        http.AsyncTransport(head_start=-1)
    with pytest.raises(FileNotFoundError):
        http.AsyncTransport(verify="/does/not/exist.pem")


# Without httpx --------------------------------------------------------------------------------------------------------

WITHOUT = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name in ("httpx", "httpx2"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
import importlib.util
importlib.util.find_spec = lambda name, package=None: None
import whimbrel.http
assert "httpx" not in sys.modules
try:
    whimbrel.http.AsyncTransport
except ModuleNotFoundError as error:
    print(error)
"""


def test_only_the_transports_need_httpx() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], check=False, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "whimbrel's transports need httpx: pip install 'whimbrel[httpx]'\n"
