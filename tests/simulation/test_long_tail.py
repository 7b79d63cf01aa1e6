"""What happens to machines and networks in daily life: suspensions, names, addresses, leases."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import whimbrel
from tests.simulation.support import BYTES, STEADY, add_cellular, add_wifi
from whimbrel import Connection, NetworkLost, NetworkRestored, PathMigrated
from whimbrel._herd import BURST, RATE

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


def test_a_crowd_that_wakes_up_does_not_move_all_at_once(simulate: Simulate) -> None:
    network, crowd = simulate(), BURST + 40
    network.interface("wlan0", latency=0.005, rate=1e9)

    async def wait(connection: Connection) -> None:
        await connection.wait_closed()

    async def woken_at(connection: Connection) -> float:
        async for change in connection.path_changes():
            if isinstance(change, NetworkRestored):
                assert change.outage == 30.0
                return network.now
        raise AssertionError("it was never told")

    async def program() -> list[float]:
        files = network.certificate
        async with (
            whimbrel.serve(wait, port=4433, cert=(files.chain, files.key), alpn="test"),
            AsyncExitStack() as stack,
        ):
            connections = [
                await stack.enter_async_context(
                    whimbrel.connect(network.name, 4433, alpn="test", verify=files.authority)
                )
                for _ in range(crowd)
            ]
            await asyncio.sleep(1.0)
            watching = [asyncio.create_task(woken_at(connection)) for connection in connections]
            await asyncio.sleep(0.1)
            began = network.now
            wake(network, 30.0)
            return sorted([await task - began for task in watching])

    times = network.run(program(), horizon=60.0)
    assert times[BURST - 1] < 0.001
    assert times[BURST] > 0.001
    assert (crowd - BURST) / RATE * 0.5 < times[-1] < 2 * (crowd - BURST) / RATE


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
