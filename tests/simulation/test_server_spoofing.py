"""Attackers who send the client's packets from elsewhere: RFC 9000 §9.3."""

from __future__ import annotations

import pytest

from tests.simulation.internet import ELSEWHERE, Datagram, Internet
from tests.simulation.support import BYTES, CELLULAR, SETTLED, add_cellular, shared

UP_AND_DOWN = pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
DATAGRAM = 1200
"""A PATH_CHALLENGE takes so much; the first to a new address is sent whatever came from there: see the engine's
`allowance.rs`."""
FULL = 1452
PATIENCE = 1.3
"""Seconds until a server gives up an address where nobody answers: three probe timeouts of a path that it does not know
(§8.2.4)."""


class Attacker:
    """Somebody who sees the client's packets, and is at the server sooner with copies of them."""

    def __init__(self, internet: Internet, *, begin: float, end: float, most: int = 1 << 30) -> None:
        self.copied = 0
        self.steals = False
        """What is copied never arrives by itself."""
        self.hides_challenges = False
        """The first datagram to the client after that is lost."""
        self._internet = internet
        self._begin, self._end, self._most = begin, end, most
        internet.meddle = self._meddle

    def _meddle(self, datagram: Datagram) -> bool:
        if datagram.direction == "to_client":
            return self.hides_challenges and datagram.peer != ELSEWHERE and self.copied > 0 and self._is_at_work
        if not self._is_at_work or self.copied == self._most:
            return False
        self.copied += 1
        self._internet.spoof(datagram.data, ELSEWHERE)
        return self.steals

    @property
    def _is_at_work(self) -> bool:
        return self._begin <= self._internet.now < self._end


@UP_AND_DOWN
@pytest.mark.parametrize("steals", [False, True], ids=["copied", "stolen"])
def test_one_packet_from_elsewhere_costs_a_moment(internet: Internet, upload: bool, steals: bool) -> None:
    cellular = add_cellular(internet)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    Attacker(internet, begin=SETTLED, end=SETTLED + 1, most=1).steals = steals
    internet.advance(SETTLED)
    place = internet.seen_at
    internet.run()
    assert internet.of("to_server", ELSEWHERE)
    assert transfer.complete
    assert internet.seen_at == place
    assert transfer.silence_after(SETTLED) < 4 * CELLULAR
    assert internet.most_owed(ELSEWHERE) <= DATAGRAM
    assert place[0] == cellular.external
    for direction in ("to_server", "to_client"):
        assert len(shared(internet.ids_by_peer(direction))) <= (direction == "to_server")  # The attacker's own doing.


def test_the_previous_address_is_asked_whether_the_client_is_still_there(internet: Internet) -> None:
    """§9.3.3. Nothing is under way that would bring the server back by itself."""
    add_cellular(internet)
    internet.requests(1)
    internet.run()
    internet.advance(1.0)
    place = internet.seen_at
    attacker = Attacker(internet, begin=internet.now, end=internet.now + 1, most=1)
    attacker.steals = True
    internet.ping()
    internet.advance(CELLULAR + 0.001)
    assert internet.seen_at == ELSEWHERE
    internet.advance(2 * CELLULAR + 0.010)
    assert internet.seen_at == place
    asked, *_ = internet.of("to_client", place, since=internet.of("to_server", ELSEWHERE)[0].time)
    assert len(asked.data) == DATAGRAM


def test_a_server_comes_back_though_the_client_never_hears_that_it_was_asked(internet: Internet) -> None:
    """§9.3.2: validation fails, and what was sent into the void is sent again."""
    add_cellular(internet)
    internet.requests(1)
    internet.run()
    internet.advance(1.0)
    place = internet.seen_at
    transfer = internet.download(11_000)  # More than the first window: what comes last goes elsewhere.
    internet.advance(CELLULAR + 0.005)
    begin = internet.now
    attacker = Attacker(internet, begin=begin, end=begin + PATIENCE / 2)
    attacker.steals = attacker.hides_challenges = True
    internet.advance(2 * CELLULAR + 0.050)
    assert internet.seen_at == ELSEWHERE
    assert transfer.received > 9_000
    internet.run(horizon=10.0)
    assert transfer.complete
    assert internet.now - begin < PATIENCE + 8 * CELLULAR
    assert internet.seen_at == place
    assert not shared(internet.ids_by_peer("to_client"))


@UP_AND_DOWN
def test_an_attacker_who_is_always_faster_delays_no_longer_than_he_is_there(internet: Internet, upload: bool) -> None:
    add_cellular(internet)
    transfer = internet.upload(BYTES) if upload else internet.download(BYTES)
    attacker = Attacker(internet, begin=SETTLED, end=SETTLED + 4.0)
    internet.run()
    assert attacker.copied > 10
    assert transfer.complete
    assert internet.now < SETTLED + 4.0 + PATIENCE + 3.0
    assert internet.seen_at != ELSEWHERE


def test_a_client_that_claims_address_after_address_makes_a_poor_amplifier(internet: Internet) -> None:
    """A client of bad will, who knows the keys: its packets name one victim after the other (§9.3.1)."""
    add_cellular(internet)
    internet.download(10 * BYTES)
    internet.advance(SETTLED)
    victims = [("192.0.2.66", 10_000 + number) for number in range(200)]
    claimed = iter(victims)

    def claim(datagram: Datagram) -> bool:
        victim = next(claimed, None) if datagram.direction == "to_server" else None
        if victim is not None:
            internet.spoof(datagram.data, victim)
        return victim is not None

    internet.meddle = claim
    internet.advance(10.0)
    spoken = [victim for victim in victims if internet.of("to_server", victim)]
    assert len(spoken) > 30
    begin, end = (internet.of("to_server", victim)[0].time for victim in (spoken[0], spoken[-1]))
    overpaid = [victim for victim in victims if internet.most_owed(victim) > 0]
    assert len(overpaid) <= 8 + (end - begin) + 1  # In advance: eight, and then one a second.
    assert all(internet.most_owed(victim) < FULL for victim in victims)
