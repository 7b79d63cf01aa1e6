"""HTTP datagrams: which tunnel they belong to, how many wait, and how they end (RFC 9297)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from aioquic.h3.connection import Setting

from tests.loopback.http_peers import other_client, other_server, request, served
from tests.loopback.support import until
from whimbrel import ConnectionClosed, DatagramTooLarge, LocalProtocolError, StreamReset, http
from whimbrel.http import ErrorCode, Request, Tunnel, TunnelClosed
from whimbrel.http._datagrams import WAITING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio

EXTENDED = [(b":method", b"CONNECT"), (b":protocol", b"chat"), *request()[1:]]


async def hello(request: Request) -> None:
    await request.respond(200, {}, b"hello")


async def echo(request: Request) -> None:
    """Sends datagrams back, until the client ends the tunnel."""
    tunnel = await request.accept()

    async def datagrams() -> None:
        with contextlib.suppress(TunnelClosed):
            while True:
                tunnel.send_datagram(await tunnel.receive_datagram())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(datagrams())
        await tunnel.read()
        await tunnel.close()


@contextlib.asynccontextmanager
async def ends(certificates: Certificates) -> AsyncIterator[tuple[Tunnel, Tunnel, http.Client, http.Server]]:
    """Both ends of one tunnel, the client's first."""
    accepted: asyncio.Queue[Tunnel] = asyncio.Queue()
    done = asyncio.Event()

    async def handler(request: Request) -> None:
        accepted.put_nowait(await request.accept())
        await done.wait()

    async with served(certificates, hello, protocols={"chat": handler}) as (server, client):
        tunnel = await client.tunnel(protocol="chat")
        yield tunnel, await accepted.get(), client, server
        done.set()


async def test_datagrams_go_both_ways(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there, _, _):
        for one, other in ((here, there), (there, here)):
            for data in (b"", b"x", bytearray(b"y" * 1000), memoryview(b"z" * one.max_datagram_size)):
                one.send_datagram(data)
                assert await other.receive_datagram() == bytes(data)


async def test_each_tunnel_has_its_own(certificates: Certificates) -> None:
    async with served(certificates, hello, protocols={"chat": echo}) as (_, client):
        tunnels = [await client.tunnel(protocol="chat") for _ in range(20)]
        for number, tunnel in enumerate(tunnels):
            tunnel.send_datagram(b"%d" % number)
        for number, tunnel in reversed(list(enumerate(tunnels))):
            assert await tunnel.receive_datagram() == b"%d" % number
            await tunnel.close()


async def test_a_datagram_that_does_not_fit_is_refused(certificates: Certificates) -> None:
    async with ends(certificates) as (here, _, client, _):
        assert 1000 < here.max_datagram_size < client.connection.max_datagram_size
        with pytest.raises(DatagramTooLarge):
            here.send_datagram(bytes(here.max_datagram_size + 1))


async def test_the_oldest_is_dropped_where_nobody_fetches_them(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there, _, _):
        count = WAITING + 10
        for number in range(count):
            here.send_datagram(b"%d" % number)
            await until(lambda: _waiting(there) + there.datagrams_dropped == number + 1)  # noqa: B023
        assert there.datagrams_dropped == 10
        received = [await there.receive_datagram() for _ in range(WAITING)]
        assert received == [b"%d" % number for number in range(10, count)]


def _waiting(tunnel: Tunnel) -> int:
    assert tunnel._datagrams is not None
    return len(tunnel._datagrams._waiting)


async def test_those_who_wait_are_all_served(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there, _, _):
        waiting = [asyncio.create_task(there.receive_datagram()) for _ in range(3)]
        cancelled = asyncio.create_task(there.receive_datagram())
        await asyncio.sleep(0)
        cancelled.cancel()
        for data in (b"a", b"b", b"c"):
            here.send_datagram(data)
        assert sorted(await asyncio.gather(*waiting)) == [b"a", b"b", b"c"]


