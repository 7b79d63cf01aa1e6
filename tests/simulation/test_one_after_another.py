"""`async for connection in connect(...)`: what no connection survives, survived by the next one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import whimbrel
from whimbrel import Connection, ConnectionLost, Migration, SessionStore, Stream
from whimbrel._again import GOOD, PAUSE
from whimbrel.testing import SimulatedNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 4433


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(seed=1) as network:
        yield network


async def answer(connection: Connection) -> None:
    async for stream in connection.streams():
        assert isinstance(stream, Stream)
        await stream.write(b"answer to " + await stream.read())
        await stream.finish()


async def ask(connection: Connection, question: bytes) -> bytes:
    async with await connection.open_stream() as stream:
        await stream.write(question)
        await stream.finish()
        return await stream.read()


def serving(network: SimulatedNetwork) -> whimbrel._server._Serve:
    files, hosts = network.certificate, (network.server_address[0], network.server_address6[0])
    return whimbrel.serve(answer, hosts, PORT, cert=(files.chain, files.key), alpn="test", early_data=True)


def dialling(
    network: SimulatedNetwork, *, outage: float = 60.0, sessions: SessionStore | None = None, timeout: float = 10.0
) -> whimbrel._client._Connect:
    return whimbrel.connect(
        network.name,
        PORT,
        alpn="test",
        verify=network.certificate.authority,
        migration=Migration(outage=outage),
        idle_timeout=outage,
        sessions=sessions,
        early_data=sessions is not None,
        timeout=timeout,
    )


def test_a_network_with_the_other_family_alone_gets_the_next_connection(network: SimulatedNetwork) -> None:
    ipv4 = network.interface("wwan0", latency=0.040)
    ipv6 = network.interface("wlan0", latency=0.010, ipv4=False, ipv6=True, up=False)
    store = SessionStore()

    async def program() -> list[tuple[float, str, bool | None]]:
        used = []
        async with serving(network):
            async for connection in dialling(network, outage=3.0, sessions=store):
                try:
                    assert await ask(connection, b"one") == b"answer to one"
                    used.append((network.now, connection.path.remote[0], connection.early_data_accepted))
                    if len(used) == 2:
                        await connection.close()
                        return used
                    ipv4.down()
                    ipv6.up()
                    await ask(connection, b"two")
                except ConnectionLost:
                    continue
        raise AssertionError("it has no end of its own")

    first, second = network.run(program(), horizon=60.0)
    assert first[1:] == (network.server_address[0], None)
    # The first is held for the outage; the next needs a moment, though no address of its family was tried before.
    assert second[1] == network.server_address6[0]
    assert second[0] - first[0] == pytest.approx(3.0, abs=0.5)


def test_what_the_next_one_is_asked_first_goes_early(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.050)
    store = SessionStore()

    async def program() -> list[bool | None]:
        taken: list[bool | None] = []
        async with serving(network):
            async for connection in dialling(network, sessions=store):
                async with connection:
                    await ask(connection, b"one")
                    taken.append(connection.early_data_accepted)
                    await asyncio.sleep(GOOD + 1.0)
                if len(taken) == 2:
                    return taken
        raise AssertionError("it has no end of its own")

    assert network.run(program(), horizon=60.0) == [None, True]


def test_the_one_before_is_closed_and_a_good_one_costs_no_pause(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010)

    async def program() -> tuple[list[Connection], list[float]]:
        seen: list[Connection] = []
        times = []
        async with serving(network):
            async for connection in dialling(network):
                seen.append(connection)
                times.append(network.now)
                if len(seen) == 3:
                    await connection.close()
                    return seen, times
                await asyncio.sleep(GOOD + 1.0 if len(seen) == 1 else 0.0)
        raise AssertionError("it has no end of its own")

    seen, times = network.run(program(), horizon=60.0)
    assert all("closed" in repr(connection) for connection in seen)
    assert times[1] - times[0] == pytest.approx(GOOD + 1.0 + 0.02, abs=0.02)
    assert times[2] - times[1] == pytest.approx(PAUSE[0] + 0.02, abs=0.02)


def test_pauses_grow_and_a_network_that_appears_ends_them(network: SimulatedNetwork) -> None:
    wifi = network.interface("wlan0", latency=0.010, up=False)
    network.at(100.0, wifi.up)

    async def program() -> float:
        async with serving(network):
            async for connection in dialling(network):
                await connection.close()
                return network.now
        raise AssertionError("it has no end of its own")

    assert network.run(program(), horizon=200.0) == pytest.approx(100.02, abs=0.05)


def test_a_server_that_is_away_is_not_asked_all_the_time(network: SimulatedNetwork) -> None:
    wifi = network.interface("wlan0", latency=0.010, portal=True)
    network.at(300.0, lambda: wifi.silence(False))

    async def program() -> float:
        async with serving(network):
            async for connection in dialling(network, timeout=1.0):
                await connection.close()
                return network.now
        raise AssertionError("it has no end of its own")

    assert network.run(program(), horizon=400.0) < 300.0 + PAUSE[1] + 2.0
    assert len({packet.payload[6 : 6 + packet.payload[5]] for packet in wifi.packets if packet.time < 300.0}) < 40


def test_what_no_repetition_cures_is_raised(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010)

    async def program() -> None:
        files = network.certificate
        async with whimbrel.serve(answer, port=PORT, cert=(files.chain, files.key), alpn="other"):
            async for _ in dialling(network):
                raise AssertionError("it does not speak that")

    with pytest.raises(whimbrel.AlpnMismatch):
        network.run(program(), horizon=10.0)
