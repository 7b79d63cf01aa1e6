"""Servers that forbid moving, or do not answer probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.support import BYTES, ROUND_TRIP, SETTLED, STEADY, SWIFT, add_cellular, add_wifi
from whimbrel import MigrationDisabled, NetworkLost, PathRejected
from whimbrel.testing._simulation import SimulatedServer

if TYPE_CHECKING:
    from tests.simulation.conftest import Simulate
    from whimbrel.testing._simulation import SimulatedNetwork

FORBIDDING = pytest.mark.parametrize(
    "server", [SimulatedServer(migration=False), SimulatedServer(id_length=0)], ids=["forbidden", "no IDs"]
)
UP_AND_DOWN = pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])


# Moving is forbidden (RFC 9000 §18.2) ---------------------------------------------------------------------------------


@FORBIDDING
def test_a_better_network_is_left_alone_where_moving_is_forbidden(simulate: Simulate, server: SimulatedServer) -> None:
    network = simulate(server=server, limits=STEADY)
    wifi, _ = add_wifi(network, up=False), add_cellular(network)
    transfer = network.download(BYTES)
    network.at(SETTLED, wifi.up)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < ROUND_TRIP
    assert network.moves == []
    assert wifi.packets == []


@FORBIDDING
def test_the_first_network_is_waited_for_where_moving_is_forbidden(simulate: Simulate, server: SimulatedServer) -> None:
    network = simulate(server=server)
    wifi, cellular = add_wifi(network), add_cellular(network)
    transfer = network.upload(BYTES)
    network.at(SETTLED, wifi.down)
    network.at(SETTLED + 5.0, wifi.up)
    network.run()
    assert transfer.complete
    assert transfer.resumed_after(SETTLED + 5.0) < 1.0
    changes = [change for _, change in network.changes]
    assert changes[:2] == [NetworkLost(), PathRejected("wwan0", "migration-disabled")]
    assert cellular.packets == []


@FORBIDDING
def test_asking_for_a_move_says_that_it_is_forbidden(simulate: Simulate, server: SimulatedServer) -> None:
    network = simulate(server=server)
    add_wifi(network)
    add_cellular(network)
    network.advance(0.5)
    with pytest.raises(MigrationDisabled):
        network.migrate("wwan0").result(0)


# Probes are not answered ----------------------------------------------------------------------------------------------


@pytest.fixture
def silent(simulate: Simulate) -> SimulatedNetwork:
    """With a server that ignores versions that it does not know."""
    return simulate(server=SimulatedServer(answers_probes=False))


@UP_AND_DOWN
def test_a_server_that_ignores_probes_is_moved_on_trust(silent: SimulatedNetwork, upload: bool) -> None:
    wifi, cellular = add_wifi(silent, up=False), add_cellular(silent)
    transfer = silent.upload(3 * BYTES) if upload else silent.download(3 * BYTES)
    silent.at(SETTLED, wifi.up)
    silent.run()
    assert transfer.complete
    assert [move.reason for move in silent.moves] == ["preferred"]
    moved_at = next(time for time, _ in silent.changes)
    assert transfer.silence_after(moved_at) < SWIFT
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


@UP_AND_DOWN
def test_a_portal_that_was_trusted_is_left_again(silent: SimulatedNetwork, upload: bool) -> None:
    wifi, cellular = add_wifi(silent, up=False, portal=True), add_cellular(silent)
    transfer = silent.upload(3 * BYTES) if upload else silent.download(3 * BYTES)
    silent.at(SETTLED, wifi.up)
    silent.run()
    assert transfer.complete
    assert [move.reason for move in silent.moves][:2] == ["preferred", "rolled-back"]
    assert transfer.longest_silence < 1.0
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


@UP_AND_DOWN
def test_a_black_hole_is_left_though_the_server_ignores_probes(silent: SimulatedNetwork, upload: bool) -> None:
    wifi, cellular = add_wifi(silent), add_cellular(silent)
    transfer = silent.upload(BYTES) if upload else silent.download(BYTES)
    silent.at(SETTLED, wifi.silence)
    silent.run()
    assert transfer.complete
    # Moving on trust comes last: what could be asked is asked first.
    assert transfer.longest_silence < 2.0
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)
