"""What both ends do with the paths of a connection: RFC 9000 §5.1, §8.2, §9 and §10.3, where the other
tests do not look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.internet import ELSEWHERE, Datagram
from tests.simulation.support import BYTES, CELLULAR, SETTLED, add_cellular, add_wifi
from whimbrel.testing._simulation import SimulatedServer

if TYPE_CHECKING:
    from tests.simulation.conftest import Meddle
    from tests.simulation.internet import Internet

UP_AND_DOWN = pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
CHALLENGE = 1200
"""Bytes of a datagram that asks."""
ID_LENGTH = 8
RENEWAL = 30.0
"""Seconds after which a client asks for its connection IDs back."""


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
    while internet.seen_at == before:
        internet.advance(0.010)
    internet.meddle = None
    after = internet.seen_at
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


# Connection IDs (§5.1.2) ----------------------------------------------------------------------------------------------


def test_connection_ids_are_renewed_under_a_transfer_that_does_not_notice(internet: Internet) -> None:
    """Those that were asked back are good until they come back: nothing that carries them is lost."""
    internet.interface("wlan0", latency=0.010, rate=1e9)
    transfer = internet.requests(2000, every=0.020)
    internet.run(horizon=RENEWAL - 1)
    (before,) = internet.ids_by_peer("to_client")
    internet.run(horizon=2 * RENEWAL)
    (after,) = internet.ids_by_peer("to_client")
    assert transfer.complete
    assert after > before
    assert internet.server.stats().packets_lost == internet.client.stats().packets_lost == 0


@pytest.mark.parametrize("moves", range(5))
@pytest.mark.parametrize("how", ["moves", "rebinds"])
def test_a_renewal_that_waited_for_an_idle_client_is_none_too_many(internet: Internet, how: str, moves: int) -> None:
    """The server retires one for the new path, which brings it another: with the renewal's, one over its limit."""
    wifi, cellular = add_wifi(internet), add_cellular(internet)
    transfer = internet.download(100_000)
    internet.run()
    here = wifi
    for _ in range(moves):
        here = cellular if here is wifi else wifi
        internet.move(here)
        internet.advance(1.0)
    internet.advance(RENEWAL - 10.0 - internet.now)
    internet.ping()
    internet.advance(11.0)
    if how == "moves":
        internet.move(cellular if here is wifi else wifi)
    else:
        here.rebind(address=True)
        internet.ping()
    internet.advance(1.0)
    assert transfer.complete
    assert internet.lost is None


# Stateless resets (§10.3) ---------------------------------------------------------------------------------------------


def test_no_packet_is_so_short_that_a_reset_for_it_could_be_told_from_a_packet(internet: Internet) -> None:
    add_cellular(internet)
    internet.requests(20, every=0.1)
    internet.run()
    short = [each for each in internet.datagrams if not each.is_long]
    assert len(short) > 20
    assert min(len(each.data) for each in short) >= ID_LENGTH + 22


def test_resets_look_like_packets(internet: Internet) -> None:
    add_cellular(internet)
    internet.advance(0.5)
    for number in range(20):
        internet.spoof(b"\x40" + number.to_bytes(8, "big") + bytes(1191), ELSEWHERE)
        internet.advance(0.1)
    resets = [each.data for each in internet.of("to_client", ELSEWHERE)]
    assert len(resets) == 20
    assert {data[0] & 0xC0 for data in resets} == {0x40}
    assert len({len(data) for data in resets}) > 5
    assert len({data[1 : 1 + ID_LENGTH] for data in resets}) == 20


def test_a_client_that_was_reset_says_nothing_more(meddle: Meddle) -> None:
    internet = meddle(server=SimulatedServer(reset_key=bytes(range(32))))
    add_cellular(internet)
    internet.upload(10 * BYTES)
    internet.advance(SETTLED)
    internet.restart_server()
    internet.run(horizon=2.0)
    assert internet.lost == ("reset", 0, "", True)
    over = internet.now + CELLULAR + 0.1  # What is under way, and in the queue, arrives.
    internet.advance(10.0)
    assert internet.of("to_server", since=over) == []
