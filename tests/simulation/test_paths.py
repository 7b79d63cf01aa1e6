"""What both ends do with the paths of a connection: RFC 9000 §8.2 and §9, where the other tests do not look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.internet import Datagram
from tests.simulation.support import BYTES, CELLULAR, SETTLED, add_cellular, add_wifi

if TYPE_CHECKING:
    from tests.simulation.internet import Internet

UP_AND_DOWN = pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
CHALLENGE = 1200
"""Bytes of a datagram that asks."""


@UP_AND_DOWN
def test_packets_that_come_late_from_the_address_before_take_nobody_back(internet: Internet, upload: bool) -> None:
    """§9.3: only the highest packet number counts. The connection ID is the same: a NAT has forgotten."""
    cellular = add_cellular(internet)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    internet.advance(SETTLED)
    before, late = internet.seen_at, list[Datagram]()

    def hold(datagram: Datagram) -> bool:
        held = datagram.direction == "to_server" and datagram.peer == before
        if held:
            late.append(datagram)
        return held

    internet.meddle = hold
    internet.advance(0.1)
    cellular.rebind()
    internet.ping()
    internet.advance(2 * CELLULAR + 0.010)
    internet.meddle = None
    after = internet.seen_at
    assert after != before
    assert late
    for datagram in late:
        internet.spoof(datagram.data, before)
        assert internet.seen_at == after
    moves = internet.tally.moves
    internet.run()
    assert transfer.complete
    assert internet.tally.moves == moves


@UP_AND_DOWN
def test_a_client_that_moves_begins_afresh(internet: Internet, upload: bool) -> None:
    """§9.4: neither the congestion window nor the round-trip time of another path says anything of this one."""
    wifi, cellular = add_wifi(internet), add_cellular(internet)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    internet.advance(SETTLED)
    known = internet.client.stats()
    assert known.rtt < 0.09
    if upload:
        assert known.congestion_window > 12 * CHALLENGE
    internet.move(cellular)
    anew = internet.client.stats()
    assert anew.rtt == pytest.approx(0.1)  # What is assumed where nothing is known.
    assert anew.congestion_window == 10 * CHALLENGE
    assert anew.mtu == CHALLENGE
    internet.run()
    assert transfer.complete
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


@UP_AND_DOWN
def test_nothing_leaves_by_a_path_that_was_left(internet: Internet, upload: bool) -> None:
    """Not even the answer to what is asked there: it goes by the new path, with the new connection ID."""
    wifi, cellular = add_wifi(internet), add_cellular(internet)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    internet.advance(SETTLED)
    left = internet.seen_at
    assert left[0] == wifi.external
    internet.move(cellular)
    moved = internet.now
    internet.run()
    assert transfer.complete
    asked = [each for each in internet.of("to_client", left, since=moved) if len(each.data) == CHALLENGE]
    assert asked  # §9.3.3
    late = [each for each in internet.of("to_server", left, since=moved) if each.time > moved + 0.05]
    assert late == []