async def test_plain_connect_has_none(certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        async with await request.accept() as tunnel:
            await tunnel.read()

    async with served(certificates, hello, connect=handler, protocols={"chat": echo}) as (_, client):
        tunnel = await client.tunnel("example.org:22")
        assert tunnel.max_datagram_size == 0
        with pytest.raises(DatagramTooLarge, match="no datagrams"):
            tunnel.send_datagram(b"x")
        with pytest.raises(LocalProtocolError, match="plain CONNECT"):
            await tunnel.receive_datagram()


@pytest.mark.parametrize("how", ["end", "reset", "connection"])
async def test_waiting_ends_with_the_tunnel(certificates: Certificates, how: str) -> None:
    async with ends(certificates) as (here, there, _, server):
        there.send_datagram(b"before")
        await until(lambda: _waiting(here) == 1)
        match how:
            case "end":
                await there.finish()
                assert await here.read() == b""
                await here.finish()
            case "reset":
                there.reset(0x77)
                with pytest.raises(StreamReset):
                    await here.read()
                here.reset()
            case "connection":
                await server.close()
        assert await here.receive_datagram() == b"before"
        with pytest.raises(ConnectionClosed if how == "connection" else TunnelClosed) as closed:
            await here.receive_datagram()
        if isinstance(closed.value, TunnelClosed):
            assert closed.value.code == (0x77 if how == "reset" else ErrorCode.H3_NO_ERROR)
            with pytest.raises(LocalProtocolError):
                here.send_datagram(b"after")


async def test_those_about_no_tunnel_are_dropped_and_counted(certificates: Certificates) -> None:
    async with ends(certificates) as (here, there, client, server):
        (session,) = server._sessions
        prefix = here._http3.datagram_prefix(400)
        for _ in range(5):
            client.connection.send_datagram(prefix + b"whose?")
        await until(lambda: session.datagrams.dropped == 5)
        here.send_datagram(b"mine")
        assert await there.receive_datagram() == b"mine"


# With aioquic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocols", "announced"), [({}, None), ({"chat": echo}, 1)])
async def test_datagrams_are_announced_where_tunnels_may_have_them(
    certificates: Certificates, protocols: dict[str, http.Handler], announced: int | None
) -> None:
    async with (
        served(certificates, hello, protocols=protocols) as (server, _),
        other_client(certificates, server) as other,
    ):
        await other.answer(other.ask(request()))
        assert other.h3.received_settings is not None
        assert other.h3.received_settings.get(Setting.H3_DATAGRAM) == announced


async def test_a_client_of_others_has_datagrams(certificates: Certificates) -> None:
    async with (
        served(certificates, hello, protocols={"chat": echo}) as (server, _),
        other_client(certificates, server, datagrams=True) as other,
    ):
        stream = other.ask(EXTENDED, end=False)
        await until(lambda: bool(other.answers[stream].headers))
        other.h3.send_datagram(stream, b"hello")
        other.transmit()
        await until(lambda: other.datagrams == [(stream, b"hello")])
        other.h3.send_data(stream, b"", end_stream=True)
        other.transmit()
        assert (await other.answer(stream)).reset is None


async def test_a_server_of_others_has_datagrams(certificates: Certificates) -> None:
    async with (
        other_server(certificates) as (_, port),
        http.connect("127.0.0.1", port, verify=certificates.ca, migration=None) as client,
        client.tunnel(protocol="chat") as tunnel,
    ):
        tunnel.send_datagram(b"hello")
        assert await tunnel.receive_datagram() == b"hello"


async def test_a_peer_that_announces_none_is_sent_none(certificates: Certificates) -> None:
    tunnels: asyncio.Queue[Tunnel] = asyncio.Queue()

    async def handler(request: Request) -> None:
        tunnels.put_nowait(await request.accept())
        await asyncio.Event().wait()

    async with (
        served(certificates, hello, protocols={"chat": handler}) as (server, _),
        other_client(certificates, server) as other,
    ):
        other.ask(EXTENDED, end=False)
        tunnel = await tunnels.get()
        assert tunnel.max_datagram_size == 0
        with pytest.raises(DatagramTooLarge):
            tunnel.send_datagram(b"x")


async def test_a_request_that_has_no_datagrams_is_ended_by_one(certificates: Certificates) -> None:
    async def slow(request: Request) -> None:
        await request.start(200)
        await request.write(b"begun")
        await asyncio.Event().wait()

    async with (
        served(certificates, slow, protocols={"chat": echo}) as (server, _),
        other_client(certificates, server, datagrams=True) as other,
    ):
        stream = other.ask(request())
        await until(lambda: bool(other.answers[stream].received))
        other.h3.send_datagram(stream, b"why?")
        other.transmit()
        assert (await other.answer(stream)).reset == ErrorCode.H3_DATAGRAM_ERROR


@pytest.mark.parametrize("datagram", [b"", b"\x40", b"\xff" * 8], ids=["empty", "short", "no such stream"])
async def test_datagrams_that_are_malformed_end_the_connection(certificates: Certificates, datagram: bytes) -> None:
    async with (
        served(certificates, hello, protocols={"chat": echo}) as (server, _),
        other_client(certificates, server, datagrams=True) as other,
    ):
        await other.answer(other.ask(request()))
        other._quic.send_datagram_frame(datagram)
        other.transmit()
        assert await other.failure() == ErrorCode.H3_DATAGRAM_ERROR
