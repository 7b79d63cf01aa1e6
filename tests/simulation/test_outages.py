"""No network at all for a time, or one that carries nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.support import (
    BYTES,
    ROUND_TRIP,
    SETTLED,
    STEADY,
    SWIFT,
    WIFI,
    add_cellular,
    add_wifi,
    ids_by_address,
    shared,
)
from whimbrel import Migration, NetworkLost, NetworkRestored, OutageTimeout, PathRejected, _control
from whimbrel.testing._simulation import SimulatedServer

if TYPE_CHECKING:
    from tests.simulation.conftest import Simulate
    from whimbrel.testing._simulated_transfer import Transfer
    from whimbrel.testing._simulation import SimulatedNetwork

UP_AND_DOWN = pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
BACK = SETTLED + 20.0


# No network -----------------------------------------------------------------------------------------------------------


@UP_AND_DOWN
def test_another_network_after_an_outage_is_used_at_once(network: SimulatedNetwork, upload: bool) -> None:
    wifi, cellular = add_wifi(network, up=False), add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, cellular.down)
    network.at(BACK, wifi.up)
    network.run()
    assert transfer.complete
    assert transfer.resumed_after(BACK) < 4 * WIFI + 0.100
    assert [move.reason for move in network.moves] == ["restored"]
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


@UP_AND_DOWN
def test_the_same_network_after_an_outage_is_used_at_once(network: SimulatedNetwork, upload: bool) -> None:
    cellular = add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, cellular.down)
    network.at(BACK, cellular.up)
    network.run()
    assert transfer.complete
    assert transfer.resumed_after(BACK) < 2 * ROUND_TRIP + 0.100
    lost, _, restored = (change for _, change in network.changes)
    assert lost == NetworkLost()
    assert isinstance(restored, NetworkRestored)
    assert restored.interface == "wwan0"
    assert restored.outage == pytest.approx(20.0, abs=0.010)


def test_an_outage_beyond_the_peers_idle_timeout_ends_the_connection_as_soon_as_it_is_over(
    simulate: Simulate,
) -> None:
    network = simulate(server=SimulatedServer(idle_timeout=10.0))
    cellular = add_cellular(network)
    transfer = network.download(BYTES)
    network.at(SETTLED, cellular.down)
    network.at(BACK, cellular.up)
    network.run()
    assert not transfer.complete
    assert network.lost is not None
    assert network.lost[0] == "reset"  # RFC 9000 §10.3: the server knows nothing of it any more.
    assert network.now < BACK + 2 * ROUND_TRIP + 0.100


def test_an_outage_that_is_too_long_is_given_up(simulate: Simulate) -> None:
    network = simulate(migration=Migration(outage=30.0))
    cellular = add_cellular(network)
    network.download(BYTES)
    network.at(SETTLED, cellular.down)
    network.run()
    assert isinstance(network.failure, OutageTimeout)
    assert network.now == pytest.approx(SETTLED + 30.0, abs=0.010)


def test_nothing_is_sent_in_an_outage(network: SimulatedNetwork) -> None:
    cellular = add_cellular(network)
    network.upload(BYTES)
    network.at(SETTLED, cellular.down)
    network.advance(SETTLED + 0.1)
    errors = network.stats.send_errors
    network.advance(20.0)
    assert network.stats.send_errors == errors


# A network that carries nothing ---------------------------------------------------------------------------------------


@UP_AND_DOWN
def test_a_black_hole_is_left_within_a_second(network: SimulatedNetwork, upload: bool) -> None:
    wifi, cellular = add_wifi(network), add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, wifi.silence)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < 1.0
    assert [move.reason for move in network.moves] == ["silent"]
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


@UP_AND_DOWN
def test_a_flow_that_breaks_off_is_not_waited_for_long(network: SimulatedNetwork, upload: bool) -> None:
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, wifi.silence)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < 0.3
    assert [move.reason for move in network.moves] == ["silent"]


def test_a_crowd_of_connections_is_not_looked_at_so_closely(
    network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_control, "FEW", 0)
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.download(BYTES)
    network.at(SETTLED, wifi.silence)
    network.run()
    assert transfer.complete
    assert 0.3 < transfer.longest_silence < 1.0


def test_a_radio_that_naps_keeps_what_flows_over_it(network: SimulatedNetwork) -> None:
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.download(BYTES)
    for nap in range(12):
        network.at(SETTLED + nap / 4, wifi.silence)
        network.at(SETTLED + nap / 4 + 0.04, lambda: wifi.silence(False))
    network.run()
    assert transfer.complete
    assert network.moves == []
    assert len(network.probes) <= 3


@pytest.mark.parametrize("every", [1.0, 0.05], ids=["now and then", "all the time"])
def test_a_request_into_a_black_hole_is_answered_within_a_second(network: SimulatedNetwork, every: float) -> None:
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.requests(int(10 / every), every=every)
    network.at(4.5, wifi.silence)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < every + 1.0


@UP_AND_DOWN
def test_a_portal_costs_nothing(simulate: Simulate, upload: bool) -> None:
    network = simulate(limits=STEADY)
    wifi, _ = add_wifi(network, up=False, portal=True), add_cellular(network)
    transfer = network.upload(2 * BYTES) if upload else network.download(2 * BYTES)
    network.at(SETTLED, wifi.up)
    network.run()
    assert transfer.complete
    assert network.moves == []
    assert PathRejected("wlan0", "no-answer") in [change for _, change in network.changes]
    assert transfer.longest_silence < ROUND_TRIP
    assert len(network.probes) < 10


def test_a_portal_that_is_passed_is_moved_to(network: SimulatedNetwork) -> None:
    wifi, _ = add_wifi(network, portal=True, up=False), add_cellular(network)
    transfer = network.requests(60, every=1.0)
    network.at(2.0, wifi.up)
    network.at(20.0, lambda: wifi.silence(False))
    network.run()
    assert transfer.complete
    assert [move.new.interface for move in network.moves] == ["wlan0"]


def test_a_black_hole_that_ends_is_returned_to(network: SimulatedNetwork) -> None:
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.requests(80, every=0.5)
    network.at(2.2, wifi.silence)
    network.at(10.0, lambda: wifi.silence(False))
    network.run()
    assert transfer.complete
    assert [move.reason for move in network.moves] == ["silent", "returned"]
    assert not shared(ids_by_address(network))


@UP_AND_DOWN
def test_a_tunnel_is_survived_though_nobody_says_that_there_is_one(network: SimulatedNetwork, upload: bool) -> None:
    cellular = add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, cellular.silence)
    network.at(BACK, lambda: cellular.silence(False))
    network.run()
    assert transfer.complete
    # The silent path is asked every two seconds; otherwise the server's own back-off decides: half a minute and more.
    assert transfer.resumed_after(BACK) < 2.5


# NATs -----------------------------------------------------------------------------------------------------------------


@UP_AND_DOWN
@pytest.mark.parametrize("address", [False, True], ids=["port", "address"])
def test_a_nat_that_forgets_is_not_noticed(network: SimulatedNetwork, upload: bool, address: bool) -> None:
    cellular = add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, lambda: cellular.rebind(address=address))
    network.run()
    assert transfer.complete
    assert network.moves == []
    assert transfer.silence_after(SETTLED) < SWIFT
    assert max(transfer.silence_after(SETTLED + 0.010 * moment) for moment in range(50)) < 0.300


def forget_in_silence(network: SimulatedNetwork) -> Transfer:
    """The NAT forgets, and what is under way is lost: the server speaks to nobody, and a receiver has no cause to."""
    cellular = add_cellular(network)
    transfer = network.download(BYTES)
    network.at(SETTLED, cellular.silence)
    network.at(SETTLED + 0.1, cellular.rebind)
    network.at(SETTLED + 0.1, lambda: cellular.silence(False))
    network.run()
    return transfer


def test_a_ping_in_a_silence_tells_the_server_where_we_are_now(network: SimulatedNetwork) -> None:
    transfer = forget_in_silence(network)
    assert transfer.complete
    assert transfer.resumed_after(SETTLED) < 0.200 + SWIFT
