"""What a program decides by itself: which networks it likes, whom it asks, and its own policy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import pytest

import whimbrel
from whimbrel import ConnectFailed, Connection, Migration, NetworkLost, NoAnswer, NoRoute, SessionStore
from whimbrel.policy import Migrate, MigrationPolicy, RoutesChanged
from whimbrel.testing import SimulatedNetwork

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from whimbrel.policy import Action, Event, Facts

PORT = 4433
Result = TypeVar("Result")


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(seed=1) as network:
        yield network


async def echo(connection: Connection) -> None:
    async for stream in connection.streams():
        assert isinstance(stream, whimbrel.Stream)
        async with stream:
            await stream.write(await stream.read())


async def say(connection: Connection, data: bytes) -> bytes:
    async with await connection.open_stream() as stream:
        await stream.write(data)
        await stream.finish()
        return await stream.read()


def connected(
    network: SimulatedNetwork, do: Callable[[Connection], Awaitable[Result]], migration: Migration | None = None
) -> Result:
    """Do something with a connection to an echo server."""

    async def program() -> Result:
        files = network.certificate
        async with (
            whimbrel.serve(echo, network.server_address[0], PORT, cert=(files.chain, files.key), alpn="test"),
            whimbrel.connect(
                network.name, PORT, alpn="test", verify=files.authority, migration=migration or Migration()
            ) as connection,
        ):
            assert await say(connection, b"hello") == b"hello"
            return await do(connection)

    return network.run(program())


# probe() --------------------------------------------------------------------------------------------------------------


def test_another_network_is_asked_and_the_connection_stays(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010)
    network.interface("wwan0", latency=0.040)

    async def ask(connection: Connection) -> None:
        for interface, latency in (("wwan0", 0.040), ("wlan0", 0.010), (None, 0.010)):
            answer = await connection.probe(interface=interface)
            assert answer.rtt == pytest.approx(2 * latency, abs=0.005)
        assert connection.path.interface == "wlan0"
        assert connection.stats().moves == 0

    connected(network, ask)


def test_three_questions_are_put_to_a_network_that_carries_nothing(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010)
    network.interface("wwan0", latency=0.040, portal=True)

    async def ask(connection: Connection) -> None:
        began = network.now
        with pytest.raises(NoAnswer, match="over wwan0"):
            await connection.probe(interface="wwan0")
        assert network.now - began == pytest.approx(1.1, abs=0.2)
        assert len(network.probes) == 3
        # A connection that is well is not moved by that, nor is the network held against it.
        assert await say(connection, b"still") == b"still"
        assert connection.path.interface == "wlan0"

    connected(network, ask)


def test_a_network_that_is_down_is_no_route(network: SimulatedNetwork) -> None:
    network.interface("wlan0")
    network.interface("wwan0", up=False)

    async def ask(connection: Connection) -> None:
        with pytest.raises(NoRoute):
            await connection.probe(interface="wwan0")

    connected(network, ask)
    assert network.probes == []


# prefer ---------------------------------------------------------------------------------------------------------------

MOBILE = Migration(prefer=["wwan*"])


def test_the_favourite_is_moved_to_when_it_appears_though_the_kernel_prefers_another(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010, metric=100)
    cellular = network.interface("wwan0", latency=0.040, metric=200, up=False)

    async def follow(connection: Connection) -> None:
        assert connection.path.interface == "wlan0"
        cellular.up()
        async for change in connection.path_changes():
            if isinstance(change, whimbrel.PathMigrated):
                assert (change.new.interface, change.reason) == ("wwan0", "preferred")
                break
        assert await say(connection, b"there") == b"there"
        assert (await connection.migrate()).interface == "wwan0"  # Preferred by whoever has a preference.

    connected(network, follow, MOBILE)


def test_the_favourite_that_is_gone_is_left_and_returned_to(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010, metric=100)
    cellular = network.interface("wwan0", latency=0.040, metric=200)

    async def follow(connection: Connection) -> None:
        assert connection.path.interface == "wwan0"
        changes = connection.path_changes()
        cellular.down()
        network.at(network.now + 5.0, cellular.up)
        moves: list[str | None] = []
        while len(moves) < 2:
            change = await anext(changes)
            if isinstance(change, whimbrel.PathMigrated):
                moves.append(change.new.interface)
        assert moves == ["wlan0", "wwan0"]

    connected(network, follow, MOBILE)


# A policy of one's own ------------------------------------------------------------------------------------------------


class NeverMobile(MigrationPolicy):
    """Whimbrel's judgement, but for one kind of network, which there is none of."""

    def handle(self, event: Event, facts: Facts, now: float) -> list[Action]:
        if isinstance(event, RoutesChanged):
            event = RoutesChanged(tuple(route for route in event.routes if not route.interface.startswith("wwan")))
        return super().handle(event, facts, now)


