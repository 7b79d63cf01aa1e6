"""Datagrams that no honest client sends, while an honest client goes on."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from typing import TYPE_CHECKING

import pytest

import whimbrel
from tests.loopback.hostile import (
    BOTH_WAYS,
    INITIAL,
    MIB,
    Flood,
    Initials,
    garbage,
    mutate,
    no_warnings,
    received,
    resident,
)
from tests.loopback.support import ALPN, Certificates, dial, echo, nothing_left, relay

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback.hostile import Sockets

    Datagrams = Callable[[random.Random], list[bytes]]

COUNT = 25_000
"""Datagrams of each kind."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def chance() -> random.Random:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    return random.Random(seed)


def random_datagrams(chance: random.Random) -> list[bytes]:
    return garbage(chance, 2_000)


def mutated_initials(chance: random.Random) -> list[bytes]:
    real = Initials().take(50)
    return [mutate(chance, chance.choice(real), chance.choice(real)) for _ in range(2_000)]


async def through(client: whimbrel.Connection, data: bytes) -> None:
    """Have an echo of it, whole."""
    async with asyncio.TaskGroup() as tasks:
        stream = await client.open_stream()
        tasks.create_task(_write(stream, data))
        back = await stream.readexactly(len(data))
    assert back == data


async def _write(stream: whimbrel.Stream, data: bytes) -> None:
    await stream.write(data)
    await stream.finish()


@BOTH_WAYS
@pytest.mark.parametrize(
    ("make", "segmented"),
    [(random_datagrams, False), (mutated_initials, False), (random_datagrams, True), (mutated_initials, True)],
    ids=["random", "mutated Initials", "random in bursts", "mutated Initials in bursts"],
)
async def test_a_transfer_goes_on_through_a_flood(
    certificates: Certificates,
    chance: random.Random,
    caplog: pytest.LogCaptureFixture,
    make: Datagrams,
    segmented: bool,
    sockets: Sockets,
) -> None:
    datagrams, data = make(chance), chance.randbytes(2 * MIB)
    with no_warnings(caplog):
        async with (
            whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, sockets=sockets) as server,
            dial(server, certificates) as client,
        ):
            await through(client, data)
            gc.collect()
            before = resident()
            with Flood(server.addresses[0], datagrams, COUNT, segmented=segmented) as flood:
                await through(client, data)
                await flood.over()
            await through(client, data)
            gc.collect()
            assert flood.sent >= COUNT
            stats = server.stats()
            assert sum(stats.dropped.values()) > 100  # The kernel drops most of what comes in bursts.
            assert stats.datagrams_received >= sum(stats.dropped.values())
            assert len(server.connections) == 1
            assert resident() - before < 48 * MIB


@BOTH_WAYS
async def test_a_client_that_lies_about_its_address_gets_a_stranger_three_times_its_bytes(
    certificates: Certificates, sockets: Sockets
) -> None:
    """Initials in the name of 127.0.0.2, who never answers: the server repeats its part, up to a bound."""
    async with whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, sockets=sockets) as server:
        victims = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
        try:
            spent = 0
            for victim, initial in zip(victims, Initials().take(20), strict=True):
                victim.setblocking(False)
                victim.bind(("127.0.0.2", 0))
                spent += victim.sendto(initial, server.addresses[0])
            assert spent >= 20 * INITIAL
            # Time is what it is about: that of two probe timeouts, in which the server repeats its part.
            await asyncio.sleep(1.0)
            got = received(victims)
        finally:
            for victim in victims:
                victim.close()
    assert 20 * INITIAL < got <= 3 * spent


@BOTH_WAYS
async def test_a_packet_that_was_copied_brings_a_stranger_no_transfer(
    certificates: Certificates, chance: random.Random, sockets: Sockets
) -> None:
    """§9.3.1, over real sockets: somebody at 127.0.0.3 is faster with a copy of the client's packet."""
    data = chance.randbytes(4 * MIB)
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with stranger:
        stranger.setblocking(False)
        stranger.bind(("127.0.0.3", 0))
        async with (
            whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, sockets=sockets) as server,
            relay(server) as between,
            whimbrel.connect(*between.address, alpn=ALPN, verify=certificates.ca, migration=None) as client,
        ):
            await through(client, data[:100_000])
            copied: list[int] = []

            def copy(packet: bytes) -> None:
                if len(copied) < 20 and not packet[0] & 0x80:
                    copied.append(stranger.sendto(packet, server.addresses[0]))

            between.watch = copy
            await through(client, data)
            spent, got = sum(copied), received([stranger])
            # Whoever is where the client was first is found there again; nobody stays at the stranger's.
            (connection,) = server.connections
            assert connection.path.remote[0] == "127.0.0.1"
    assert len(copied) == 20
    assert got <= 3 * spent + 20 * 1452


async def test_nothing_is_left_of_a_server_that_was_flooded(certificates: Certificates, chance: random.Random) -> None:
    datagrams = [*garbage(chance, 500), *Initials().take(200)]
    async with nothing_left(), whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN) as server:
        with Flood(server.addresses[0], datagrams, 2_000) as flood:
            await flood.over()
