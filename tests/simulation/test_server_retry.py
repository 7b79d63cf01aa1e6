"""Newcomers that have to prove their address before anything is kept for them: Retry (RFC 9000 §8.1.2, §17.2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.internet import ELSEWHERE, Datagram
from tests.simulation.support import add_cellular
from whimbrel.testing import SimulatedServer

if TYPE_CHECKING:
    from tests.simulation.conftest import Meddle
    from tests.simulation.internet import Internet

RETRY = 0xF0


@pytest.fixture
def asking(meddle: Meddle) -> Internet:
    """With a server that asks everybody."""
    return meddle(server=SimulatedServer(retry="always"))


def kind(datagram: Datagram) -> int:
    """The type of a long header."""
    return datagram.data[0] & RETRY


def test_a_newcomer_is_asked_once_and_then_let_in(asking: Internet) -> None:
    cellular = add_cellular(asking)
    transfer = asking.download(100_000)
    asking.run()
    assert transfer.complete
    first, second, *_ = asking.of("to_server")
    retry, answer, *_ = asking.of("to_client")
    assert kind(retry) == RETRY
    assert retry.time < second.time < answer.time + 1e-9
    assert len(retry.data) < len(first.data)
    assert len([each for each in asking.of("to_client") if each.data[0] >= RETRY]) == 1
    assert asking.seen_at[0] == cellular.external


def test_a_token_of_another_address_is_refused(asking: Internet) -> None:
    add_cellular(asking)
    stolen: list[bytes] = []

    def steal(datagram: Datagram) -> bool:
        second = datagram.direction == "to_server" and bool(asking.of("to_client"))
        if second and not stolen:
            stolen.append(datagram.data)
            asking.spoof(datagram.data, ELSEWHERE)
        return False

    asking.meddle = steal
    transfer = asking.download(10_000)
    asking.run()
    assert stolen
    (refusal,) = asking.of("to_client", ELSEWHERE)
    assert refusal.is_long  # CONNECTION_CLOSE in an Initial: INVALID_TOKEN.
    assert len(refusal.data) < 100
    assert transfer.complete  # Whoever owns the token is let in all the same.
    assert asking.tally.dropped["invalid-token"] == 1


def test_a_token_replayed_from_its_own_address_brings_no_second_connection(asking: Internet) -> None:
    add_cellular(asking)
    transfer = asking.download(10_000)
    asking.run()
    assert transfer.complete
    with_token = asking.of("to_server")[1]
    before = len(asking.of("to_client"))
    for _ in range(10):
        asking.spoof(with_token.data, with_token.peer)
    asking.advance(0.001)
    assert asking.tally.accepted == 1
    assert len(asking.of("to_client")) == before


def test_nothing_is_kept_for_those_who_are_asked(asking: Internet) -> None:
    add_cellular(asking)
    asking.advance(0.5)
    first = asking.of("to_server")[0]
    for number in range(1000):
        asking.spoof(first.data, ("192.0.2.66", 1000 + number))
    assert asking.tally.accepted == 1
    assert asking.tally.retried == 1001
    assert all(len(each.data) < len(first.data) for each in asking.of("to_client", ("192.0.2.66", 1500)))


def test_a_retry_that_somebody_forged_is_ignored(internet: Internet) -> None:
    """§17.2.5.2: its tag proves that the client's Initial was seen, and this one's does not."""
    add_cellular(internet)
    forged = bytes([RETRY]) + bytes([0, 0, 0, 1])

    def forge(datagram: Datagram) -> bool:
        if datagram.direction == "to_server" and len(internet.of("to_server")) == 0:
            ours = datagram.data[6 + datagram.data[5] :]
            id_of_client = ours[1 : 1 + ours[0]]
            internet._to_client(
                forged + bytes([len(id_of_client)]) + id_of_client + b"\x08otherone" + b"token" + bytes(16),
                datagram.peer,
            )
        return False

    internet.meddle = forge
    transfer = internet.download(10_000)
    internet.run()
    assert transfer.complete
    assert kind(internet.of("to_client")[0]) == RETRY
