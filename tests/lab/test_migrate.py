"""`Connection.migrate`: moves that the application asks for.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.lab.crossing import MB, PORT, Certificates, Client, Server, to_server
from whimbrel import MigrationDisabled, NoAnswer, NoRoute
from whimbrel.testing import handover_gap

if TYPE_CHECKING:
    from tests.lab.crossing import Options, Way
    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(60)

BY_HAND: Options = {"migration": {"auto": False}}


@pytest.fixture
def lab(lab: Laboratory) -> Laboratory:
    """Slow radios, so that a step that is late on a busy machine still falls on its place in the transfer."""
    for network in lab.networks:
        network.set(rate=40e6)
    return lab


@pytest.mark.parametrize("way", ["download", "upload"])
def test_it_moves_when_it_is_told_and_not_before(lab: Laboratory, certificates: Certificates, way: Way) -> None:
    lab.cellular.join()
    with Server(lab, certificates) as server, Client(lab, server, **BY_HAND) as client:
        transfer = client.transfer(way, 8 * MB)
        assert transfer.reaches(0.2)
        lab.wifi.join()
        assert transfer.reaches(0.5)
        assert client.moves == []
        assert client.migrate(interface="wlan0").interface == "wlan0"
        assert transfer.reaches(0.7)
        assert client.migrate(interface="wwan0").interface == "wwan0"  # Although the kernel prefers the other one.
        samples = transfer.arrived()
        assert [(move.new.interface, move.reason, move.linkable) for move in client.moves] == [
            ("wlan0", "requested", False),
            ("wwan0", "requested", False),
        ]
        assert max(handover_gap(samples, move.new.since) for move in client.moves) < 0.5
    assert lab.linkable(PORT, "to_server") == frozenset()


def test_without_a_name_it_moves_to_where_the_kernel_would_send(lab: Laboratory, certificates: Certificates) -> None:
    lab.cellular.join()
    with Server(lab, certificates) as server, Client(lab, server, **BY_HAND) as client:
        assert client.migrate().interface == "wwan0"  # It is there already.
        lab.wifi.join()
        assert client.migrate().interface == "wlan0"
        assert client.path().interface == "wlan0"
        assert len(client.moves) == 1


def test_the_application_may_prefer_another_network_than_the_kernel(
    lab: Laboratory, certificates: Certificates
) -> None:
    lab.cellular.join()
    lab.wifi.join()
    with Server(lab, certificates) as server, Client(lab, server) as client:
        download = client.get(4 * MB)
        assert download.reaches(0.2)
        client.migrate(interface="wwan0")
        download.arrived()
        assert client.path().interface == "wwan0"  # Nor did it go back by itself: the network did not change.
        assert [move.reason for move in client.moves] == ["requested"]


def test_an_interface_that_does_not_exist_is_no_route(lab: Laboratory, certificates: Certificates) -> None:
    lab.cellular.join()
    with Server(lab, certificates) as server, Client(lab, server) as client:
        for interface in ("tun7", "wlan0"):  # The latter exists, and leads nowhere.
            with pytest.raises(NoRoute, match=f"{lab.server_address}:{PORT}.*wwan0"):
                client.migrate(interface=interface)
        client.get(MB).arrived()


@pytest.mark.parametrize("options", [{}, BY_HAND], ids=["auto", "by-hand"])
def test_where_nobody_answers_the_old_path_stays_in_use(
    lab: Laboratory, certificates: Certificates, options: Options
) -> None:
    lab.cellular.join()
    lab.wifi.silence()
    with Server(lab, certificates) as server, Client(lab, server, **options) as client:
        lab.cellular.set(rate=20e6)  # So that the download outlasts the questions.
        download = client.get(6 * MB)
        assert download.reaches(0.1)
        lab.wifi.join()
        with pytest.raises(NoAnswer):
            client.migrate(interface="wlan0")
        with pytest.raises(NoAnswer, match=r"0\.2 s"):
            client.migrate(interface="wlan0", timeout=0.2)
        assert client.path().interface == "wwan0"
        samples = download.arrived()
        assert client.moves == []
        assert max(later - earlier for (earlier, _), (later, _) in pairwise(samples)) < 0.5
    assert to_server(lab.wifi.packets) == []


@pytest.mark.parametrize(
    "settings", [None, {"sockets": "unconnected"}, {"sockets": "unconnected", "auto": False}], ids=str
)
def test_a_connection_that_cannot_be_moved_says_so(
    lab: Laboratory, certificates: Certificates, settings: dict[str, object] | None
) -> None:
    lab.cellular.join()
    with Server(lab, certificates) as server, Client(lab, server, migration=settings) as client:
        lab.wifi.join()
        with pytest.raises(MigrationDisabled):
            client.migrate(interface="wlan0")
        client.get(MB).arrived()
