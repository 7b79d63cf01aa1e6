"""Which way a request goes: HTTP/3 or TCP, here or at an alternative. However that is decided, it goes once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.loopback.httpx_peers import datagrams, name_server, settled, silent_tcp, silent_udp, tcp_server
from tests.loopback.support import Relay, nothing_left, turns, until
from tests.loopback.test_httpx import client, echo, hello, served
from whimbrel import http

if TYPE_CHECKING:
    from tests.loopback.support import Certificates
    from whimbrel.http import Request
    from whimbrel.http._pool import Pool

pytestmark = pytest.mark.anyio


def pool(asks: httpx.AsyncClient) -> Pool:
    transport = asks._transport
    assert isinstance(transport, http.AsyncTransport)
    return transport._pool


# UDP is blocked -------------------------------------------------------------------------------------------------------


async def test_where_udp_is_blocked_tcp_answers_after_the_head_start(certificates: Certificates) -> None:
    async with tcp_server(certificates) as server:
        await settled()
        with silent_udp(server.port):
            async with nothing_left(), client(certificates, head_start=0.1) as asks:
                response = await asks.post(f"https://127.0.0.1:{server.port}/", content=b"once")
                assert (response.http_version, response.content) == ("HTTP/1.1", b"once")
                assert "whimbrel" not in response.extensions
                assert response.elapsed.total_seconds() >= 0.1
                assert server.requests == [("POST", "/", b"once")]


async def test_that_udp_is_blocked_is_remembered_for_this_network(certificates: Certificates) -> None:
    async with tcp_server(certificates) as server:
        url = f"https://127.0.0.1:{server.port}/"
        with silent_udp(server.port) as silent:
            timeout = httpx.Timeout(20, connect=0.5)  # Of the dial, which goes on when TCP has answered.
            async with client(certificates, timeout, head_start=0.05) as asks:
                assert (await asks.get(url)).status_code == 200
                await until(lambda: not pool(asks)._dialling)
                assert datagrams(silent) > 0
                assert (await asks.get(url)).status_code == 200
                assert datagrams(silent) == 0
                # Another network, another chance.
                (fact,) = asks._transport._origins.get("127.0.0.1", server.port)._silent.values()  # type: ignore[attr-defined]
                object.__setattr__(fact, "route", None)
                assert (await asks.get(url)).status_code == 200
                await until(lambda: datagrams(silent) > 0)


async def test_while_udp_is_tried_nobody_waits_for_it_twice(certificates: Certificates) -> None:
    async with tcp_server(certificates) as server:
        url = f"https://127.0.0.1:{server.port}/"
        with silent_udp(server.port):
            async with client(certificates, head_start=0.5) as asks:
                await asks.get(url)
                assert (await asks.get(url)).elapsed.total_seconds() < 0.4


async def test_closing_ends_a_race(certificates: Certificates) -> None:
    async with silent_tcp() as tcp:
        await settled()
        with silent_udp(tcp.port):
            async with nothing_left():
                asks = client(certificates, head_start=0.05)
                asking = asyncio.create_task(asks.get(f"https://127.0.0.1:{tcp.port}/"))
                await tcp.reached.wait()
                await asks.aclose()
                with pytest.raises(httpx.ConnectError, match="closed"):
                    await asking


async def test_plain_http_goes_over_tcp(certificates: Certificates) -> None:
    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain")
        writer.close()

    server = await asyncio.start_server(attend, "127.0.0.1", 0)
    async with server, client(certificates) as asks:
        response = await asks.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        assert response.text == "plain"


# Both answer ----------------------------------------------------------------------------------------------------------


async def test_a_quic_that_is_late_serves_the_next_request(certificates: Certificates) -> None:
    """TCP stands first: the request goes there, alone, and the connection over QUIC is not wasted."""
    asked: list[str] = []

    async def handler(request: Request) -> None:
        asked.append(request.method)
        await request.respond(200)

    relay = Relay()
    async with served(certificates, handler) as (server, _):
        await relay.start(server.addresses[0])
        relay.silent = True
        port = relay.address[1]
        async with tcp_server(certificates, port) as tcp, client(certificates, head_start=0.05) as asks:
            assert (await asks.post(f"https://127.0.0.1:{port}/")).http_version == "HTTP/1.1"
            relay.silent = False
            await until(lambda: bool(pool(asks)._standing))
            assert (await asks.put(f"https://127.0.0.1:{port}/")).http_version == "HTTP/3"
            assert [method for method, _, _ in tcp.requests] == ["POST"]
            assert asked == ["PUT"]
        relay.stop()
        await turns()


async def test_a_quic_that_is_late_is_not_kept_for_ever(certificates: Certificates) -> None:
    relay = Relay()
    async with served(certificates, hello) as (server, _):
        await relay.start(server.addresses[0])
        relay.silent = True
        port = relay.address[1]
        limits = httpx.Limits(keepalive_expiry=0.05)
        async with tcp_server(certificates, port), client(certificates, head_start=0.05, limits=limits) as asks:
            await asks.get(f"https://127.0.0.1:{port}/")
            relay.silent = False
            await until(lambda: bool(server.connections))
            await until(lambda: not server.connections)
        relay.stop()
        await turns()


async def test_a_quic_that_is_late_wins_over_a_tcp_that_is_later(certificates: Certificates) -> None:
    """Nothing of the request is sent over TCP, and what was begun there is ended."""
    relay = Relay()
    async with served(certificates, echo) as (server, _):
        await relay.start(server.addresses[0])
        relay.silent = True
        port = relay.address[1]
        async with silent_tcp(port) as tcp:
            await settled()
            async with nothing_left(), client(certificates, head_start=0.05) as asks:
                asking = asyncio.create_task(asks.post(f"https://127.0.0.1:{port}/", content=b"once"))
                await tcp.reached.wait()
                relay.silent = False
                response = await asking
                assert (response.http_version, response.content) == ("HTTP/3", b"once")
                await until(lambda: bool(tcp.heard))
                (heard,) = tcp.heard
                assert heard.startswith(b"\x16\x03")  # A TLS handshake (RFC 8446 §5.1),
                assert b"\x17\x03\x03" not in heard  # and no application data.
        relay.stop()
        await turns()


@pytest.mark.parametrize("head_start", [0.0, 0.01, 0.05])
async def test_whoever_wins_a_post_is_executed_once(certificates: Certificates, head_start: float) -> None:
    count = 0

    async def handler(request: Request) -> None:
        nonlocal count
        count += 1
        await request.respond(200, (), await request.read())

    async with (
        served(certificates, handler) as (server, url),
        tcp_server(certificates, server.addresses[0][1]) as tcp,
    ):
        for number in range(10):
            async with client(certificates, head_start=head_start) as asks:
                answers = await asyncio.gather(*(asks.post(url, content=b"%d" % each) for each in range(5)))
                assert [answer.content for answer in answers] == [b"%d" % each for each in range(5)]
            assert count + len(tcp.requests) == 5 * (number + 1)


# Elsewhere ------------------------------------------------------------------------------------------------------------


async def test_an_alternative_is_used_that_the_server_names(certificates: Certificates) -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> None:
        seen.append(request)
        await request.respond(200)

    async with served(certificates, handler) as (server, _), tcp_server(certificates) as tcp:
        url, other = f"https://localhost:{tcp.port}/", server.addresses[0][1]
        tcp.headers = [("alt-svc", f'h2=":1", h3-29=":2", h3="127.0.0.1:{other}"; ma=60')]
        with silent_udp(tcp.port):
            async with client(certificates, httpx.Timeout(20, connect=0.5), head_start=0.05) as asks:
                assert (await asks.get(url)).http_version == "HTTP/1.1"
                await until(lambda: not pool(asks)._dialling)
                assert (await asks.get(url)).http_version == "HTTP/3"
                (request,) = seen
                assert request.authority == f"localhost:{tcp.port}"
                assert request.headers["alt-used"] == f"127.0.0.1:{other}"


async def test_an_alternative_that_proves_to_be_none_is_left(certificates: Certificates) -> None:
    """It has no certificate for the origin, or says that it is not responsible."""

    async def handler(request: Request) -> None:
        await request.respond(421)

    async with served(certificates, handler) as (server, _), tcp_server(certificates) as tcp:
        tcp.headers = [("alt-svc", f'h3=":{server.addresses[0][1]}"')]
        url = f"https://127.0.0.1:{tcp.port}/"
        with silent_udp(tcp.port):
            async with client(certificates, httpx.Timeout(20, connect=0.5), head_start=0.05) as asks:
                await asks.get(url)
                await until(lambda: not pool(asks)._dialling)
                response = await asks.get(url)
                assert (response.status_code, response.http_version) == (200, "HTTP/1.1")
                assert server.stats().accepted == 1


async def test_what_a_server_takes_back_is_used_no_more(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.respond(200, {"alt-svc": "clear"})

    async with served(certificates, handler) as (server, _), tcp_server(certificates) as tcp:
        tcp.headers = [("alt-svc", f'h3=":{server.addresses[0][1]}"')]
        url = f"https://127.0.0.1:{tcp.port}/"
        with silent_udp(tcp.port):
            limits = httpx.Limits(keepalive_expiry=0.0)
            timeout = httpx.Timeout(20, connect=0.5)
            async with client(certificates, timeout, head_start=0.05, limits=limits) as asks:
                await asks.get(url)
                await until(lambda: not pool(asks)._dialling)
                tcp.headers = []
                assert [(await asks.get(url)).http_version for _ in range(2)] == ["HTTP/3", "HTTP/1.1"]


async def test_https_records_say_where_to_ask(certificates: Certificates) -> None:
    async with (
        served(certificates, hello) as (server, _),
        served(certificates, hello) as (other, _),
        name_server() as (names, resolver),
    ):
        port, wrong = server.addresses[0][1], other.addresses[0][1]
        names.records = {
            "_8._https.localhost": ["0 alias.localhost."],
            "alias.localhost": [
                # RFC 9460 §8: who does not know the key must not use the record.
                f"1 localhost. mandatory=key700 key700=x alpn=h3 port={wrong}",
                f"2 localhost. alpn=h3 port={port}",
            ],
        }
        async with client(certificates, resolver=resolver, head_start=5.0) as asks:
            response = await asks.get("https://localhost:8/")
            assert (response.http_version, response.text) == ("HTTP/3", "hello")
            assert names.asked == ["_8._https.localhost", "alias.localhost"]
            assert other.stats().accepted == 0


async def test_an_https_record_without_http3_saves_the_attempt(certificates: Certificates) -> None:
    async with tcp_server(certificates) as tcp, name_server() as (names, resolver):
        names.records = {f"_{tcp.port}._https.localhost": ["1 . alpn=h2"]}
        with silent_udp(tcp.port) as silent:
            async with client(certificates, resolver=resolver, head_start=5.0) as asks:
                for _ in range(2):
                    response = await asks.get(f"https://localhost:{tcp.port}/")
                    assert response.http_version == "HTTP/1.1"
                    assert response.elapsed.total_seconds() < 4.0
                assert datagrams(silent) == 0
                assert len(names.asked) == 1


async def test_a_name_server_that_is_silent_stands_in_nobodys_way(certificates: Certificates) -> None:
    async with served(certificates, hello) as (server, _), name_server() as (names, resolver):
        names.silent = True
        async with client(certificates, resolver=resolver, head_start=0.1) as asks:
            response = await asks.get(f"https://localhost:{server.addresses[0][1]}/")
            assert (response.http_version, len(names.asked) > 0) == ("HTTP/3", True)
