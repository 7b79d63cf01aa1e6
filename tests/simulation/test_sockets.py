"""The other two ways to hold a socket: the kernel routes each packet, or binds each socket to an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.support import BYTES, SETTLED, STEADY, SWIFT, SWIFT_UPLOAD, add_cellular, add_wifi
from whimbrel import Migration, MigrationDisabled

if TYPE_CHECKING:
    from tests.simulation.conftest import Simulate
    from whimbrel.testing._simulated_transfer import Transfer
    from whimbrel.testing._simulation import SimulatedNetwork

UP_AND_DOWN = pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
KERNEL = Migration(sockets="unconnected", auto=False)
"""Nobody does anything: the idea that all of this began with."""
FOLLOWED = Migration(sockets="unconnected")
CONNECTED = Migration(sockets="connected")


# Unconnected, and nobody acts -----------------------------------------------------------------------------------------


@UP_AND_DOWN
def test_the_kernel_alone_takes_an_unconnected_socket_to_wifi(simulate: Simulate, upload: bool) -> None:
    network = simulate(migration=KERNEL, limits=STEADY)
    wifi, cellular = add_wifi(network, up=False), add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, wifi.up)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < SWIFT
    assert network.changes == []
    # The server sends to where it last heard us, so the rest comes over Wi-Fi as well.
    assert not [packet for packet in cellular.packets if packet.time > SETTLED + 0.2]
    # The price: whoever sees both networks sees that it is the same connection.
    assert wifi.connection_ids & cellular.connection_ids


def walk_away(network: SimulatedNetwork) -> Transfer:
    """Wi-Fi fades, and a moment later it is gone.

    Were it cut at once, an acknowledgement that was still held back could leave by the other network: with luck, the
    server learns by it where we are.
    """
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.download(BYTES)
    network.at(SETTLED, wifi.silence)
    network.at(SETTLED + 0.1, wifi.down)
    network.run()
    return transfer


def test_a_keepalive_carries_such_a_download_over(simulate: Simulate) -> None:
    transfer = walk_away(simulate(migration=KERNEL, keepalive=2.0))
    assert transfer.complete
    assert transfer.longest_silence < 2.0 + 2 * SWIFT


def test_an_upload_needs_no_keepalive(simulate: Simulate) -> None:
    network = simulate(migration=KERNEL)
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.upload(BYTES)
    network.at(SETTLED, wifi.down)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < SWIFT_UPLOAD


# Unconnected, and the network's news are heard ------------------------------------------------------------------------


@UP_AND_DOWN
def test_a_ping_takes_an_unconnected_socket_over_a_hard_cut(simulate: Simulate, upload: bool) -> None:
    network = simulate(migration=FOLLOWED)
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, wifi.down)
    network.run()
    assert transfer.complete
    assert transfer.longest_silence < 1.0


@UP_AND_DOWN
@pytest.mark.parametrize("same", [False, True], ids=["other", "same"])
def test_an_unconnected_socket_survives_an_outage(simulate: Simulate, upload: bool, same: bool) -> None:
    network = simulate(migration=FOLLOWED)
    wifi, cellular = add_wifi(network, up=False), add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, cellular.down)
    network.at(SETTLED + 20.0, cellular.up if same else wifi.up)
    network.run()
    assert transfer.complete


@UP_AND_DOWN
def test_an_unconnected_socket_survives_a_nat_that_forgets(simulate: Simulate, upload: bool) -> None:
    network = simulate(migration=FOLLOWED)
    cellular = add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, cellular.rebind)
    network.run()
    assert transfer.complete


def test_an_unconnected_socket_cannot_be_moved_by_hand(simulate: Simulate) -> None:
    network = simulate(migration=FOLLOWED)
    add_wifi(network)
    add_cellular(network)
    network.advance(0.5)
    with pytest.raises(MigrationDisabled):
        network.migrate("wwan0").result(0)


# Connected ------------------------------------------------------------------------------------------------------------


@UP_AND_DOWN
def test_a_connected_socket_is_replaced_when_wifi_appears(simulate: Simulate, upload: bool) -> None:
    network = simulate(migration=CONNECTED)
    wifi, cellular = add_wifi(network, up=False), add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, wifi.up)
    network.run()
    assert transfer.complete
    assert transfer.silence_after(SETTLED + 0.010) < SWIFT_UPLOAD
    assert not [packet for packet in cellular.packets if packet.time > SETTLED + 0.2]
    assert [move.new.interface for move in network.moves] == ["wlan0"]
    ports = [(move.old.local[1], move.new.local[1]) for move in network.moves]
    assert ports == [(40000, 40001)]


@UP_AND_DOWN
def test_a_connected_socket_is_replaced_when_wifi_is_cut(simulate: Simulate, upload: bool) -> None:
    network = simulate(migration=CONNECTED)
    wifi, cellular = add_wifi(network), add_cellular(network)
    transfer = network.upload(BYTES) if upload else network.download(BYTES)
    network.at(SETTLED, wifi.down)
    network.run()
    assert transfer.complete
    assert transfer.silence_after(SETTLED) < (SWIFT_UPLOAD if upload else SWIFT)
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


def test_a_connected_socket_is_moved_by_hand_where_nobody_else_does(simulate: Simulate) -> None:
    network = simulate(migration=Migration(sockets="connected", auto=False))
    wifi, _ = add_wifi(network), add_cellular(network)
    transfer = network.download(BYTES)
    network.advance(SETTLED)
    wifi.set_metric(300)
    network.advance(0.1)
    assert network.moves == []
    moving = network.migrate()
    network.run()
    assert moving.result(0).interface == "wwan0"
    assert transfer.complete
    assert transfer.silence_after(SETTLED + 0.1) < 1.0
