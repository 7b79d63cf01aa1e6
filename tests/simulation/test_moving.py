"""Networks come and go while another one works."""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING

import pytest

from tests.simulation.support import (
    BYTES,
    CELLULAR,
    ROUND_TRIP,
    SETTLED,
    STEADY,
    SWIFT,
    SWIFT_UPLOAD,
    WIFI,
    add_cellular,
    add_wifi,
    ids_by_address,
    shared,
)
from whimbrel import Migration, NoAnswer, NoRoute, PathMigrated, PathProbed

if TYPE_CHECKING:
    from tests.simulation.conftest import Simulate
    from whimbrel.testing._simulation import SimulatedNetwork

# A network goes away --------------------------------------------------------------------------------------------------


def test_download_survives_leaving_wifi(network: SimulatedNetwork) -> None:
    wifi, cellular = add_wifi(network), add_cellular(network)
    transfer = network.download(BYTES)
    network.at(SETTLED, wifi.down)
    network.run()
    assert transfer.complete
    assert transfer.silence_after(SETTLED) < SWIFT
    assert [move.reason for move in network.moves] == ["dead"]
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)  # RFC 9000 §9.5: not linkable


def test_upload_survives_leaving_wifi(network: SimulatedNetwork) -> None:
    wifi, cellular = add_wifi(network), add_cellular(network)
    transfer = network.upload(BYTES)
    network.at(SETTLED, wifi.down)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < SWIFT_UPLOAD
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


def test_both_directions_at_once_survive_leaving_wifi(network: SimulatedNetwork) -> None:
    wifi, cellular = add_wifi(network), add_cellular(network)
    download, upload = network.download(BYTES), network.upload(BYTES)
    network.at(SETTLED, wifi.down)
    network.run()
    assert download.complete
    assert upload.complete
    assert download.silence_after(SETTLED) < SWIFT_UPLOAD
    assert upload.silence_after(SETTLED) < SWIFT_UPLOAD
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


def test_small_requests_go_on_after_leaving_wifi(network: SimulatedNetwork) -> None:
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.requests(50, every=0.020)
    network.at(0.5, wifi.down)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < SWIFT_UPLOAD


def test_bad_links_on_both_sides_of_a_cut(network: SimulatedNetwork) -> None:
    wifi = network.interface("wlan0", latency=0.005, loss=0.02, jitter=0.005)
    cellular = network.interface("wwan0", latency=0.020, loss=0.02, jitter=0.010)
    transfer = network.download(500_000)
    network.at(0.5, wifi.down)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < 1.0
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


# A better network appears ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
def test_wifi_that_appears_is_used_without_a_stall(simulate: Simulate, upload: bool) -> None:
    network = simulate(limits=STEADY)
    wifi, cellular = add_wifi(network, up=False), add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, wifi.up)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < ROUND_TRIP
    assert [move.reason for move in network.moves] == ["preferred"]
    assert not [packet for packet in cellular.packets if packet.time > SETTLED + 0.2]
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


@pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
def test_what_left_over_the_slow_path_arrives_before_the_server_has_followed_to_the_fast_one(
    simulate: Simulate, upload: bool
) -> None:
    network = simulate(limits=STEADY)
    wifi, cellular = add_wifi(network, up=False), add_cellular(network)
    _ = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, wifi.up)
    network.run()
    last = max(packet.time for packet in cellular.packets if packet.direction == "to_server")
    first = min(packet.time for packet in wifi.packets if packet.direction == "to_server" and packet.time > last)
    validated = first + 3 * WIFI  # asked, and answered
    assert last + CELLULAR < validated
    assert first < last + 0.020


def test_data_move_to_wifi_only_when_the_server_has_answered_there(network: SimulatedNetwork) -> None:
    wifi, _ = add_wifi(network, up=False), add_cellular(network)
    network.download(BYTES)
    network.at(0.5, wifi.up)
    network.run()
    (probed_at, probed), (moved_at, moved) = network.changes
    assert isinstance(probed, PathProbed)
    assert probed.rtt == pytest.approx(2 * WIFI, abs=0.005)
    assert isinstance(moved, PathMigrated)
    assert moved_at == probed_at
    assert network.probes == [pytest.approx(0.5, abs=0.005)]


def test_over_and_back_and_over_again(network: SimulatedNetwork) -> None:
    wifi, _ = add_wifi(network, up=False), add_cellular(network)
    transfer = network.download(2 * BYTES)
    network.at(SETTLED, wifi.up)
    network.at(SETTLED + 0.6, wifi.down)
    network.at(SETTLED + 1.2, wifi.up)
    network.run()
    assert transfer.complete
    assert transfer.silence_after(SETTLED + 0.6) < SWIFT
    assert [move.reason for move in network.moves] == ["preferred", "dead", "preferred"]
    assert not any(move.linkable for move in network.moves)
    assert not shared(ids_by_address(network))


