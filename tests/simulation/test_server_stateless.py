"""What our server answers though it belongs to no connection: stateless resets (RFC 9000 §10.3), Version Negotiation
(§6), and what it does not answer at all."""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING

import pytest

from tests.simulation.internet import ELSEWHERE
from tests.simulation.support import SETTLED, add_cellular, add_wifi
from whimbrel.testing import SimulatedServer

if TYPE_CHECKING:
    from tests.simulation.conftest import Meddle
    from tests.simulation.internet import Internet

KEY = bytes(range(32))
TOKEN = 16
LEAST = 21
"""The shortest stateless reset there is (§10.3)."""
PATIENCE = 10.0
"""Seconds that a handshake may take."""
PAUSE = 0.020
"""Seconds between two of them."""
UNKNOWN = 0x5A6A7A8A
INITIAL = 1200
"""Bytes of the smallest datagram that may begin something (§14.1)."""


def short_header(chance: random.Random, length: int) -> bytes:
    """A datagram that could be a 1-RTT packet of some connection."""
    return bytes([0x40]) + chance.randbytes(length - 1)


def long_header(version: int, length: int) -> bytes:
    """A datagram that begins as RFC 8999 §5.1 says, and means nothing."""
    head = bytes([0xC0]) + version.to_bytes(4, "big") + bytes([8]) + b"12345678" + bytes([4]) + b"abcd"
    return head + bytes(length - len(head))


@pytest.fixture
def chance(internet: Internet) -> random.Random:
    return random.Random(internet.seed)


# Stateless reset ------------------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(meddle: Meddle) -> Internet:
    """With a server that makes the same tokens after it was restarted."""
    return meddle(server=SimulatedServer(reset_key=KEY))


@pytest.mark.parametrize("moves", [0, 1, 6])
def test_a_client_notices_that_its_server_was_restarted(keyed: Internet, moves: int) -> None:
    wifi, cellular = add_wifi(keyed), add_cellular(keyed)
    transfer = keyed.upload(10_000_000)
    for number in range(moves):
        keyed.at(0.3 + 0.15 * number, functools.partial(keyed.move, wifi if number % 2 else cellular))
    keyed.advance(SETTLED)
    keyed.restart_server()
    keyed.run(horizon=2.0)
    assert keyed.lost == ("reset", 0, "", True)
    assert keyed.now - SETTLED < 0.2
    assert not transfer.complete


def test_a_client_that_moved_into_the_restart_notices_too(keyed: Internet) -> None:
    add_wifi(keyed)
    cellular = add_cellular(keyed)
    keyed.download(10_000_000)
    keyed.advance(SETTLED)
    keyed.restart_server()
    keyed.move(cellular)
    keyed.run(horizon=2.0)
    assert keyed.lost == ("reset", 0, "", True)


def test_a_server_with_another_secret_cannot_tell_its_clients(internet: Internet) -> None:
    """So clients of a server without a lasting secret wait for their idle timeout after it was restarted."""
    add_cellular(internet)
    internet.upload(10_000_000)
    internet.advance(SETTLED)
    internet.restart_server()
    internet.run(horizon=10.0)
    assert internet.of("to_client", since=SETTLED + 0.1)
    assert internet.lost is None


@pytest.mark.parametrize("back", [False, True], ids=["once", "and back"])
def test_packets_from_a_slower_path_that_was_left_bring_no_reset(internet: Internet, back: bool) -> None:
    """They come after their connection ID was retired over the quicker path. ngtcp2 0.12 would believe the reset."""
    cellular = add_cellular(internet)
    transfer = internet.upload(1000)
    internet.advance(SETTLED)
    wifi = add_wifi(internet)
    internet.ping()
    internet.move(wifi)
    if back:
        internet.advance(0.3)
        internet.move(cellular)
        internet.advance(0.3)
        internet.ping()
        internet.move(wifi)
    internet.advance(0.3)
    assert transfer.complete
    assert internet.tally.dropped["unknown-connection"] > 0
    assert internet.tally.stateless_resets == 0


@pytest.mark.parametrize("to_client", [True, False], ids=["to client", "to server"])
def test_a_forged_reset_is_ignored(internet: Internet, chance: random.Random, to_client: bool) -> None:
    add_cellular(internet)
    transfer = internet.download(500_000)
    internet.advance(0.3)
    for number in range(100):
        forged = short_header(chance, LEAST + number)
        if to_client:
            internet._to_client(forged, internet.seen_at)
        else:
            internet.spoof(forged, internet.seen_at)
    internet.run()
    assert transfer.complete
    assert transfer.received == 500_000


@pytest.mark.parametrize("length", [*range(1, 60), 100, 1200, 1452])
def test_a_reset_is_shorter_than_its_cause(internet: Internet, chance: random.Random, length: int) -> None:
    add_cellular(internet)
    internet.advance(0.5)
    internet.spoof(short_header(chance, length), ELSEWHERE)
    internet.advance(0.1)
    resets = internet.of("to_client", ELSEWHERE)
    assert len(resets) == (length > LEAST)
    assert all(LEAST <= len(reset.data) < length for reset in resets)


