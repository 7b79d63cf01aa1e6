"""Networks that carry something, but not well, and networks that cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from tests.simulation.support import add_cellular, add_wifi
from whimbrel import Migration, PathMigrated

if TYPE_CHECKING:
    from tests.simulation.conftest import Simulate
    from whimbrel.testing import SimulatedInterface, SimulatedNetwork, Transfer

BYTES = 8_000_000
"""Takes 14 s, on a network that loses nothing."""


def worsen(network: SimulatedNetwork, interface: SimulatedInterface, loss: float, at: float = 1.0) -> None:
    def lose() -> None:
        interface.link.loss = loss

    network.at(at, lose)


def start(network: SimulatedNetwork, what: Literal["upload", "download"], size: int = BYTES) -> Transfer:
    return network.upload(size) if what == "upload" else network.download(size)


def reasons(network: SimulatedNetwork) -> list[tuple[str | None, str]]:
    return [(move.new.interface, move.reason) for move in network.moves]


@pytest.mark.parametrize("what", ["upload", "download"])
def test_a_transfer_leaves_a_network_that_loses_much(simulate: Simulate, what: Literal["upload", "download"]) -> None:
    # With less patience for silence, that would often be the reason: a few packets in a row are lost soon.
    network = simulate(migration=Migration(silence=10.0))
    wifi = add_wifi(network)
    add_cellular(network)
    transfer = start(network, what)
    worsen(network, wifi, 0.2)
    network.run()
    assert transfer.complete
    assert reasons(network)[-1] == ("wwan0", "lossy")
    assert network.now < 1.0 + 20.0 + BYTES * 8 / 5e6


@pytest.mark.parametrize("what", ["upload", "download"])
def test_a_little_loss_is_no_reason_to_move(simulate: Simulate, what: Literal["upload", "download"]) -> None:
    network = simulate()
    wifi = add_wifi(network)
    add_cellular(network)
    transfer = start(network, what)
    worsen(network, wifi, 0.02)
    network.run()
    assert transfer.complete
    assert network.moves == []


@pytest.mark.parametrize(("rate", "queue"), [(1e6, 0.050), (0.25e6, 0.200), (10e6, 0.020)])
def test_what_an_upload_loses_because_it_fills_the_queue_is_no_reason_to_move(
    simulate: Simulate, rate: float, queue: float
) -> None:
    network = simulate()
    network.interface("wlan0", latency=0.010, rate=rate, queue=queue, metric=100)
    add_cellular(network)
    network.upload(1 << 30)
    network.advance(20.0)
    assert network.moves == []


def test_two_bad_networks_are_not_swapped_all_the_time(simulate: Simulate) -> None:
    network = simulate()
    for interface in (add_wifi(network), add_cellular(network)):
        worsen(network, interface, 0.12)
    network.upload(100_000_000)
    network.advance(300.0)
    assert len(network.moves) <= 10
    assert len(network.probes) <= 120


def test_it_returns_to_a_network_that_recovers_and_stays(simulate: Simulate) -> None:
    network = simulate()
    wifi = add_wifi(network)
    add_cellular(network)
    network.upload(100_000_000)
    worsen(network, wifi, 0.15)
    worsen(network, wifi, 0.0, at=30.0)
    network.advance(120.0)
    assert reasons(network)[-1] == ("wlan0", "returned")
    back = next(at for at, change in reversed(network.changes) if isinstance(change, PathMigrated))
    assert back < 100.0


def test_a_metered_network_is_not_taken_for_losses_but_for_silence(simulate: Simulate) -> None:
    network = simulate(migration=Migration(metered=["wwan*"]))
    wifi = add_wifi(network)
    add_cellular(network)
    network.upload(100_000_000)
    worsen(network, wifi, 0.12)
    network.advance(60.0)
    assert [move for move in network.moves if move.reason == "lossy"] == []
    network.at(network.now, wifi.silence)
    network.advance(3.0)
    assert reasons(network)[-1] == ("wwan0", "silent")


def test_a_metered_network_is_left_for_one_that_the_kernel_likes_less(simulate: Simulate) -> None:
    network = simulate(migration=Migration(metered=["wlan*"]))
    add_wifi(network)
    network.download(2_000_000)
    network.at(1.0, lambda: add_cellular(network))
    network.run()
    assert reasons(network) == [("wwan0", "preferred")]


def test_what_the_program_chose_lasts_no_longer_than_it_said(simulate: Simulate) -> None:
    network = simulate(migration=Migration(max_time_on_non_default=20.0))
    add_wifi(network)
    add_cellular(network)
    network.requests(400, every=0.1)
    network.at(2.0, lambda: network.migrate("wwan0"))
    network.run()
    assert reasons(network) == [("wwan0", "requested"), ("wlan0", "preferred")]
    moves = [at for at, change in network.changes if isinstance(change, PathMigrated)]
    assert moves[1] - moves[0] == pytest.approx(20.0, abs=0.2)