class Failing(MigrationPolicy):
    """Fails when it is to move."""

    def handle(self, event: Event, facts: Facts, now: float) -> list[Action]:
        actions = super().handle(event, facts, now)
        if any(isinstance(action, Migrate) for action in actions):
            raise ZeroDivisionError
        return actions


def test_a_policy_of_ones_own_decides(network: SimulatedNetwork) -> None:
    wifi = network.interface("wlan0", latency=0.010, metric=100)
    network.interface("wwan0", latency=0.040, metric=200)

    async def lose(connection: Connection) -> None:
        changes = connection.path_changes()
        wifi.down()
        assert isinstance(await anext(changes), NetworkLost)
        network.at(network.now + 5.0, wifi.up)
        assert await say(connection, b"back") == b"back"
        assert connection.path.interface == "wlan0"

    connected(network, lose, Migration(policy=NeverMobile))
    assert [move.new.interface for move in network.moves] == ["wlan0"]


def test_when_it_fails_whimbrel_moves(network: SimulatedNetwork, caplog: pytest.LogCaptureFixture) -> None:
    wifi = network.interface("wlan0", latency=0.010, metric=100)
    network.interface("wwan0", latency=0.040, metric=200)

    async def lose(connection: Connection) -> None:
        wifi.down()
        assert await say(connection, b"there") == b"there"
        assert connection.path.interface == "wwan0"

    connected(network, lose, Migration(policy=Failing))
    assert "its policy failed" in caplog.text


# A network of the other address family alone --------------------------------------------------------------------------


def test_where_only_the_other_family_is_left_a_program_connects_again_without_waiting(
    network: SimulatedNetwork,
) -> None:
    """What docs/api.md recommends: a connection cannot go from IPv4 to IPv6, and its streams end with it."""
    ipv4 = network.interface("wwan0", latency=0.040)
    ipv6 = network.interface("wlan0", latency=0.010, ipv4=False, ipv6=True, up=False)
    store = SessionStore()

    async def dial_until_there() -> Connection:
        while True:
            try:
                return await dial()
            except ConnectFailed:
                await asyncio.sleep(1.0)

    async def dial() -> Connection:
        return await whimbrel.connect(
            network.name, PORT, alpn="test", verify=network.certificate.authority, sessions=store, early_data=True
        )

    async def program() -> None:
        files, hosts = network.certificate, (network.server_address[0], network.server_address6[0])
        async with (
            whimbrel.serve(echo, hosts, PORT, cert=(files.chain, files.key), alpn="test", early_data=True),
            await dial() as connection,
        ):
            assert await say(connection, b"one") == b"one"
            assert connection.path.remote[0] == network.server_address[0]
            changes = connection.path_changes()
            ipv4.down()
            network.at(network.now + 3.0, ipv6.up)
            assert isinstance(await anext(changes), NetworkLost)
            async with await dial_until_there() as fresh:
                assert await say(fresh, b"two") == b"two"
                assert fresh.path.remote[0] == network.server_address6[0]
                assert fresh.session_reused

    network.run(program())
