"""An event loop that is blocked for long costs throughput, and not the connection.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms

Both radios are slow here, so that the content cannot fill the receiver's window while nobody reads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.lab.crossing import MB, PORT, Certificates, Client, Server, to_client, to_server
from whimbrel.testing import Journey, Scenario, Step

if TYPE_CHECKING:
    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(90)

RATE = 5e6
BLOCKED = 10.0
WHILE_BLOCKED = Scenario(
    "while-blocked",
    "Wi-Fi appears, and later 5G goes, both while the event loop is blocked",
    (Step("cellular", "join"), Step("wifi", "join", at=0.1, after=3.0), Step("cellular", "down", after=3.0)),
)


@pytest.mark.parametrize("how", ["sleep", "compute"])
def test_a_blocked_loop_stops_neither_packets_nor_moves(lab: Laboratory, certificates: Certificates, how: str) -> None:
    for network in lab.networks:
        network.set(rate=RATE)
    with Server(lab, certificates) as server, Journey(lab, WHILE_BLOCKED) as journey:
        with Client(lab, server) as client:
            download = client.get(9 * MB)
            download.follow(journey.progress)
            assert download.reaches(0.1)
            block = client.ask(do="block", how=how, seconds=BLOCKED)
            for network in lab.networks:
                network.set(rate=100e6)
            download.arrived()
        (move,) = client.moves
    begin, end = block["begin"], block["end"]
    joined, cut = journey.events[1:]
    assert begin < joined.time < move.new.since < cut.time < end
    assert move.new.since - joined.time < 1.0
    assert (move.old.interface, move.new.interface) == ("wwan0", "wlan0")
    # Acknowledgements leave all the time, and so data come.
    sent = [packet.time for network in lab.networks for packet in to_server(network.packets, begin, end)]
    times = [begin, *sorted(sent), end]
    assert max(later - earlier for earlier, later in pairwise(times)) < 1.0
    came = sum(packet.size for network in lab.networks for packet in to_client(network.packets, begin, end))
    assert came > 0.6 * RATE / 8 * BLOCKED
    assert lab.linkable(PORT, "to_server") == frozenset()
