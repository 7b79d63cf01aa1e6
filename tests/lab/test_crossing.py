"""Transfers whose client changes networks by itself, with the default settings, through the public API on both sides.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms

Each transfer is compared by its hash. Bounds on gaps are those of a busy machine's worst run, and still far below what
happens without the mechanism in question; what is usual is measured by the benchmarks.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Literal

import pytest

from tests.lab.crossing import PORT, Certificates, cross, probes_a_second, sources
from whimbrel import NetworkLost, NetworkRestored, PathMigrated, PathRejected
from whimbrel.testing import SCENARIOS, flapping, outage

if TYPE_CHECKING:
    from tests.lab.crossing import Dispatch, Way
    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(120)
both_ways = pytest.mark.parametrize("way", ["download", "upload"])
all_ways = pytest.mark.parametrize("way", ["download", "upload", "both"])
each_dispatch = pytest.mark.parametrize("sockets", ["wildcard", "connected"])

TO_WIFI = ("wwan0", "wlan0", "preferred")
TO_CELLULAR = ("wlan0", "wwan0", "dead")
NOTHING: dict[str, frozenset[bytes]] = {"to_server": frozenset(), "to_client": frozenset()}
"""No connection ID that links the networks, in either direction."""
HARD_CUT_BOUNDS = {"download": 0.5, "upload": 3 * 0.040 + 0.150, "both": 0.5}
"""Seconds. Of an upload it is our own end that has to notice and to send again, so it must be quick."""


@each_dispatch
@all_ways
def test_a_transfer_moves_to_a_network_that_appears(
    lab: Laboratory, certificates: Certificates, way: Way | Literal["both"], sockets: Dispatch
) -> None:
    crossing = cross(lab, certificates, SCENARIOS["overlap"], way=way, sockets=sockets)
    assert crossing.moves == [TO_WIFI]
    assert crossing.gap("join", "wlan0") < 0.5
    assert crossing.linkable == NOTHING


@each_dispatch
@all_ways
def test_a_transfer_survives_that_its_network_is_cut(
    lab: Laboratory, certificates: Certificates, way: Way | Literal["both"], sockets: Dispatch
) -> None:
    crossing = cross(lab, certificates, SCENARIOS["hard-cut"], way=way, sockets=sockets)
    assert crossing.moves == [TO_WIFI, TO_CELLULAR]
    assert crossing.gap("down", "wlan0") < HARD_CUT_BOUNDS[way]
    assert crossing.linkable == NOTHING


@pytest.mark.parametrize(
    ("way", "sockets"), [("download", "wildcard"), ("upload", "wildcard"), ("both", "wildcard"), ("both", "connected")]
)
def test_a_transfer_leaves_a_network_that_carries_nothing_more(
    lab: Laboratory, certificates: Certificates, way: Way | Literal["both"], sockets: Dispatch
) -> None:
    crossing = cross(lab, certificates, SCENARIOS["black-hole"], way=way, sockets=sockets)
    assert crossing.moves == [TO_WIFI, ("wlan0", "wwan0", "silent")]
    assert crossing.gap("silence", "wlan0") < 1.0
    assert crossing.linkable == NOTHING


@both_ways
def test_a_network_that_never_carries_anything_costs_nothing(
    lab: Laboratory, certificates: Certificates, way: Way
) -> None:
    # So slow that the transfer outlasts all the questions.
    crossing = cross(lab, certificates, SCENARIOS["portal"], way=way, rate=16e6)
    assert crossing.moves == []
    assert PathRejected("wlan0", "no-answer") in crossing.changes
    assert crossing.gap("join", "wlan0") < 0.3
    on_wifi = lab.connection_ids(PORT)["wlan0"]
    assert on_wifi.probes >= 3
    assert on_wifi.to_server == frozenset()


@both_ways
@pytest.mark.parametrize("back", ["wifi", "cellular"])
def test_a_transfer_goes_on_when_a_network_is_back(
    lab: Laboratory, certificates: Certificates, way: Way, back: Literal["wifi", "cellular"]
) -> None:
    crossing = cross(lab, certificates, outage(2.0, back=back), way=way)
    assert [reason for _, _, reason in crossing.moves] == ["restored"]
    assert crossing.resumed() < 0.5
    assert crossing.linkable == NOTHING


def test_an_outage_of_twenty_seconds_costs_no_more_than_itself(lab: Laboratory, certificates: Certificates) -> None:
    crossing = cross(lab, certificates, SCENARIOS["outage-same"])
    # The server's timers have backed off by then: without a new port it would go on after many seconds.
    assert crossing.resumed() < 0.5
    lost, moved, restored = crossing.changes
    assert isinstance(lost, NetworkLost)
    assert isinstance(moved, PathMigrated)
    assert moved.old.local != moved.new.local
    assert isinstance(restored, NetworkRestored)
    assert restored.interface == "wwan0"
    assert restored.outage == pytest.approx(20, abs=0.5)


@both_ways
def test_a_transfer_survives_that_the_router_forgets_it(lab: Laboratory, certificates: Certificates, way: Way) -> None:
    crossing = cross(lab, certificates, SCENARIOS["nat-rebind"], way=way)
    # The server follows by itself: there is no other network to go to, and no reason to leave this one.
    assert crossing.moves == []
    assert crossing.longest_gap() < 1.0


@both_ways
def test_a_network_that_comes_and_goes_is_not_run_after(lab: Laboratory, certificates: Certificates, way: Way) -> None:
    crossing = cross(lab, certificates, flapping(20), way=way, rate=16e6)
    assert len(crossing.moves) < 10
    # A burst of six, and ten a second; each appearance would be asked three times otherwise.
    assert probes_a_second(lab) <= 16
    assert crossing.linkable == NOTHING


@pytest.mark.parametrize("name", ["overlap", "hard-cut"])
def test_ipv6_crosses_as_well(lab: Laboratory, certificates: Certificates, name: str) -> None:
    crossing = cross(lab, certificates, SCENARIOS[name], host=lab.server_address_ipv6)
    assert crossing.moves == [TO_WIFI, TO_CELLULAR][: len(crossing.events) - 1]
    assert crossing.longest_gap() < 0.5
    assert crossing.linkable == NOTHING
    assert {ipaddress.ip_address(source).version for source in sources(lab)} == {6}


def test_it_crosses_with_uvloop_as_well(lab: Laboratory, certificates: Certificates) -> None:
    crossing = cross(lab, certificates, SCENARIOS["hard-cut"], loop="uvloop")
    assert crossing.moves == [TO_WIFI, TO_CELLULAR]
    assert crossing.gap("down", "wlan0") < 0.5


def test_each_move_is_logged(lab: Laboratory, certificates: Certificates) -> None:
    crossing = cross(lab, certificates, SCENARIOS["hard-cut"])
    peer = f"{lab.server_address}:{PORT}"
    first, second = crossing.journal
    assert re.fullmatch(rf"{peer}: moved from wwan0 to wlan0 \(preferred; last heard \d+ ms before\)", first)
    assert re.fullmatch(rf"{peer}: moved from wlan0 to wwan0 \(dead; last heard \d+ ms before\)", second)


def test_an_outage_is_told_and_logged(lab: Laboratory, certificates: Certificates) -> None:
    crossing = cross(lab, certificates, outage(1.0))
    assert [type(change) for change in crossing.changes] == [NetworkLost, PathMigrated, NetworkRestored]
    lost, moved, restored = crossing.journal
    assert lost.endswith("no network; holding on for 60 s")
    assert "moved from wwan0 to wlan0 (restored" in moved
    assert re.search(r"wlan0 leads there again, after 1\.\d s", restored)
