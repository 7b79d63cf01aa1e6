"""How a server holds its sockets: one for all clients of an address, or one for each."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

import whimbrel
from tests.loopback.support import ALPN, dial, echo, nothing_left, until

if TYPE_CHECKING:
    from tests.loopback.support import Certificates
    from whimbrel import Connection, Server

Sockets = Literal["wildcard", "connected"]


@pytest.fixture(params=["wildcard", "connected"])
def sockets(request: pytest.FixtureRequest) -> Sockets:
    return "wildcard" if request.param == "wildcard" else "connected"


def echo_server(certificates: Certificates, host: str | list[str], sockets: Sockets) -> whimbrel._server._Serve:
    return whimbrel.serve(echo, host, cert=certificates.pair, alpn=ALPN, sockets=sockets)


async def exchange(connection: Connection, size: int = 20_000) -> None:
    """Some bytes go over, and come back."""
    async with await connection.open_stream() as stream:
        data = os.urandom(size)
        await stream.write(data)
        await stream.finish()
        assert await stream.read() == data


def kernel_sockets(port: int) -> list[str]:
    """The states of this machine's UDP sockets on that port: ``01`` connected, ``07`` not."""
    found = []
    for name in ("udp", "udp6"):
        table = Path("/proc/self/net", name).read_text().splitlines()
        found += [line.split()[3] for line in table if re.match(rf"\s*\d+: [0-9A-F]+:{port:04X} ", line)]
    return found


async def test_many_clients_at_once_are_told_apart(certificates: Certificates, host: str, sockets: Sockets) -> None:
    async with (
        nothing_left(),
        echo_server(certificates, host, sockets) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(dial(server, certificates)) for _ in range(40)]
        await asyncio.gather(*(exchange(client) for client in clients for _ in range(3)))
        port = server.addresses[0][1]
        expected = 40 if sockets == "connected" else 0
        assert server.stats().connected_sockets == expected
        assert sorted(kernel_sockets(port)) == ["01"] * expected + ["07"]


async def test_the_socket_of_a_connection_that_ended_is_closed_at_once(certificates: Certificates, host: str) -> None:
    async with echo_server(certificates, host, "connected") as server:
        async with dial(server, certificates) as client:
            await exchange(client)
            assert server.stats().connected_sockets == 1
        await until(lambda: not server.connections)
        assert server.stats().connected_sockets == 0
        assert kernel_sockets(server.addresses[0][1]) == ["07"]


async def test_the_socket_goes_too_when_the_server_ends_the_connection(certificates: Certificates, host: str) -> None:
    async def handler(connection: Connection) -> None:
        await connection.accept_stream()

    async with (
        whimbrel.serve(handler, host, cert=certificates.pair, alpn=ALPN, sockets="connected") as server,
        dial(server, certificates) as client,
    ):
        async with await client.open_stream() as stream:
            await stream.write(b"go")
        await client.wait_closed()
        assert server.stats().connected_sockets == 0


async def test_a_port_in_use_is_an_error(certificates: Certificates, host: str, sockets: Sockets) -> None:
    async with echo_server(certificates, host, "connected") as server, dial(server, certificates) as client:
        await exchange(client)
        with pytest.raises(OSError, match="cannot listen on") as caught:
            await whimbrel.serve(echo, host, server.addresses[0][1], cert=certificates.pair, alpn=ALPN, sockets=sockets)
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.7"])
async def test_a_server_answers_from_the_address_it_was_reached_on(
    certificates: Certificates, sockets: Sockets, address: str
) -> None:
    async with echo_server(certificates, "0.0.0.0", sockets) as server:
        port = server.addresses[0][1]
        async with whimbrel.connect(
            address, port, alpn=ALPN, verify=certificates.ca, server_hostname="localhost", migration=None
        ) as client:
            await exchange(client)
            (accepted,) = server.connections
            assert accepted.path.local == (address, port)


async def test_a_server_on_several_addresses_answers_by_the_right_socket(
    certificates: Certificates, sockets: Sockets
) -> None:
    hosts = ["127.0.0.1", "127.0.0.7", "::1"]
    async with echo_server(certificates, hosts, sockets) as server:
        assert [host for host, _ in server.addresses] == hosts
        for host, port in server.addresses:
            async with whimbrel.connect(
                host, port, alpn=ALPN, verify=certificates.ca, server_hostname="localhost", migration=None
            ) as client:
                await exchange(client)
                (accepted,) = server.connections
                assert accepted.path.local == (host, port)
            await until(lambda: not server.connections)