# Many networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
def test_one_connection_over_twenty_addresses_in_a_row(network: SimulatedNetwork, upload: bool) -> None:
    wifi = add_wifi(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    for number in range(20):
        network.at(0.3 + 0.1 * number, functools.partial(wifi.up, address=f"10.0.1.{100 + number}"))
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < 0.2
    assert len(network.moves) == 20
    assert not any(move.linkable for move in network.moves)
    assert len(ids_by_address(network)) == 21
    assert not shared(ids_by_address(network))


def test_moves_faster_than_the_server_issues_ids_are_reported_as_linkable(network: SimulatedNetwork) -> None:
    wifi = network.interface("wlan0", latency=0.050)
    transfer = network.download(1_000_000)
    for number in range(12):
        network.at(0.5 + 0.006 * number, functools.partial(wifi.up, address=f"10.0.1.{100 + number}"))
    network.run()
    assert transfer.complete
    linkable = [move.linkable for move in network.moves]
    assert linkable.count(False) >= 4  # As many as the engine keeps in store.
    assert 0 < len(shared(ids_by_address(network))) <= linkable.count(True)


def test_a_move_that_can_wait_waits_for_a_fresh_id(network: SimulatedNetwork) -> None:
    wifi, cellular = add_wifi(network), add_cellular(network)
    transfer = network.download(BYTES)
    wifi.link.latency = 0.050
    network.advance(1.0)
    for number in range(4):  # Each of these has to be made at once, and takes one of the IDs in store.
        wifi.up(address=f"10.0.1.{100 + number}")
        network.advance(0.006)
    moving = network.migrate("wwan0")
    network.run()
    assert moving.result(0).interface == "wwan0"
    assert transfer.complete
    assert not any(move.linkable for move in network.moves)
    assert network.changes[-1][0] > 1.1  # The answers to the probe came before.
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


# A move that is asked for ---------------------------------------------------------------------------------------------


def test_a_move_that_is_asked_for_is_made_and_stays(network: SimulatedNetwork) -> None:
    wifi, cellular = add_wifi(network), add_cellular(network)
    transfer = network.download(BYTES)
    network.advance(SETTLED)
    moving = network.migrate("wwan0")
    network.run()
    assert moving.result(0).interface == "wwan0"
    assert [move.reason for move in network.moves] == ["requested"]
    assert transfer.complete
    assert transfer.silence_after(SETTLED) < SWIFT
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


@pytest.mark.parametrize("queue", [0.005, 0.010, 0.020], ids=lambda queue: f"{1000 * queue:g}ms")
def test_a_move_between_like_networks_keeps_the_rate_and_soon_the_size_of_packets(
    simulate: Simulate, queue: float
) -> None:
    """What is under way on the path before looks lost, in pieces: neither a narrow path nor a full one."""
    network = simulate()
    network.interface("wlan0", latency=0.010, rate=20e6, queue=queue, metric=100)
    second = network.interface("wlan1", latency=0.010, rate=20e6, queue=queue, metric=200)
    transfer = network.download(20_000_000)
    network.advance(SETTLED)
    moving = network.migrate("wlan1")
    network.run()
    assert moving.result(0).interface == "wlan1"
    assert transfer.complete
    came = [packet for packet in second.packets if packet.direction == "to_client"]
    assert 8 * sum(packet.size for packet in came if SETTLED + 0.5 < packet.time <= SETTLED + 1.5) > 0.8 * 20e6
    assert statistics.median(packet.size for packet in came if packet.time > SETTLED + 3.0) > 1300


def test_a_move_to_a_portal_is_refused_and_costs_nothing(simulate: Simulate) -> None:
    network = simulate(limits=STEADY)
    add_wifi(network)
    add_cellular(network, portal=True)
    transfer = network.download(2 * BYTES)
    network.advance(SETTLED)
    moving = network.migrate("wwan0")
    network.run()
    with pytest.raises(NoAnswer):
        moving.result(0)
    assert network.moves == []
    assert transfer.complete
    assert transfer.longest_silence < ROUND_TRIP


def test_a_move_to_an_interface_that_leads_nowhere_is_refused_at_once(network: SimulatedNetwork) -> None:
    add_wifi(network)
    add_cellular(network, up=False)
    network.advance(0.3)
    with pytest.raises(NoRoute):
        network.migrate("wwan0").result(0)


@pytest.mark.parametrize("auto", [True, False])
def test_a_move_that_is_asked_for_at_once_waits_for_the_handshakes_confirmation(simulate: Simulate, auto: bool) -> None:
    """Which is no event: where nothing was done by itself, nobody looked for it, and the move was never made."""
    network = simulate(migration=Migration(auto=auto))
    network.interface("wlan0", latency=0.050, rate=1e9)
    network.interface("wwan0", latency=0.050, rate=1e9)
    network.advance(0.150)  # The handshake took one round trip; its confirmation takes one more.
    moving = network.migrate("wwan0")
    assert not moving.done()
    network.advance(0.250)
    assert moving.result(0).interface == "wwan0"
