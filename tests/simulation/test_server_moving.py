"""What our server does about clients that move: RFC 9000 §9, as seen on the wire."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from tests.simulation.internet import ELSEWHERE, Datagram
from tests.simulation.support import BYTES, CELLULAR, SETTLED, SWIFT, SWIFT_UPLOAD, add_cellular, add_wifi, shared
from whimbrel import Limits
from whimbrel.testing import SimulatedServer

if TYPE_CHECKING:
    from tests.simulation.conftest import Meddle
    from tests.simulation.internet import Internet

UP_AND_DOWN = pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
FACTOR = 3
DATAGRAM = 1200
"""A PATH_CHALLENGE takes so much; the first to a new address is sent whatever came from there: see the engine's
`allowance.rs`."""
FULL = 1452


# Validation (§8.2, §9.3) ----------------------------------------------------------------------------------------------


@UP_AND_DOWN
def test_a_new_address_gets_three_times_what_came_from_it_until_it_is_validated(
    internet: Internet, upload: bool
) -> None:
    _, cellular = add_wifi(internet), add_cellular(internet)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    internet.advance(SETTLED)
    internet.move(cellular)
    internet.run()
    assert transfer.complete
    assert transfer.silence_after(SETTLED) < (SWIFT_UPLOAD if upload else SWIFT)
    moved = internet.seen_at
    first = internet.of("to_client", moved)[0].time
    # Nothing can have been proven before the first datagram was there and back.
    assert internet.most_owed(moved, until=first + 2 * CELLULAR) <= DATAGRAM
    meanwhile = [each for each in internet.of("to_client", moved) if each.time < first + 2 * CELLULAR]
    assert len(meanwhile) > 1
    if not upload:  # Afterwards it gets what it asked for.
        assert internet.most_owed(moved) > 10 * FULL


@UP_AND_DOWN
def test_an_address_that_swallows_everything_is_never_owed_more(internet: Internet, upload: bool) -> None:
    wifi, cellular = add_wifi(internet), add_cellular(internet)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    internet.advance(SETTLED)
    hole = cellular.external
    internet.meddle = lambda datagram: datagram.direction == "to_client" and datagram.peer[0] == hole
    internet.move(cellular)
    internet.advance(10.0)
    swallowing = [peer for peer in internet.peers() if peer[0] == hole]
    assert len(swallowing) == 1
    # The server gives up, comes back when it hears from there again, and has to ask anew each time.
    attempts = internet.now / 0.5
    assert internet.most_owed(swallowing[0]) <= DATAGRAM * attempts
    internet.move(wifi)
    internet.run()
    assert transfer.complete
    assert internet.seen_at[0] != hole


def test_an_address_that_was_heard_of_once_is_given_up(internet: Internet) -> None:
    add_wifi(internet)
    cellular = add_cellular(internet)
    internet.requests(1)
    internet.run()
    before = internet.seen_at
    internet.meddle = lambda datagram: datagram.peer != before and bool(internet.of("to_server", datagram.peer))
    internet.move(cellular)
    internet.advance(0.1)
    assert internet.seen_at[0] == cellular.external
    internet.advance(5.0)
    assert internet.seen_at == before  # §9.3.2


# What is known of a path (§9.4) ---------------------------------------------------------------------------------------


@UP_AND_DOWN
@pytest.mark.parametrize("address", [False, True], ids=["port", "address"])
def test_only_another_address_makes_the_server_begin_afresh(internet: Internet, address: bool, upload: bool) -> None:
    cellular = add_cellular(internet)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    internet.advance(SETTLED)
    before = known = internet.server.stats()
    place = internet.seen_at
    cellular.rebind(address=address)
    internet.ping()
    while internet.seen_at == place:
        before = internet.server.stats()
        internet.advance(0.0005)
    after = internet.server.stats()
    if address:
        assert after.rtt == pytest.approx(0.1)  # What is assumed where nothing is known.
        assert after.congestion_window == 10 * DATAGRAM
    else:
        assert after.rtt == pytest.approx(known.rtt, rel=0.3)
        assert after.congestion_window >= before.congestion_window
    internet.run()
    assert transfer.complete


# Connection IDs (§5.1, §9.5) ------------------------------------------------------------------------------------------


@UP_AND_DOWN
def test_fifty_moves_each_with_fresh_connection_ids_in_both_directions(internet: Internet, upload: bool) -> None:
    wifi = add_wifi(internet)
    transfer = internet.upload(3 * BYTES) if upload else internet.download(3 * BYTES)
    fresh: list[bool] = []

    def move() -> None:
        wifi.rebind(address=True)
        fresh.append(internet.move(wifi))

    for number in range(50):
        internet.at(0.3 + 0.15 * number, move)
    internet.run()
    internet.advance(max(0.0, 9.0 - internet.now))
    assert transfer.complete
    assert fresh == [True] * 50
    assert len(internet.ids_by_peer("to_server")) >= 50
    for direction in ("to_server", "to_client"):
        assert not shared(internet.ids_by_peer(direction))


# Moves at awkward moments ---------------------------------------------------------------------------------------------


@UP_AND_DOWN
@pytest.mark.parametrize("pause", [0.001, 0.008, 0.015, 0.025])
def test_over_and_back_within_one_round_trip(internet: Internet, upload: bool, pause: float) -> None:
    wifi, cellular = add_wifi(internet), add_cellular(internet)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    internet.at(SETTLED, lambda: internet.move(cellular))
    internet.at(SETTLED + pause, lambda: internet.move(wifi))
    internet.run()
    assert transfer.complete
    assert transfer.longest_silence < 2 * SWIFT_UPLOAD
    assert internet.seen_at[0] == wifi.external


@UP_AND_DOWN
@pytest.mark.parametrize("pause", [0.001, 0.015, 0.030])
def test_on_to_a_third_network_before_the_second_was_validated(internet: Internet, upload: bool, pause: float) -> None:
    add_wifi(internet)
    cellular = add_cellular(internet)
    third = internet.interface("eth0", latency=0.010, rate=5e6)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    internet.at(SETTLED, lambda: internet.move(cellular))
    internet.at(SETTLED + pause, lambda: internet.move(third))
    internet.run()
    assert transfer.complete
    assert transfer.longest_silence < 2 * SWIFT_UPLOAD
    assert internet.seen_at[0] == third.external
    for direction in ("to_server", "to_client"):
        assert not shared(internet.ids_by_peer(direction))


def test_a_move_while_the_client_lets_nothing_more_come(meddle: Meddle) -> None:
    internet = meddle(limits=Limits(stream_window=64 << 10, connection_window=64 << 10))
    wifi, cellular = add_wifi(internet), add_cellular(internet)
    transfer = internet.download(BYTES)
    internet.advance(0.5)
    resume = internet.stop_reading()
    internet.advance(0.5)
    received = transfer.received
    internet.move(cellular)
    internet.advance(0.5)
    assert internet.seen_at[0] == cellular.external
    assert transfer.received == received
    resume()
    internet.run()
    assert transfer.complete
    assert wifi.connection_ids.isdisjoint(cellular.connection_ids)


def test_a_client_that_moves_and_closes_at_once_is_understood(internet: Internet) -> None:
    add_wifi(internet)
    cellular = add_cellular(internet)
    internet.download(BYTES)
    internet.advance(SETTLED)
    internet.move(cellular)
    internet.close_client(7)
    internet.advance(0.1)
    assert internet.server.lost() == ("application", 7, "", True)


def test_a_server_that_has_closed_is_silent_to_other_addresses(internet: Internet) -> None:
    """§10.2.1: it either discards what comes from there, or owes it no more than three times as much."""
    add_wifi(internet)
    cellular = add_cellular(internet)
    internet.requests(1)
    internet.run()
    internet.meddle = lambda datagram: datagram.direction == "to_client"
    internet.close_server(9)
    internet.move(cellular)
    for _ in range(20):
        internet.ping()
        internet.advance(0.010)
    assert internet.of("to_server", since=internet.now - 0.1)
    moved = internet.peers()[-1]
    assert moved[0] == cellular.external
    assert internet.most_owed(moved) == 0


def test_a_client_that_moved_too_late_to_hear_the_close_is_told_by_a_reset(internet: Internet) -> None:
    add_wifi(internet)
    cellular = add_cellular(internet)
    internet.requests(1)
    internet.run()
    internet.meddle = lambda datagram: datagram.direction == "to_client"
    internet.close_server(9)
    internet.move(cellular)
    internet.advance(3.0)
    internet.meddle = None
    internet.ping()
    internet.advance(1.0)
    assert internet.lost == ("reset", 0, "", True)


# Where moving is not allowed ------------------------------------------------------------------------------------------


def test_nobody_moves_before_the_handshake_is_confirmed(internet: Internet) -> None:
    cellular = add_cellular(internet)
    transfer = internet.download(20_000)

    def divert(datagram: Datagram) -> bool:
        """After the first flight, what the client sends comes from elsewhere."""
        late = datagram.direction == "to_server" and datagram.time > 1.5 * CELLULAR
        if late and datagram.time < 1.0:
            internet.at(internet.now, functools.partial(internet.spoof, datagram.data, ELSEWHERE))
        return late and datagram.time < 1.0

    internet.meddle = divert
    internet.advance(1.0)
    assert internet.of("to_server", ELSEWHERE)
    assert internet.of("to_client", ELSEWHERE) == []
    assert not internet.server.is_connected()
    internet.run()
    assert transfer.complete
    assert internet.seen_at[0] == cellular.external


def test_a_server_that_forbids_moving_takes_no_notice_of_other_addresses(meddle: Meddle) -> None:
    internet = meddle(server=SimulatedServer(migration=False))
    add_cellular(internet)
    transfer = internet.download(BYTES)
    internet.advance(SETTLED)
    place = internet.seen_at

    def copy(datagram: Datagram) -> bool:
        if datagram.direction == "to_server" and datagram.peer == place:
            internet.spoof(datagram.data, ELSEWHERE)
        return False

    internet.meddle = copy
    internet.run()
    assert transfer.complete
    assert transfer.longest_silence < 0.2
    assert len(internet.of("to_server", ELSEWHERE)) > 100
    assert internet.of("to_client", ELSEWHERE) == []
    assert internet.seen_at == place
