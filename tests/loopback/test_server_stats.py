"""What a server counts of the datagrams that belong to nobody, and of those that do."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

import whimbrel
from tests.loopback.support import dial, echo_server, until

if TYPE_CHECKING:
    from tests.loopback.support import Certificates
    from whimbrel import Server

VERSION_1 = b"\x00\x00\x00\x01"
RESERVED_VERSION = b"\x1a\x2a\x3a\x4a"
IDS = b"\x08destinat\x08sourceid"
REASONS = {"malformed", "unknown-connection", "small-initial", "unknown-version", "invalid-token"}


def long_header(kind: int, version: bytes, size: int) -> bytes:
    return (bytes([0xC0 | kind << 4]) + version + IDS).ljust(size, b"\x00")


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"\x40", "malformed"),
        (b"\xc0\x00\x00", "malformed"),
        (b"\xc0" + VERSION_1 + b"\xff" + bytes(1300), "malformed"),
        (long_header(0, VERSION_1, 1200), "malformed"),
        (long_header(0, VERSION_1, 1199), "small-initial"),
        (long_header(2, VERSION_1, 1200), "unknown-connection"),
        (long_header(0, RESERVED_VERSION, 1199), "unknown-version"),
        (b"\x40" + b"unknown!" + bytes(10), "unknown-connection"),
    ],
)
async def test_a_datagram_that_means_nothing_is_counted_by_reason(
    certificates: Certificates, datagram: bytes, reason: str
) -> None:
    async with echo_server(certificates) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(datagram, server.addresses[0])
            await until(lambda: sum(server.stats().dropped.values()) == 1)
        stats = server.stats()
        assert {name: count for name, count in stats.dropped.items() if count} == {reason: 1}
        assert set(stats.dropped) == REASONS
        assert (stats.datagrams_received, stats.bytes_received) == (1, len(datagram))
        assert (stats.datagrams_sent, stats.accepted) == (0, 0)


async def test_answers_to_strangers_are_counted(certificates: Certificates, host: str) -> None:
    async with echo_server(certificates, host) as server:
        assert await answer(server, long_header(0, RESERVED_VERSION, 1200))
        assert server.stats().version_negotiations == 1
        reset = await answer(server, b"\x40" + os.urandom(100))
        assert 21 <= len(reset) <= 100
        stats = server.stats()
        assert (stats.version_negotiations, stats.stateless_resets) == (1, 1)
        assert sum(stats.dropped.values()) == 0
        assert stats.datagrams_sent == 2


async def answer(server: Server, datagram: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in server.addresses[0][0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect(server.addresses[0])
        sender.send(datagram)
        return await asyncio.get_running_loop().sock_recv(sender, 2000)


async def test_all_that_goes_over_the_sockets_is_counted(certificates: Certificates, host: str) -> None:
    async with echo_server(certificates, host) as server:
        async with dial(server, certificates) as client, await client.open_stream() as stream:
            await stream.write(bytes(100_000))
            await stream.finish()
            await stream.read()
        await until(lambda: not server.connections)
        stats, theirs = server.stats(), client.stats()
        assert stats.connections == 0
        assert stats.bytes_received > 100_000
        assert stats.bytes_sent > 100_000
        assert theirs.bytes_received <= stats.bytes_sent
        assert stats.datagrams_received <= theirs.datagrams_sent
        assert stats.datagrams_received * 1452 >= stats.bytes_received


async def test_counts_stay_when_the_server_is_closed(certificates: Certificates) -> None:
    async with echo_server(certificates) as server, dial(server, certificates):
        pass
    stats = server.stats()
    assert isinstance(stats, whimbrel.ServerStats)
    assert (stats.accepted, stats.connected_sockets) == (1, 0)
