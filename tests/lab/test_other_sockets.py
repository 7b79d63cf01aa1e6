"""The two older designs: sockets that the kernel routes, and connected ones.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms

What they cannot do is shown as well, since that is why they are not the default.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

import pytest

from tests.lab.crossing import MB, PORT, Certificates, Client, Server, cross, ids_by_address
from whimbrel import NetworkLost, NetworkRestored
from whimbrel.testing import SCENARIOS, outage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.crossing import Options, Transfer, Way
    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(120)
both_ways = pytest.mark.parametrize("way", ["download", "upload"])

KERNEL_ALONE: Options = {"migration": {"sockets": "unconnected", "auto": False}}
KERNEL_WATCHED: Options = {"migration": {"sockets": "unconnected"}}
CONNECTED: Options = {"migration": {"sockets": "connected"}}
CONNECTED_BY_HAND: Options = {"migration": {"sockets": "connected", "auto": False}}


@pytest.fixture
def lab(lab: Laboratory) -> Laboratory:
    """Slow radios, so that a step that is late on a busy machine still falls on its place in the transfer."""
    for network in lab.networks:
        network.set(rate=40e6)
    return lab


# Unconnected: the kernel routes each packet ---------------------------------------------------------------------------


@both_ways
def test_the_kernel_alone_takes_a_transfer_to_a_network_that_appears(
    lab: Laboratory, certificates: Certificates, way: Way
) -> None:
    crossing = cross(lab, certificates, SCENARIOS["overlap"], way=way, **KERNEL_ALONE)
    assert crossing.captured_moves == [("wwan0", "wlan0")]
    assert crossing.changes == []  # Nobody noticed …
    assert crossing.gap("join", "wlan0") < 0.5
    assert lab.linkable(PORT, "to_server")  # … but an observer could: the price of it (RFC 9000 §9.5).


@both_ways
@pytest.mark.parametrize("name", ["overlap", "hard-cut", "nat-rebind"])
def test_the_kernel_routes_and_a_ping_tells_the_server(
    lab: Laboratory, certificates: Certificates, way: Way, name: str
) -> None:
    crossing = cross(lab, certificates, SCENARIOS[name], way=way, **KERNEL_WATCHED)
    moves = {"overlap": [("wwan0", "wlan0")], "hard-cut": [("wwan0", "wlan0"), ("wlan0", "wwan0")], "nat-rebind": []}
    assert crossing.captured_moves == moves[name]
    assert crossing.longest_gap() < 1.0


@pytest.mark.parametrize("back", ["wifi", "cellular"])
def test_the_kernel_routes_and_an_outage_is_held(
    lab: Laboratory, certificates: Certificates, back: Literal["wifi", "cellular"]
) -> None:
    length = 2.0
    crossing = cross(lab, certificates, outage(length, back=back), **KERNEL_WATCHED)
    assert [type(change) for change in crossing.changes] == [NetworkLost, NetworkRestored]
    # On the path it knows, the server waits for its own timer, which had as long to grow as the outage was.
    assert crossing.resumed() < (0.5 if back == "wifi" else 2 * length)


def test_a_mere_download_is_lost_to_the_kernel_alone_without_a_keep_alive(
    lab: Laboratory, certificates: Certificates
) -> None:
    with receiving_only(lab, certificates, keepalive=None) as download:
        # Nothing is sent, so nothing tells the server where we are; and it cannot reach us where we were.
        assert download.stalls(4.0)


def test_a_mere_download_is_saved_by_a_keep_alive(lab: Laboratory, certificates: Certificates) -> None:
    with receiving_only(lab, certificates, keepalive=0.5) as download:
        download.arrived()


@contextlib.contextmanager
def receiving_only(lab: Laboratory, certificates: Certificates, *, keepalive: float | None) -> Iterator[Transfer]:
    """A download whose network is cut while all that the client would send are acknowledgements, and then another.

    Each condition counts. Less content than an eighth of the window that a path begins with: no grant of more, which
    would be sent until it is acknowledged. A transfer before, and no loss: the search for the path's MTU is over, and
    no probe of it is repeated. A second without any network: the last acknowledgements, at most 25 ms late, meet none.
    """
    for network in lab.networks:
        network.set(loss=0, rate=5e6)
    lab.cellular.join()
    options: Options = {**KERNEL_ALONE, "keepalive": keepalive}
    with Server(lab, certificates) as server, Client(lab, server, **options) as client:
        client.get(70_000).arrived()
        download = client.get(58_000)
        assert download.reaches(0.4)  # By then the server has acknowledged what asked for it.
        lab.cellular.down()
        download.stops()
        lab.wifi.join()
        yield download


@pytest.mark.parametrize("auto", [True, False])
def test_the_kernel_keeps_to_a_network_that_carries_nothing_more(
    lab: Laboratory, certificates: Certificates, auto: bool
) -> None:
    lab.cellular.join()
    lab.wifi.join()
    settings = {"sockets": "unconnected", "auto": auto}
    with Server(lab, certificates) as server, Client(lab, server, migration=settings, keepalive=0.5) as client:
        download = client.get(4 * MB)
        assert download.reaches(0.4)
        lab.wifi.silence()
        download.stops()
        assert download.stalls(2.0)
        lab.wifi.down()  # Only when it is gone …
        download.arrived()
        assert client.changes == []


@pytest.mark.parametrize("auto", [True, False])
def test_the_kernel_falls_for_a_network_that_never_carries_anything(
    lab: Laboratory, certificates: Certificates, auto: bool
) -> None:
    lab.cellular.join()
    lab.wifi.silence()
    settings = {"sockets": "unconnected", "auto": auto}
    with Server(lab, certificates) as server, Client(lab, server, migration=settings, keepalive=0.5) as client:
        download = client.get(4 * MB)
        assert download.reaches(0.4)
        lab.wifi.join()
        download.stops()
        assert download.stalls(2.0)
        lab.wifi.down()
        download.arrived()


# Connected: a socket for each path ------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("name", ["overlap", "hard-cut"])
def test_connected_sockets_follow_the_kernel_at_once(
    lab: Laboratory, certificates: Certificates, way: Way, name: str
) -> None:
    crossing = cross(lab, certificates, SCENARIOS[name], way=way, **CONNECTED)
    moves = [("wwan0", "wlan0", "preferred"), ("wlan0", "wwan0", "dead")]
    assert crossing.moves == moves[: len(crossing.events) - 1]
    assert crossing.captured_moves == [(before, after) for before, after, _ in crossing.moves]
    assert crossing.longest_gap() < 0.5
    # Until it moves, the old socket sends by the new network with the old address: this design cannot help that.
    assert all(len(addresses) == 1 for addresses in ids_by_address(lab).values())


@both_ways
def test_a_connected_socket_is_moved_by_hand(lab: Laboratory, certificates: Certificates, way: Way) -> None:
    lab.cellular.join()
    with Server(lab, certificates) as server, Client(lab, server, **CONNECTED_BY_HAND) as client:
        transfer = client.transfer(way, 8 * MB)
        assert transfer.reaches(0.25)
        lab.wifi.join()
        transfer.stops()  # As soon as another network is preferred, although its own is still up.
        assert client.migrate().interface == "wlan0"
        assert transfer.reaches(0.6)
        lab.wifi.down()
        assert client.migrate().interface == "wwan0"
        transfer.arrived()
        assert [(move.new.interface, move.reason) for move in client.moves] == [
            ("wlan0", "requested"),
            ("wwan0", "requested"),
        ]
    assert all(len(addresses) == 1 for addresses in ids_by_address(lab).values())
