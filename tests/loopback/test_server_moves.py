"""Clients that move, as a server sees it (RFC 9000 §9.3): with one socket for all, and with one for each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Literal

import pytest

import whimbrel
from tests.loopback.support import ALPN, dial, until
from whimbrel import Migration, PathMigrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.loopback.support import Certificates
    from whimbrel import Connection, Server, Stream

Sockets = Literal["wildcard", "connected"]
MIB = 1 << 20


@pytest.fixture(params=["wildcard", "connected"])
def sockets(request: pytest.FixtureRequest) -> Sockets:
    mode = request.param
    assert mode in ("wildcard", "connected")
    return "wildcard" if mode == "wildcard" else "connected"


class Ends:
    """Both ends of a connection, and what the server is told of the path."""

    def __init__(self, server: Server, client: Connection, accepted: Connection) -> None:
        self.server = server
        self.client = client
        self.accepted = accepted
        self.changes = accepted.path_changes()

    def move_client(self, source: str) -> None:
        """The client goes on from a new socket, without asking first."""
        lo = socket.if_nametoindex("lo")
        assert self.client._core.pin(lo, source, True)

    async def echo(self, stream: Stream, size: int = MIB) -> None:
        """Some bytes go over, and come back."""
        sending = asyncio.create_task(stream.write(bytes(size)))
        await stream.readexactly(size)
        await sending

    def descriptors(self) -> set[str]:
        """What the server has open, by names that do not come again."""
        return {os.readlink(f"/proc/self/fd/{number}") for number in self.server._endpoint.descriptors()}  # noqa: PTH115

    async def moved(self) -> PathMigrated:
        change = await anext(self.changes)
        assert isinstance(change, PathMigrated)
        return change


@contextlib.asynccontextmanager
async def ends(certificates: Certificates, host: str, sockets: Sockets) -> AsyncIterator[Ends]:
    accepted: asyncio.Queue[Connection] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        accepted.put_nowait(connection)
        async for stream in connection.streams():
            assert isinstance(stream, whimbrel.Stream)
            async with stream:
                async for chunk in stream:
                    await stream.write(chunk)

    async with (
        whimbrel.serve(handler, host, cert=certificates.pair, alpn=ALPN, sockets=sockets) as server,
        dial(server, certificates, migration=Migration(auto=False)) as client,
    ):
        yield Ends(server, client, await accepted.get())


async def test_a_client_on_a_new_port_is_followed_in_the_middle_of_a_transfer(
    certificates: Certificates, host: str, sockets: Sockets
) -> None:
    async with ends(certificates, host, sockets) as both, await both.client.open_stream() as stream:
        transfer = asyncio.create_task(both.echo(stream, 8 * MIB))
        await until(lambda: both.client.stats().bytes_received > MIB)
        before = both.accepted.path
        both.move_client(host)
        change = await both.moved()
        await transfer
        assert change.old.remote == before.remote
        assert change.new.remote[0] == host
        assert change.new.remote != change.old.remote
        assert change.reason == "rebinding"
        assert not change.linkable
        assert not change.new.validated
        await until(lambda: both.accepted.path.validated)
        assert both.accepted.path.remote == change.new.remote
        assert both.accepted.stats().moves == both.server.stats().moves == 1


async def test_a_client_at_a_new_address_is_told_from_a_rebinding(certificates: Certificates, sockets: Sockets) -> None:
    async with ends(certificates, "127.0.0.1", sockets) as both, await both.client.open_stream() as stream:
        await both.echo(stream)
        both.move_client("127.0.0.5")
        await both.echo(stream)
        change = await both.moved()
        assert change.reason == "peer"
        assert change.new.remote[0] == "127.0.0.5"
        assert 0 <= change.silence < 10
        stats = both.accepted.stats()
        assert [each.path.remote for each in stats.paths] == [change.old.remote, change.new.remote]
        assert all(each.bytes_received > MIB and each.bytes_sent > MIB for each in stats.paths)
        for name in ("bytes_sent", "bytes_received", "packets_sent", "packets_lost"):
            assert sum(getattr(each, name) for each in stats.paths) == getattr(stats, name)


async def test_a_move_that_is_not_proven_is_taken_back(certificates: Certificates, sockets: Sockets) -> None:
    async with behind_nat(certificates, sockets) as (nat, client, server_end):
        changes, home = server_end.path_changes(), server_end.path.remote
        nat.deaf = True
        await nat.rebind()
        client._core.ping()
        away, back = await anext(changes), await anext(changes)
        assert isinstance(away, PathMigrated)
        assert isinstance(back, PathMigrated)
        assert (away.reason, away.old.remote, away.new.validated) == ("rebinding", home, False)
        assert (back.reason, back.new.remote, back.new.validated) == ("rolled-back", home, True)


async def test_a_move_is_linkable_when_the_client_has_left_no_connection_id(
    certificates: Certificates, sockets: Sockets
) -> None:
    async with behind_nat(certificates, sockets) as (nat, client, server_end):
        changes = server_end.path_changes()
        nat.deaf = True  # The client does not learn that its connection IDs are used up.
        linkable = []
        for _ in range(6):
            await nat.rebind()
            client._core.ping()
            change = await anext(changes)
            assert isinstance(change, PathMigrated)
            linkable.append(change.linkable)
        assert not linkable[0]
        assert linkable[-1]


async def test_a_new_socket_follows_each_proof_and_the_old_one_goes_after_a_while(
    certificates: Certificates, host: str
) -> None:
    async with ends(certificates, host, "connected") as both, await both.client.open_stream() as stream:
        await both.echo(stream)
        assert both.server.stats().connected_sockets == 1
        before = both.descriptors()
        both.move_client(host)
        await both.echo(stream)
        # One more, and one less: the old one goes, and not the new one.
        await until(lambda: both.accepted.path.validated and len(both.descriptors() - before) == 1)
        await until(lambda: len(before - both.descriptors()) == 1)
        assert len(both.descriptors()) == len(before)
        assert both.server.stats().connected_sockets == 1
        await both.echo(stream)


async def test_a_client_that_comes_back_at_once_is_known_again(certificates: Certificates) -> None:
    async with ends(certificates, "127.0.0.1", "connected") as both, await both.client.open_stream() as stream:
        await both.echo(stream)
        lo = socket.if_nametoindex("lo")
        home = both.accepted.path.remote
        both.move_client("127.0.0.5")
        await both.echo(stream)
        assert (await both.moved()).new.remote[0] == "127.0.0.5"
        both.client._core.pin(lo, "127.0.0.1", False)  # From the port that it had there.
        await both.echo(stream)
        assert (await both.moved()).new.remote == home
        await until(lambda: both.accepted.path.validated)
        await until(lambda: both.server.stats().connected_sockets == 1)
        await both.echo(stream)


async def test_a_nat_that_vanishes_and_comes_back_elsewhere_costs_nothing_but_time(
    certificates: Certificates, sockets: Sockets
) -> None:
    """The kernel says ECONNREFUSED on the client's own socket; that is no reason to give the client up."""
    async with behind_nat(certificates, sockets) as (nat, client, server_end):
        stream = await client.open_stream()
        await stream.write(b"!")
        server_stream = await server_end.accept_stream()
        assert isinstance(server_stream, whimbrel.Stream)
        before = server_end.path.remote
        nat.forget()
        await until(lambda: refuses(before))
        sent = server_end.stats().datagrams_sent
        writing = asyncio.create_task(server_stream.write(bytes(4 * MIB)))
        await until(lambda: server_end.stats().datagrams_sent > sent + 10)
        await nat.rebind()
        client._core.ping()
        await stream.readexactly(4 * MIB)
        await writing
        assert server_end.path.remote != before
        await stream.finish()


