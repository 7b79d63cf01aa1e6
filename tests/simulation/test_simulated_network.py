"""The simulated network itself: what it promises to those who test by it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from whimbrel.testing._simulated_link import Link
from whimbrel.testing._simulated_transfer import Checking

if TYPE_CHECKING:
    from tests.simulation.conftest import Simulate
    from whimbrel.testing import SimulatedNetwork
    from whimbrel.testing._capture import Packet


def test_a_small_exchange_takes_the_round_trips_that_the_links_have(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.050, rate=1e9)
    network.requests(1)
    network.run()
    assert network.now == pytest.approx(0.200, abs=0.001)  # One for the handshake, one for the request.


@pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
def test_a_long_transfer_has_the_rate_of_the_link(network: SimulatedNetwork, upload: bool) -> None:
    network.interface("wlan0", rate=20e6)
    transfer = network.upload(20_000_000) if upload else network.download(20_000_000)
    network.run()
    assert transfer.complete
    assert transfer.received == 20_000_000
    assert 20_000_000 * 8 / 20e6 < network.now < 1.1 * 20_000_000 * 8 / 20e6


def test_links_lose_and_reorder_what_they_are_told_to(network: SimulatedNetwork) -> None:
    network.interface("wlan0", loss=0.05, jitter=0.010)
    transfer = network.download(300_000)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence > 0.010


def test_a_test_may_lose_packets_of_its_choice(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010)
    seen: list[Packet] = []

    def lose_the_first(packet: Packet) -> bool:
        seen.append(packet)
        return len(seen) == 1

    network.lose = lose_the_first
    network.requests(1)
    network.run()
    assert seen[0].direction == "to_server"
    assert network.now > 0.2  # The first Initial was sent again.


def test_time_passes_though_nothing_happens(network: SimulatedNetwork) -> None:
    network.interface("wlan0")
    network.advance(3600.0)
    assert network.now == 3600.0
    assert network.lost is not None
    assert network.lost[0] == "idle"


def test_an_unfinished_transfer_ends_at_the_horizon(network: SimulatedNetwork) -> None:
    network.interface("wlan0", rate=1e5)
    transfer = network.download(1_000_000)
    network.run(horizon=5.0)
    assert not transfer.complete
    assert network.now == 5.0


def test_packets_of_two_runs_with_one_seed_are_lost_alike() -> None:
    def lost(seed: int) -> list[bool]:
        link, chance = Link(loss=0.5), random.Random(seed)
        return [not link.carry("to_server", 100, 0.0, chance).arrives for _ in range(100)]

    assert lost(1) == lost(1)
    assert lost(1) != lost(2)


def test_other_bytes_than_were_sent_are_noticed() -> None:
    checking = Checking(4, 100)
    with pytest.raises(AssertionError, match="other bytes"):
        checking.data(b"x" * 100)


def test_a_stream_that_ends_early_is_noticed() -> None:
    checking = Checking(4, 100)
    with pytest.raises(AssertionError, match="0 bytes of 100"):
        checking.end()


def test_a_link_delivers_some_packets_twice_and_some_late(network: SimulatedNetwork) -> None:
    interface = network.interface("wlan0", duplication=0.2, reordering=0.2)
    arrived: list[Packet] = []
    network.lose = lambda packet: bool(arrived.append(packet))  # type: ignore[func-returns-value]
    transfer = network.download(300_000)
    network.run()
    assert transfer.complete
    came = [packet.payload for packet in arrived if packet.direction == "to_server"]
    sent = [packet.payload for packet in interface.packets if packet.direction == "to_server"]
    assert len(came) > 1.1 * len(set(came))
    assert list(dict.fromkeys(came)) != sent[: len(set(came))]


def test_a_nat_forgets_what_was_quiet(network: SimulatedNetwork) -> None:
    network.interface("wlan0").forget_after(20.0)
    seen: list[int] = []
    network.lose = lambda packet: bool(
        seen.append(packet.source[1]) if packet.direction == "to_server" else None  # type: ignore[func-returns-value]
    )
    transfer = network.requests(3, every=25.0)
    network.run()
    assert transfer.complete
    assert len(set(seen)) == 3


def test_packets_larger_than_the_mtu_vanish(network: SimulatedNetwork) -> None:
    interface = network.interface("wlan0")
    transfer = network.download(2_000_000)
    network.at(0.5, lambda: setattr(interface.link, "mtu", 1280))
    network.run()
    assert transfer.complete
    late = [packet.size for packet in interface.packets if packet.time > 0.6 and packet.direction == "to_client"]
    assert late
    assert max(late) <= 1280


def test_transfers_go_over_ipv6(simulate: Simulate) -> None:
    network = simulate(ipv6=True)
    first, second = (network.interface(name, ipv6=True) for name in ("wlan0", "wwan0"))
    transfer = network.download(1_000_000)
    network.at(0.3, lambda: first.set_families(ipv4=True, ipv6=False))
    network.run()
    assert transfer.complete
    assert [move.new.local[0] for move in network.moves] == [second.address6]
