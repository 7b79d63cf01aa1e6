"""A program of one thread changes networks while it is blocked in `read` or `write`, sleeps or computes.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.crossing import MB, PORT, Certificates, Client, Server, cross
from whimbrel.testing import SCENARIOS, Journey, Scenario, Step

if TYPE_CHECKING:
    from tests.lab.crossing import Way
    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(90)
both_ways = pytest.mark.parametrize("way", ["download", "upload"])

TO_WIFI = ("wwan0", "wlan0", "preferred")
TO_CELLULAR = ("wlan0", "wwan0", "dead")
PAUSE = 5.0
WHILE_PAUSED = Scenario(
    "while-paused",
    "Wi-Fi appears, and later 5G goes, both while the program does something else",
    (Step("cellular", "join"), Step("wifi", "join", at=0.01, after=1.0), Step("cellular", "down", after=2.0)),
)


@both_ways
def test_a_blocking_transfer_moves_to_a_network_that_appears(
    lab: Laboratory, certificates: Certificates, way: Way
) -> None:
    crossing = cross(lab, certificates, SCENARIOS["overlap"], way=way, loop="none")
    assert crossing.moves == [TO_WIFI]
    assert crossing.gap("join", "wlan0") < 0.5
    assert lab.linkable(PORT, "to_server") == frozenset()


@both_ways
def test_a_blocking_transfer_survives_that_its_network_is_cut(
    lab: Laboratory, certificates: Certificates, way: Way
) -> None:
    crossing = cross(lab, certificates, SCENARIOS["hard-cut"], way=way, loop="none")
    assert crossing.moves == [TO_WIFI, TO_CELLULAR]
    assert crossing.gap("down", "wlan0") < 0.5
    assert lab.linkable(PORT, "to_server") == frozenset()


@pytest.mark.parametrize("how", ["sleep", "compute"])
def test_it_moves_while_the_program_does_something_else(lab: Laboratory, certificates: Certificates, how: str) -> None:
    for network in lab.networks:
        network.set(rate=10e6)  # So that the content cannot fill the receiver's window during the pause.
    with Server(lab, certificates) as server, Journey(lab, WHILE_PAUSED) as journey:
        with Client(lab, server, loop="none") as client:
            download = client.get(8 * MB, pause=[how, PAUSE])
            download.follow(journey.progress)
            assert journey.wait(PAUSE)
            for network in lab.networks:
                network.set(rate=100e6)
            download.arrived()
            paused = client.news("done")[0]["result"]["paused"]
        (move,) = client.moves
    joined, cut = journey.events[1:3]
    assert paused["begin"] < joined.time < move.new.since < cut.time < paused["end"]
    assert move.new.since - joined.time < 1.0
    assert lab.linkable(PORT, "to_server") == frozenset()