async def test_a_newcomer_may_come_by_the_socket_of_another_client(certificates: Certificates) -> None:
    """Between bind() and connect() a socket takes whatever comes to its address."""
    async with echo_server(certificates, "0.0.0.0", "connected") as server, local(server, certificates) as first:
        before = set(server._endpoint.descriptors())
        async with local(server, certificates) as second:
            await exchange(second)
            (own,) = set(server._endpoint.descriptors()) - before
            disconnect(own)
            async with local(server, certificates) as newcomer:
                with socket.socket(fileno=os.dup(own)) as handle:
                    handle.connect(second.path.local)
                await asyncio.gather(exchange(first), exchange(second), exchange(newcomer))
                assert len(server.connections) == 3
                assert server.stats().connected_sockets == 3


def local(server: Server, certificates: Certificates) -> whimbrel._client._Connect:
    """`connect` to a server that listens on all addresses."""
    return whimbrel.connect("127.0.0.1", server.addresses[0][1], alpn=ALPN, verify=certificates.ca, migration=None)


def disconnect(descriptor: int) -> None:
    """Make a connected socket one that is bound only (connect() to AF_UNSPEC)."""
    assert ctypes.CDLL(None).connect(descriptor, bytes(16), 16) == 0


async def test_the_child_of_a_fork_is_told_of_every_socket(certificates: Certificates) -> None:
    async with echo_server(certificates, "127.0.0.1", "connected") as server:
        before = len(server._endpoint.descriptors())
        async with dial(server, certificates) as client:
            await exchange(client)
            assert len(server._endpoint.descriptors()) == before + 1


async def test_connections_that_share_a_clients_socket_share_the_servers(certificates: Certificates) -> None:
    """As a client that opens several from one port: to the kernel they are one."""
    async with echo_server(certificates, "127.0.0.1", "connected") as server:
        joint = Joint(server)
        await joint.start()
        try:
            async with (
                whimbrel.connect(*joint.fronts[0], alpn=ALPN, verify=certificates.ca, migration=None) as first,
                whimbrel.connect(*joint.fronts[1], alpn=ALPN, verify=certificates.ca, migration=None) as second,
            ):
                await asyncio.gather(exchange(first), exchange(second))
                assert len(server.connections) == 2
                assert server.stats().connected_sockets == 1
                await first.close()
                await until(lambda: len(server.connections) == 1)
                assert server.stats().connected_sockets == 1
                await exchange(second)
        finally:
            joint.stop()


class Joint(asyncio.DatagramProtocol):
    """Carries the datagrams of two clients over one socket to the server. What comes back, both get."""

    def __init__(self, server: Server) -> None:
        self.fronts: list[tuple[str, int]] = []
        self._server = server.addresses[0]
        self._transports: list[asyncio.DatagramTransport] = []
        self._clients: dict[asyncio.DatagramTransport, tuple[str, int]] = {}

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._outer, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=self._server)
        self._transports.append(self._outer)
        for _ in range(2):
            front, _ = await loop.create_datagram_endpoint(lambda: Front(self), local_addr=("127.0.0.1", 0))
            self.fronts.append(front.get_extra_info("sockname"))
            self._transports.append(front)

    def from_client(self, front: asyncio.DatagramTransport, data: bytes, source: tuple[str, int]) -> None:
        self._clients[front] = source
        self._outer.sendto(data)

    def datagram_received(self, data: bytes, _source: tuple[str, int]) -> None:
        for front, client in self._clients.items():
            front.sendto(data, client)

    def stop(self) -> None:
        for transport in self._transports:
            transport.abort()


class Front(asyncio.DatagramProtocol):
    def __init__(self, joint: Joint) -> None:
        self._joint = joint

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        self._joint.from_client(self._transport, data, source)


async def test_near_the_limit_of_descriptors_clients_share_the_servers_socket(
    certificates: Certificates, scripts: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(scripts / "few_descriptors.py"),
        *map(str, certificates.pair),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    whimbrel.connect("127.0.0.1", port, alpn=ALPN, verify=certificates.ca, migration=None)
                )
                for _ in range(60)
            ]
            await asyncio.gather(*(exchange(client) for client in clients))
            process.stdin.write(b"\n")
            report = json.loads(await process.stdout.readline())
            assert report["connections"] == 60
            assert 20 < report["connected_sockets"] < 56
            # An eighth of 64 is left to the application.
            assert 56 <= report["highest"] < 64
            (warning,) = report["warnings"]
            assert "no more connected sockets (Too many open files)" in warning
        process.stdin.write(b"\n")
        assert int(await process.stdout.readline()) >= 0
    finally:
        process.stdin.close()
        assert await process.wait() == 0


def test_an_unknown_mode_is_a_mistake(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="sockets must be 'wildcard' or 'connected', not 'shared'"):
        whimbrel.serve(echo, cert=certificates.pair, alpn=ALPN, sockets="shared")  # type: ignore[call-overload]
