"""What a program may do about the path by itself, as far as one machine without networks shows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, get_args

import pytest

import tests.loopback.sync_support as blocking
import whimbrel.policy
import whimbrel.sync
from tests.loopback.support import SOON, dial, echo_server, nothing_left, pair, relay
from whimbrel import (
    ConnectionLost,
    Migration,
    MigrationDisabled,
    MigrationError,
    NoAnswer,
    NoRoute,
    PathProbed,
)
from whimbrel.policy import (
    Accepted,
    Action,
    Event,
    Facts,
    MoveRequested,
    Policy,
    Refuse,
    RoutesChanged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    import whimbrel.sync
    from tests.loopback.support import Certificates
    from whimbrel.network import Route

pytestmark = pytest.mark.timeout(30)


# probe() --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", [None, "lo"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_probe_tells_how_long_the_server_takes_to_answer(
    certificates: Certificates, host: str, interface: str | None
) -> None:
    async with pair(certificates, host, migration=Migration()) as (client, _):
        before = client.path
        answer = await client.probe(interface=interface)
        assert answer.interface == "lo"
        assert 0 < answer.rtt < SOON
        assert (client.path.local, client.path.since) == (before.local, before.since)
        assert client.stats().moves == 0


async def test_the_watchers_of_the_path_are_told_nothing_of_it(certificates: Certificates) -> None:
    async with pair(certificates, migration=Migration()) as (client, _):
        changes = client.path_changes()
        await client.probe()
    assert [change async for change in changes] == []


async def test_an_interface_that_leads_nowhere_is_no_route(certificates: Certificates) -> None:
    async with pair(certificates, migration=Migration()) as (client, _):
        with pytest.raises(NoRoute, match=r"127\.0\.0\.1"):
            await client.probe(interface="tun7")


async def test_who_watches_no_path_probes_none(certificates: Certificates) -> None:
    async with pair(certificates, migration=None) as (client, server):
        for end in (client, server):
            with pytest.raises(MigrationDisabled):
                await end.probe()


async def test_by_hand_it_probes_as_well(certificates: Certificates) -> None:
    async with pair(certificates, migration=Migration(auto=False)) as (client, _):
        assert (await client.probe()).interface == "lo"


async def silenced(
    certificates: Certificates, ask: Callable[[whimbrel.Connection], Coroutine[object, object, PathProbed]]
) -> None:
    async with echo_server(certificates) as server, relay(server) as between:
        host, port = between.address
        async with whimbrel.connect(host, port, alpn="test", verify=certificates.ca) as client:
            between.silent = True
            await ask(client)


async def test_a_probe_without_an_answer_says_so(certificates: Certificates) -> None:
    with pytest.raises(NoAnswer, match="over lo"):
        await silenced(certificates, lambda client: client.probe())


async def test_a_probe_waits_no_longer_than_it_may(certificates: Certificates) -> None:
    with pytest.raises(NoAnswer, match=r"0\.05 s"):
        await silenced(certificates, lambda client: client.probe(timeout=0.05))


async def test_two_probes_of_one_network_at_once_are_one_too_many(certificates: Certificates) -> None:
    async def twice(client: whimbrel.Connection) -> PathProbed:
        first = asyncio.create_task(client.probe())
        try:
            await asyncio.sleep(0)
            with pytest.raises(MigrationError, match="already"):
                await client.probe()
        finally:
            first.cancel()
            await asyncio.wait([first])
        # The cancelled one is forgotten.
        return await client.probe()

    with pytest.raises(NoAnswer):
        await silenced(certificates, twice)


async def test_a_probe_ends_with_the_connection(certificates: Certificates) -> None:
    async def lose(client: whimbrel.Connection) -> PathProbed:
        probing = asyncio.create_task(client.probe())
        await asyncio.sleep(0)
        await client.close()
        return await probing

    with pytest.raises(ConnectionLost):
        await silenced(certificates, lose)


def test_a_thread_probes_as_well(certificates: Certificates) -> None:
    with blocking.pair(certificates, migration=Migration()) as (client, server):
        assert client.probe(interface="lo", timeout=SOON).interface == "lo"
        assert client.probe().rtt < SOON
        with pytest.raises(NoRoute):
            client.probe(interface="tun7")
        with pytest.raises(MigrationDisabled):
            server.probe()


# A policy of one's own ------------------------------------------------------------------------------------------------


class StayUntilTold(Policy):
    """Moves for nobody but the program, and there is nowhere to go."""

    def __init__(self, settings: Migration, active: Route | None) -> None:
        self.deadline: float | None = None
        self.active = active
        self.told: list[Event] = []

    def handle(self, event: Event, facts: Facts, now: float) -> Sequence[Action]:
        self.told.append(event)
        if isinstance(event, MoveRequested):
            wanted = event.route
            return [Refuse("no-route")] if wanted is None or wanted != self.active else [Accepted(wanted)]
        return []


async def test_a_policy_of_ones_own_answers_the_program(certificates: Certificates) -> None:
    made: list[StayUntilTold] = []

    def make(settings: Migration, active: Route | None) -> Policy:
        made.append(StayUntilTold(settings, active))
        return made[-1]

    async with pair(certificates, migration=Migration(policy=make)) as (client, _):
        assert (await client.migrate(interface="lo")).interface == "lo"
        with pytest.raises(NoRoute):
            await client.migrate()
    (policy,) = made
    first = policy.told[0]
    assert isinstance(first, RoutesChanged)
    assert [route.interface for route in first.routes] == ["lo"]


def test_a_threads_connection_is_decided_about_as_well(certificates: Certificates) -> None:
    with blocking.pair(certificates, migration=Migration(policy=StayUntilTold)) as (client, _):
        assert client.migrate(interface="lo").interface == "lo"
        with pytest.raises(NoRoute):
            client.migrate()


async def test_a_policy_that_fails_takes_no_connection_with_it(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(StayUntilTold):
        def handle(self, event: Event, facts: Facts, now: float) -> Sequence[Action]:
            if isinstance(event, MoveRequested):
                raise ZeroDivisionError
            return super().handle(event, facts, now)

    async with pair(certificates, migration=Migration(policy=Failing)) as (client, server):
        assert (await client.migrate(interface="lo")).interface == "lo"  # As whimbrel's own has it.
        async with await client.open_stream() as stream:
            await stream.write(b"here")
        received = await server.accept_stream()
        assert await received.read() == b"here"
    assert "from now on whimbrel decides" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_policy_that_cannot_be_made_is_the_callers_business(certificates: Certificates) -> None:
    def broken(settings: Migration, active: Route | None) -> Policy:
        raise LookupError("no such policy")

    async with nothing_left(), echo_server(certificates) as server:
        with pytest.raises(LookupError, match="no such policy"):
            await dial(server, certificates, migration=Migration(policy=broken))


def test_the_words_of_policies_are_all_there() -> None:
    """Whatever whimbrel's own judgement may be told or say, another one may as well."""
    for union in (Event, Action):
        for member in get_args(union):
            assert getattr(whimbrel.policy, member.__name__) is member
