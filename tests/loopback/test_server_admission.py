"""Whom a server lets in: Retry, the limit on connections, and who knocks while it closes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from typing import TYPE_CHECKING, Literal

import pytest

import whimbrel
from tests.loopback.support import ALPN, dial, echo, nothing_left, until
from whimbrel import Limits, _core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.loopback.support import Certificates
    from whimbrel import Connection

# So many handshakes make a crowd.
CROWD = 256


@contextlib.contextmanager
def strangers(certificates: Certificates, server: tuple[str, int]) -> Iterator[Strangers]:
    with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        yield Strangers(certificates, server, sender)


class Strangers:
    """Clients that knock, and do not answer when they are asked in."""

    def __init__(self, certificates: Certificates, server: tuple[str, int], sender: socket.socket) -> None:
        transport = _core.TransportConfig(
            idle_timeout=30.0, stream_window=1 << 20, connection_window=1 << 20, max_streams=10, send_buffer=1 << 20
        )
        config = _core.ClientConfig(alpn=[ALPN.encode()], roots=certificates.ca.read_bytes(), transport=transport)
        self._endpoint = _core.Endpoint.client(config, simulated=True)
        self._server = server
        self.socket = sender

    def initial(self) -> bytes:
        """What a new one sends first."""
        self._endpoint.connect(self._server, "localhost", "pinned", None)
        ((datagram, *_),) = self._endpoint.take()
        return datagram

    def knock(self) -> None:
        self.socket.sendto(self.initial(), self._server)


@pytest.mark.parametrize("retry", ["auto", "always", "never"])
async def test_newcomers_prove_their_address_first_where_they_must(
    certificates: Certificates, host: str, retry: Literal["auto", "always", "never"]
) -> None:
    async with (
        nothing_left(),
        whimbrel.serve(echo, host, cert=certificates.pair, alpn=ALPN, retry=retry) as server,
    ):
        for _ in range(3):
            async with dial(server, certificates) as client, await client.open_stream() as stream:
                await stream.write(b"?")
                assert await stream.readexactly(1) == b"?"
        stats = server.stats()
        assert (stats.accepted, stats.retried) == (3, 3 if retry == "always" else 0)


async def test_a_crowd_of_strangers_makes_newcomers_prove_their_address(certificates: Certificates, host: str) -> None:
    async with whimbrel.serve(echo, host, cert=certificates.pair, alpn=ALPN) as server:
        with strangers(certificates, server.addresses[0]) as crowd:
            for count in range(CROWD):
                crowd.knock()
                await until(lambda count=count: server.stats().accepted == count + 1)  # type: ignore[misc]
            assert server.stats().retried == 0
            crowd.knock()
            await until(lambda: server.stats().retried == 1)
            async with dial(server, certificates):
                assert server.stats().retried == 2
            assert server.stats().accepted == CROWD + 1


async def test_a_token_is_worth_nothing_at_another_address(certificates: Certificates) -> None:
    async with whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, retry="always") as server:
        with strangers(certificates, server.addresses[0]) as crowd, contextlib.ExitStack() as stack:
            crowd.socket.setblocking(False)
            loop = asyncio.get_running_loop()
            crowd.knock()
            retry = await loop.sock_recv(crowd.socket, 2000)
            assert retry[0] & 0xF0 == 0xF0
            crowd._endpoint.deliver(retry, server.addresses[0], ("127.0.0.1", 40_000), 0)
            ((again, *_),) = crowd._endpoint.take()
            elsewhere = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            elsewhere.sendto(again, server.addresses[0])
            await until(lambda: server.stats().dropped["invalid-token"] == 1)
            assert server.stats().accepted == 0
            crowd.socket.sendto(again, server.addresses[0])
            await until(lambda: server.stats().accepted == 1)


async def test_beyond_the_limit_newcomers_are_refused(certificates: Certificates, host: str) -> None:
    limits = Limits(max_connections=2)
    async with whimbrel.serve(echo, host, cert=certificates.pair, alpn=ALPN, limits=limits) as server:
        async with dial(server, certificates), dial(server, certificates) as second:
            with pytest.raises(whimbrel.ConnectFailed, match="refuse"):
                await dial(server, certificates)
            stats = server.stats()
            assert (stats.accepted, stats.refused) == (2, 1)
            await until(lambda: server.stats().connections == 2)
            await second.close()
            await until(lambda: server.stats().connections == 1)
            async with dial(server, certificates):
                await until(lambda: server.stats().connections == 2)
        await until(lambda: server.stats().connections == 0)
        assert server.stats().refused == 1


async def test_a_server_that_closes_refuses_newcomers(certificates: Certificates, host: str) -> None:
    leave = asyncio.Event()
    arrived = asyncio.Event()

    async def handler(connection: Connection) -> None:
        arrived.set()
        stream = await connection.accept_stream()
        assert isinstance(stream, whimbrel.Stream)
        async with stream:
            await leave.wait()
            await stream.write(b"done")

    async with (
        nothing_left(),
        whimbrel.serve(handler, host, cert=certificates.pair, alpn=ALPN) as server,
        dial(server, certificates) as client,
        await client.open_stream() as stream,
    ):
        await stream.write(b"?")
        await arrived.wait()
        closing = asyncio.create_task(server.close(drain=10))
        await until(lambda: server._closing)
        with pytest.raises(whimbrel.ConnectFailed, match="refuse"):
            await dial(server, certificates)
        leave.set()
        assert await stream.read() == b"done"
        await closing
        stats = server.stats()
        assert (stats.accepted, stats.refused) == (1, 1)


async def test_handshakes_that_fail_are_counted(certificates: Certificates, host: str) -> None:
    async with whimbrel.serve(echo, host, cert=certificates.pair, alpn=ALPN) as server:
        for number in itertools.count(1):
            with pytest.raises(whimbrel.AlpnMismatch):
                await dial(server, certificates, alpn="other")
            await until(lambda number=number: server.stats().handshakes_failed == number)  # type: ignore[misc]
            if number == 3:
                break
        assert server.stats().connections == 0


def test_an_unknown_use_of_retry_is_a_mistake(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="retry must be 'auto', 'always' or 'never', not 'sometimes'"):
        whimbrel.serve(echo, cert=certificates.pair, alpn=ALPN, retry="sometimes")  # type: ignore[call-overload]
