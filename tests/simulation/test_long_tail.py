"""What happens to machines and networks in daily life: suspensions, names, addresses, leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.support import BYTES, STEADY, add_cellular, add_wifi
from whimbrel import NetworkLost, NetworkRestored, PathMigrated

if TYPE_CHECKING:
    from tests.simulation.conftest import Simulate
    from whimbrel.testing._simulation import SimulatedNetwork


def test_a_download_goes_on_at_once_when_the_machine_wakes_up(simulate: Simulate) -> None:
    network = simulate(limits=STEADY)
    wifi = add_wifi(network)
    transfer = network.download(BYTES)
    # Nothing passes while it sleeps, and the server backs off. (Time does pass here for the client; it is the news of
    # it that is tried.)
    network.at(1.5, wifi.silence)
    network.at(16.5, lambda: wifi.silence(False))
    network.at(16.5, lambda: wake(network, 15.0))
    network.run()
    assert transfer.complete
    assert [type(change) for _, change in network.changes] == [NetworkLost, PathMigrated, NetworkRestored]
    assert transfer.longest_silence < 15.0 + 0.2
    restored = network.changes[-1][1]
    assert isinstance(restored, NetworkRestored)
    assert restored.outage == 15.0


def wake(network: SimulatedNetwork, slept: float) -> None:
    """Tell the device what its two clocks would."""
    control = network._machine._control
    assert control is not None
    control.woke(slept)
    network._machine.turn()


def test_an_interface_is_renamed_and_nothing_happens(simulate: Simulate) -> None:
    network = simulate(limits=STEADY)
    wifi = add_wifi(network)
    add_cellular(network)
    transfer = network.download(BYTES)

    def rename() -> None:
        wifi.name = "home0"
        network._machine.networks_changed()

    network.at(1.5, rename)
    network.run()
    assert transfer.complete
    assert network.changes == []
