"""The transport for httpx's blocking client: as the asynchronous one, and threads, forks and Ctrl-C besides."""

from __future__ import annotations

import asyncio
import gc
import importlib
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.loopback.httpx_peers import silent_udp, tcp_server
from tests.loopback.support import nothing_left, until
from tests.loopback.test_httpx import LARGE, served
from whimbrel import http

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType
    from typing import Unpack

    from tests.loopback.support import Certificates
    from whimbrel.http import Request
    from whimbrel.http._httpx import TransportOptions

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Of the server alone: the client has its own."""
    return "asyncio"


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def client(certificates: Certificates, timeout: object = 20, **options: Unpack[TransportOptions]) -> httpx.Client:
    options.setdefault("verify", certificates.ca)
    return httpx.Client(transport=http.Transport(**options), timeout=timeout)  # type: ignore[arg-type]


async def echo(request: Request) -> None:
    if request.path == "/hello":
        await request.respond(200, (), b"hello")
        return
    await request.start(200)
    async for chunk in request:
        await request.write(chunk)
    await request.finish({"t": "u"})


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "whimbrel-httpx"]


async def test_requests_go_over_http3(certificates: Certificates, library: Any) -> None:
    def ask(url: str) -> None:
        transport = http.Transport(verify=certificates.ca)
        assert isinstance(transport, library.BaseTransport)
        assert not threads()  # Before the first request there is nothing to be paid for.
        with library.Client(transport=transport) as asks:
            response = asks.get(url + "hello")
            assert isinstance(response, library.Response)
            assert (response.status_code, response.text, response.http_version) == (200, "hello", "HTTP/3")
            carrier = response.extensions["whimbrel"]
            assert (carrier.path.remote[0], carrier.path.validated) == ("127.0.0.1", True)
            response = asks.post(url, content=LARGE)
            assert response.content == LARGE
            assert response.extensions["trailers"] == [(b"t", b"u")]
            with asks.stream("POST", url, content=LARGE) as response:
                assert b"".join(response.iter_raw()) == LARGE
        assert not threads()
        assert carrier.path.remote[0] == "127.0.0.1"

    async with served(certificates, echo) as (_, url):
        await asyncio.to_thread(ask, url)
        async with nothing_left():
            await asyncio.to_thread(ask, url)


async def test_what_the_caller_gives_is_read_on_their_thread(certificates: Certificates) -> None:
    def ask(url: str) -> None:
        own = threading.get_ident()

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(LARGE), 300_000):
                assert threading.get_ident() == own
                yield LARGE[start : start + 300_000]

        def broken() -> Iterator[bytes]:
            yield b"x"
            raise KeyError("mine")

        with client(certificates) as asks:
            assert asks.post(url, content=pieces()).content == LARGE
            with pytest.raises(KeyError, match="mine"):
                asks.post(url, content=broken())
            assert asks.get(url + "hello").text == "hello"

    async with served(certificates, echo) as (_, url):
        await asyncio.to_thread(ask, url)


async def test_content_streams_both_ways_at_once(certificates: Certificates) -> None:
    def ask(url: str) -> None:
        has_answer = False

        def until_there_is_an_answer() -> Iterator[bytes]:
            while not has_answer:
                yield bytes(1000)

        with client(certificates) as asks:  # noqa: SIM117
            with asks.stream("POST", url, content=until_there_is_an_answer()) as response:
                for _ in response.iter_raw():
                    has_answer = True
                assert response.extensions["trailers"]

    async with served(certificates, echo) as (_, url):
        await asyncio.to_thread(ask, url)


async def test_many_threads_share_one_connection(certificates: Certificates) -> None:
    all_there = asyncio.Barrier(5)

    async def handler(request: Request) -> None:
        await all_there.wait()
        await request.respond(200, (), await request.read())

    async with served(certificates, handler) as (server, url):
        with client(certificates) as asks:
            posts = (asyncio.to_thread(asks.post, url, content=b"%d" % number) for number in range(5))
            answers = await asyncio.gather(*posts)
            await asyncio.to_thread(asks.close)
        assert [answer.content for answer in answers] == [b"%d" % number for number in range(5)]
        assert server.stats().accepted == 1


async def test_time_limits_and_failures_are_httpx_own(certificates: Certificates, library: Any) -> None:
    async def handler(request: Request) -> None:
        if request.path == "/reset":
            request.abort()
        await request.start(200)
        await request.write(b"begun")
        await asyncio.Event().wait()

    def ask(url: str) -> None:
        with library.Client(transport=http.Transport(verify=certificates.ca)) as asks:
            with pytest.raises(library.ReadTimeout):
                asks.get(url, timeout=library.Timeout(20, read=0.1))
            with pytest.raises(library.RemoteProtocolError):
                asks.get(url + "reset")
            with pytest.raises(library.ConnectError):
                asks.get("https://does-not-exist.invalid/")

    async with served(certificates, handler) as (_, url):
        await asyncio.to_thread(ask, url)


async def test_where_udp_is_blocked_tcp_answers(certificates: Certificates) -> None:
    steps: list[str] = []

    def ask(url: str) -> None:
        with client(certificates, head_start=0.05) as asks:
            extensions = {"trace": lambda step, _: steps.append(step)}
            response = asks.post(url, content=iter([b"on", b"ce"]), extensions=extensions)
            assert (response.http_version, response.content) == ("HTTP/1.1", b"once")

    async with tcp_server(certificates) as server:
        with silent_udp(server.port):
            await asyncio.to_thread(ask, f"https://127.0.0.1:{server.port}/")
        assert server.requests == [("POST", "/", b"once")]
        assert "connection.connect_tcp.complete" in steps


async def test_closing_ends_what_other_threads_wait_for(certificates: Certificates) -> None:
    here = asyncio.Event()

    async def handler(request: Request) -> None:
        here.set()
        await asyncio.Event().wait()

    async with served(certificates, handler) as (_, url):
        asks = client(certificates)
        asking = asyncio.create_task(asyncio.to_thread(asks.get, url))
        await here.wait()
        await asyncio.to_thread(asks.close)
        with pytest.raises(httpx.ReadError, match="closed"):
            await asking
        with pytest.raises(RuntimeError, match="closed"):
            asks._transport.handle_request(asks.build_request("GET", url))


async def test_a_transport_that_is_dropped_is_closed(certificates: Certificates) -> None:
    def ask(url: str) -> None:
        httpx.Client(transport=http.Transport(verify=certificates.ca)).get(url + "hello")
        gc.collect()

    async with served(certificates, echo) as (server, url):
        await asyncio.to_thread(ask, url)
        await until(lambda: not server.connections and not threads())


async def test_parent_and_child_go_on_after_a_fork(certificates: Certificates, scripts: Path) -> None:
    async with served(certificates, echo_hello) as (server, _):
        process = await started(scripts / "httpx_forking.py", certificates, server)
        output, errors = await process.communicate()
        assert (process.returncode, output, errors) == (0, b"both fine\n", b"")
        assert server.stats().accepted == 2


async def test_ctrl_c_ends_a_request_and_nothing_else(certificates: Certificates, scripts: Path) -> None:
    here, given_up = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> None:
        if request.path == "/":
            await given_up.wait()  # The server was told before the program went on.
            await request.respond(200, (), b"hello")
            return
        try:
            here.set()
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async with served(certificates, handler) as (server, _):
        process = await started(scripts / "httpx_interrupted.py", certificates, server)
        await here.wait()
        process.send_signal(signal.SIGINT)
        output, errors = await process.communicate()
        assert (process.returncode, output, errors) == (0, b"interrupted\nusable\n", b"")
        await until(lambda: not server.connections)  # The program's end has closed what it left open.


async def echo_hello(request: Request) -> None:
    await request.respond(200, (), b"hello")


async def started(script: Path, certificates: Certificates, server: http.Server) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        str(script),
        str(certificates.ca),
        str(server.addresses[0][1]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
