"""HTTP/2 and HTTP/1.1 beside HTTP/3: one port, one application, one life of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import socket
import ssl
from typing import TYPE_CHECKING

import httpx
import pycurl  # type: ignore[import-untyped]
import pytest

from tests.loopback.support import nothing_left, turns, until
from tests.loopback.test_asgi import answer, content
from whimbrel import http
from whimbrel.http import asgi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.loopback.support import Certificates
    from whimbrel.http.asgi import Receive, Scope, Send

pytestmark = pytest.mark.anyio


class Application:
    """Tells of its life, and which protocol it was asked over."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for order in ("startup", "shutdown"):
                assert await receive() == {"type": f"lifespan.{order}"}
                self.story.append(order)
                scope["state"]["story"] = self.story
                await send({"type": f"lifespan.{order}.complete"})
            return
        scope["state"]["story"].append(scope["http_version"])
        assert ("whimbrel" in scope["extensions"]) == (scope["http_version"] == "3")
        if scope["path"] == "/wait":
            await self.go_on.wait()
        await answer(send, body=await content(receive))


def of_others(certificates: Certificates, *, http2: bool) -> httpx.AsyncClient:
    """A client without HTTP/3."""
    trust = ssl.create_default_context(cafile=certificates.ca)
    return httpx.AsyncClient(http2=http2, http1=not http2, verify=trust, trust_env=False)


@contextlib.asynccontextmanager
async def nothing_left_open() -> AsyncIterator[None]:
    """As `nothing_left`, of what uvloop's first server of a loop leaves open for the next."""
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1"):
        await asyncio.get_running_loop().getaddrinfo("localhost", 0)
    async with nothing_left():
        yield


@contextlib.asynccontextmanager
async def running(certificates: Certificates) -> AsyncIterator[tuple[Application, asgi.Server, str]]:
    app = Application()
    async with asgi.serve(app, "127.0.0.1", cert=certificates.pair) as server:
        yield app, server, f"https://127.0.0.1:{server.addresses[0][1]}"


async def test_one_application_answers_over_all_three(certificates: Certificates) -> None:
    async with nothing_left_open(), running(certificates) as (app, server, url):
        for http2 in (False, True):
            async with of_others(certificates, http2=http2) as client:
                response = await client.post(url, content=b"hello")
                assert (response.http_version, response.content) == ("HTTP/2" if http2 else "HTTP/1.1", b"hello")
                # RFC 7838: where clients find the same over HTTP/3.
                assert response.headers["alt-svc"] == f'h3=":{server.addresses[0][1]}"; ma=86400'
        async with http.connect(url, verify=certificates.ca, migration=None) as client3:
            assert await (await client3.request("POST", "/", body=b"hello")).read() == b"hello"
    assert app.story == ["startup", "1.1", "2", "3", "shutdown"]


async def test_curl_finds_http3_where_alt_svc_says(certificates: Certificates) -> None:
    async with running(certificates) as (app, _, url):

        def fetch(target: str, version: int) -> tuple[int, str]:
            curl, found = pycurl.Curl(), io.BytesIO()
            curl.setopt(pycurl.CAINFO, str(certificates.ca))
            curl.setopt(pycurl.URL, target)
            curl.setopt(pycurl.HTTP_VERSION, version)
            curl.setopt(pycurl.HEADERFUNCTION, found.write)
            curl.setopt(pycurl.WRITEFUNCTION, lambda _: None)
            curl.perform()
            used: int = curl.getinfo(pycurl.INFO_HTTP_VERSION)
            curl.close()
            return used, found.getvalue().decode()

        used, head = await asyncio.to_thread(fetch, url, pycurl.CURL_HTTP_VERSION_2TLS)
        assert used == pycurl.CURL_HTTP_VERSION_2_0
        announced = re.search(r'(?m)^alt-svc: h3=":(\d+)"', head)
        assert announced is not None
        there = f"https://127.0.0.1:{announced[1]}"
        used, _ = await asyncio.to_thread(fetch, there, pycurl.CURL_HTTP_VERSION_3ONLY)
        assert used == pycurl.CURL_HTTP_VERSION_3
    assert app.story == ["startup", "2", "3", "shutdown"]


async def test_answers_over_tcp_are_finished_while_a_server_drains(certificates: Certificates) -> None:
    async with running(certificates) as (app, server, url), of_others(certificates, http2=False) as client:
        asking = asyncio.create_task(client.get(url + "/wait"))
        await until(lambda: len(app.story) == 2)
        closing = asyncio.create_task(server.close(drain=60))
        await turns(20)
        app.go_on.set()
        assert (await asking).status_code == 200
        await closing
        assert app.story[-1] == "shutdown"


async def test_what_is_not_answered_in_time_is_given_up(certificates: Certificates) -> None:
    async with (
        nothing_left_open(),
        running(certificates) as (app, server, url),
        of_others(certificates, http2=False) as client,
    ):
        asking = asyncio.create_task(client.get(url + "/wait"))
        await until(lambda: len(app.story) == 2)
        await server.close()
        assert (await asking).status_code == 500


@pytest.mark.parametrize("waits", [True, False])
async def test_a_close_that_is_cancelled_closes_at_once(certificates: Certificates, waits: bool) -> None:
    app = Application()
    async with nothing_left_open(), of_others(certificates, http2=False) as client:
        server = await asgi.serve(app, "127.0.0.1", cert=certificates.pair)
        asking = asyncio.create_task(client.get(f"https://127.0.0.1:{server.addresses[0][1]}/wait"))
        await until(lambda: len(app.story) == 2)
        closing = asyncio.create_task(server.close(drain=60))
        await turns(20 if waits else 1)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert (await asking).status_code == 500


async def test_strangers_are_turned_away_over_tcp_as_well(
    certificates: Certificates, issue: Callable[..., Certificates]
) -> None:
    app, known = Application(), issue("client")
    async with asgi.serve(app, "127.0.0.1", cert=certificates.pair, client_ca=known.ca) as server:
        url = f"https://127.0.0.1:{server.addresses[0][1]}"
        async with of_others(certificates, http2=False) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(url)
        trust = ssl.create_default_context(cafile=certificates.ca)
        trust.load_cert_chain(*known.pair)
        async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
            assert (await client.get(url)).status_code == 200
    assert app.story == ["startup", "1.1", "shutdown"]


async def test_a_port_that_is_taken_over_tcp_is_told(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = Application()
        message = rf"^cannot listen on TCP 127.0.0.1:{port}: Address already in use$"
        async with nothing_left_open():
            with pytest.raises(OSError, match=message):
                await asgi.serve(app, "127.0.0.1", port, cert=certificates.pair)
        assert app.story == ["startup", "shutdown"]
        # Alone, HTTP/3 does not need it.
        async with asgi.serve(Application(), "127.0.0.1", port, cert=certificates.pair, tcp=False) as server:
            assert server.addresses == (("127.0.0.1", port),)


async def test_it_listens_on_every_address(certificates: Certificates) -> None:
    async with asgi.serve(Application(), ["127.0.0.1", "::1"], cert=certificates.pair) as server:
        for host, port in server.addresses:
            name = f"[{host}]" if ":" in host else host
            async with of_others(certificates, http2=True) as client:
                assert (await client.get(f"https://{name}:{port}")).status_code == 200
