"""A network that comes and goes all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.support import BYTES, SETTLED, SWIFT, add_cellular, add_wifi, ids_by_address, most_within, shared
from whimbrel._policy import PROBE_BURST, PROBE_RATE

if TYPE_CHECKING:
    from whimbrel.testing._simulation import SimulatedNetwork

UP_AND_DOWN = pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])


@UP_AND_DOWN
@pytest.mark.parametrize("pause", [0.1, 0.013, 0.5])
def test_ten_changes_a_second_cost_few_probes_and_moves(network: SimulatedNetwork, upload: bool, pause: float) -> None:
    wifi, _ = add_wifi(network, up=False), add_cellular(network)
    transfer = network.upload(3 * BYTES) if upload else network.download(3 * BYTES)
    for number in range(40):
        network.at(SETTLED + pause * number, wifi.down if number % 2 else wifi.up)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < 2 * SWIFT
    assert most_within(network.probes, 1.0) <= PROBE_RATE + PROBE_BURST
    assert len(network.moves) <= 8
    assert not any(move.linkable for move in network.moves)
    assert not shared(ids_by_address(network))


def test_both_networks_flap_and_are_never_there_together(network: SimulatedNetwork) -> None:
    wifi, cellular = add_wifi(network, up=False), add_cellular(network)
    transfer = network.download(BYTES)
    for number in range(30):
        arriving, leaving = (cellular, wifi) if number % 2 else (wifi, cellular)
        network.at(SETTLED + 0.3 * number, leaving.down)
        network.at(SETTLED + 0.3 * number + 0.05, arriving.up)
    network.run()
    assert transfer.complete
    assert not any(move.linkable for move in network.moves)
    assert not shared(ids_by_address(network))