@contextlib.asynccontextmanager
async def behind_nat(certificates: Certificates, sockets: Sockets) -> AsyncIterator[tuple[Nat, Connection, Connection]]:
    """The NAT, the client's end and the server's."""
    accepted: asyncio.Queue[Connection] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        accepted.put_nowait(connection)
        await connection.wait_closed()

    async with whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn=ALPN, sockets=sockets) as server:
        nat = Nat(server.addresses[0])
        await nat.start()
        try:
            async with whimbrel.connect(*nat.address, alpn=ALPN, verify=certificates.ca, migration=None) as client:
                server_end = await accepted.get()
                # What follows the handshake has come: the spare connection IDs among it.
                await until(lambda: server_end._core.facts().spare_ids == 4 and client._core.facts().confirmed)
                yield nat, client, server_end
        finally:
            nat.stop()


def refuses(address: tuple[str, int]) -> bool:
    """Whether what is sent there is answered by ICMP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        probe.send(b"?")
        try:
            probe.send(b"?")
        except ConnectionRefusedError:
            return True
    return False


class Nat:
    """Carries datagrams between one client and a server, by an outer port that can change."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.deaf = False
        """What the server sends does not come through."""
        self.address = ("", 0)
        self._server = server
        self._client: tuple[str, int] | None = None
        self._inner: asyncio.DatagramTransport | None = None
        self._outer: asyncio.DatagramTransport | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._inner, _ = await loop.create_datagram_endpoint(
            lambda: Carry(self._from_client), local_addr=("127.0.0.1", 0)
        )
        self.address = self._inner.get_extra_info("sockname")
        await self.rebind()

    async def rebind(self) -> None:
        """From now on by another port."""
        before = self._outer
        loop = asyncio.get_running_loop()
        self._outer, _ = await loop.create_datagram_endpoint(lambda: Carry(self._from_server), remote_addr=self._server)
        if before is not None:
            before.abort()

    def forget(self) -> None:
        """The port is closed: the kernel says so to who sends there."""
        assert self._outer is not None
        self._outer.abort()
        self._outer = None

    def stop(self) -> None:
        for transport in (self._inner, self._outer):
            if transport is not None:
                transport.abort()

    def _from_client(self, data: bytes, source: tuple[str, int]) -> None:
        self._client = source
        if self._outer is not None:
            self._outer.sendto(data)

    def _from_server(self, data: bytes, source: tuple[str, int]) -> None:
        if not self.deaf and self._client is not None and self._inner is not None:
            self._inner.sendto(data, self._client)


class Carry(asyncio.DatagramProtocol):
    def __init__(self, carry: Callable[[bytes, tuple[str, int]], None]) -> None:
        self.datagram_received = carry  # type: ignore[method-assign,assignment]