def test_resets_are_few_however_many_causes_there_are(internet: Internet, chance: random.Random) -> None:
    add_cellular(internet)
    internet.advance(0.5)
    for number in range(1000):
        internet.at(0.5 + 0.0002 * number, lambda: internet.spoof(short_header(chance, 1200), ELSEWHERE))
    internet.advance(0.5)
    assert 5 <= len(internet.of("to_client", ELSEWHERE)) <= 0.2 / PAUSE + 1


def test_two_servers_do_not_send_each_other_resets_for_ever(internet: Internet, chance: random.Random) -> None:
    add_cellular(internet)
    internet.advance(0.5)
    rounds, datagram = 0, short_header(chance, 1452)
    while datagram:
        internet.spoof(datagram, ELSEWHERE)
        internet.advance(PAUSE + 0.001)
        answers = internet.of("to_client", ELSEWHERE)[rounds:]
        datagram = answers[0].data if answers else b""
        rounds += bool(answers)
    assert 1 <= rounds < 1452 - LEAST


# Version Negotiation --------------------------------------------------------------------------------------------------


def test_an_unknown_version_is_answered_once_with_those_that_are_spoken(internet: Internet) -> None:
    add_cellular(internet)
    internet.advance(0.5)
    internet.spoof(long_header(UNKNOWN, INITIAL), ELSEWHERE)
    internet.advance(10.0)
    (answer,) = internet.of("to_client", ELSEWHERE)
    assert answer.data[0] & 0x80
    assert answer.data[1:5] == bytes(4)
    assert answer.data[5:19] == bytes([4]) + b"abcd" + bytes([8]) + b"12345678"  # Theirs, the other way round.
    versions = [int.from_bytes(answer.data[at : at + 4], "big") for at in range(19, len(answer.data), 4)]
    assert 1 in versions
    assert UNKNOWN not in versions
    assert len(answer.data) < INITIAL


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(long_header(UNKNOWN, INITIAL - 1), id="unknown version, too small"),
        pytest.param(long_header(0, INITIAL), id="Version Negotiation"),
        pytest.param(long_header(1, INITIAL - 1), id="Initial, too small"),
        pytest.param(long_header(1, INITIAL), id="Initial of nonsense"),
        pytest.param(bytes([0xE0]) + long_header(1, INITIAL)[1:], id="Handshake of nobody"),
        pytest.param(bytes([0xD0]) + long_header(1, INITIAL)[1:], id="0-RTT of nobody"),
        pytest.param(bytes([0xF0]) + long_header(1, INITIAL)[1:], id="Retry"),
        pytest.param(bytes([0xC0, 0, 0, 0, 1, 255]) + bytes(INITIAL), id="an ID longer than any"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc0", id="one byte"),
        pytest.param(b"\xc0\0\0\0\1\x08", id="cut in the header"),
    ],
)
def test_what_deserves_no_answer_gets_none(internet: Internet, datagram: bytes) -> None:
    add_cellular(internet)
    transfer = internet.download(100_000)
    internet.advance(0.1)
    internet.spoof(datagram, ELSEWHERE)
    internet.spoof(datagram, internet.seen_at)
    internet.run()
    assert internet.of("to_client", ELSEWHERE) == []
    assert transfer.complete


def test_a_real_initial_in_too_small_a_datagram_begins_nothing(internet: Internet) -> None:
    add_cellular(internet)
    internet.advance(0.5)
    first = internet.of("to_server")[0]
    assert first.is_long
    begun = len(internet.of("to_client"))
    other_id = bytes([first.data[6] ^ 1])  # Another connection; it does not authenticate, and nobody gets so far.
    internet.spoof((first.data[:6] + other_id + first.data[7:])[: INITIAL - 1], ELSEWHERE)
    internet.advance(1.0)
    assert internet.of("to_client", ELSEWHERE) == []
    assert len(internet.of("to_client")) == begun


def test_a_handshake_that_goes_nowhere_is_given_up(internet: Internet) -> None:
    """Long before the idle timeout, which a client could put off for ever."""
    add_cellular(internet)
    internet.meddle = lambda datagram: len(internet.of("to_server")) > 0 and datagram.direction == "to_server"
    internet.advance(PATIENCE - 0.5)
    assert internet.tally.accepted == 1
    assert internet.tally.handshakes_failed == 0
    internet.advance(1.0)
    assert internet.tally.handshakes_failed == 1
    sent = len(internet.of("to_client"))
    internet.advance(60.0)
    assert len(internet.of("to_client")) == sent


def test_a_copy_of_an_initial_from_elsewhere_owes_nothing_to_that_address(internet: Internet) -> None:
    """The first packet is known already; its copy is one of the same connection, which is still where it was."""
    add_cellular(internet)
    internet.advance(0.5)
    internet.spoof(internet.of("to_server")[0].data, ELSEWHERE)
    internet.advance(1.0)
    assert internet.of("to_client", ELSEWHERE) == []
