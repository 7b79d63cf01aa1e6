"""Questions that connections share."""

from __future__ import annotations

import errno
import weakref
from typing import TYPE_CHECKING, cast

import pytest

from whimbrel._questions import LIFE, SHARED, Questions
from whimbrel.network import Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel._machine import Machine, ProbeWire
    from whimbrel._path import Address

WIFI = Route("wlan0", 3, "10.2.0.2")
CELLULAR = Route("wwan0", 2, "10.1.0.2")


class Wire:
    """A socket that keeps what it is given."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.answers: list[bytes] = []
        self.closed = False

    def fileno(self) -> int:
        return -1

    def send(self, datagram: bytes) -> None:
        if self.network.refuses:
            raise OSError(errno.ENETUNREACH, "unreachable")
        self.network.sent.append((self, datagram))

    def receive(self) -> list[bytes]:
        answers, self.answers = self.answers, []
        return answers

    def close(self) -> None:
        self.closed = True


class Network:
    """Where questions go, and who waits for their answers."""

    def __init__(self) -> None:
        self.refuses = False
        self.sent: list[tuple[Wire, bytes]] = []
        self.waiting: dict[object, Callable[[float], None]] = {}
        self.questions = Questions(cast("Machine", self), self)

    def open_probe(self, remote: Address, route: Route) -> Wire:
        return Wire(self)

    def register(self, source: ProbeWire, ready: Callable[[float], None]) -> None:
        self.waiting[source] = ready

    def unregister(self, source: ProbeWire) -> None:
        del self.waiting[source]

    def answer(self, number: int, now: float) -> None:
        """Version Negotiation (RFC 8999 §6), if anybody still waits for it."""
        wire, question = self.sent[number]
        theirs, ours = question[6:14], question[15:23]
        wire.answers.append(b"\x80" + bytes(4) + b"\x08" + ours + b"\x08" + theirs + b"\0\0\0\1")
        if wire in self.waiting:
            self.waiting[wire](now)


class Asker:
    """A connection."""

    def __init__(self, remote: Address = ("192.0.2.80", 443)) -> None:
        self.remote = remote
        self.heard: list[tuple[Route, float]] = []

    def answered(self, route: Route, rtt: float, now: float) -> None:
        self.heard.append((route, round(rtt, 6)))


@pytest.fixture
def network() -> Network:
    return Network()


def test_those_who_ask_the_same_share_one_question_and_its_answer(network: Network) -> None:
    crowd = [Asker() for _ in range(1000)]
    for number, asker in enumerate(crowd):
        network.questions.ask(asker, WIFI, 10.0 + number / 100_000)
    assert len(network.sent) == 1
    network.answer(0, 10.02)
    assert all(asker.heard == [(WIFI, 0.02)] for asker in crowd)
    assert not network.waiting
    assert network.sent[0][0].closed


def test_a_fresh_answer_is_known_to_those_who_come_later_and_an_old_one_is_not(network: Network) -> None:
    first, second, third = Asker(), Asker(), Asker()
    network.questions.ask(first, WIFI, 10.0)
    network.answer(0, 10.01)
    network.questions.ask(second, WIFI, 10.05)
    assert second.heard == [(WIFI, 0.01)]
    network.questions.ask(third, WIFI, 10.001 + SHARED)
    assert third.heard == []
    assert len(network.sent) == 2


def test_another_network_or_another_server_is_another_question(network: Network) -> None:
    network.questions.ask(Asker(), WIFI, 10.0)
    network.questions.ask(Asker(), CELLULAR, 10.0)
    network.questions.ask(Asker(("192.0.2.81", 443)), WIFI, 10.0)
    assert len(network.sent) == 3


def test_who_asks_again_gets_a_question_of_its_own(network: Network) -> None:
    asker = Asker()
    network.questions.ask(asker, WIFI, 10.0)
    network.questions.ask(asker, WIFI, 10.03)
    assert len(network.sent) == 2
    network.answer(0, 10.05)
    network.answer(1, 10.05)
    assert asker.heard == [(WIFI, 0.05), (WIFI, 0.02)]


def test_answers_from_before_a_change_do_not_count_after_it(network: Network) -> None:
    network.questions.ask(Asker(), WIFI, 10.0)
    network.answer(0, 10.01)
    network.questions.forget_answers()
    late = Asker()
    network.questions.ask(late, WIFI, 10.02)
    assert late.heard == []
    assert len(network.sent) == 2


def test_strangers_are_not_believed(network: Network) -> None:
    asker = Asker()
    network.questions.ask(asker, WIFI, 10.0)
    wire, _ = network.sent[0]
    wire.answers.append(b"\x80" + bytes(60))
    network.waiting[wire](10.01)
    assert asker.heard == []
    network.answer(0, 10.02)
    assert asker.heard == [(WIFI, 0.02)]


def test_a_refusal_is_the_askers_and_leaves_nothing_open(network: Network) -> None:
    network.refuses = True
    for _ in range(2):
        with pytest.raises(OSError, match="unreachable"):
            network.questions.ask(Asker(), WIFI, 10.0)
    assert not network.waiting
    network.refuses = False
    network.questions.ask(Asker(), WIFI, 10.0)
    assert len(network.sent) == 1


def test_nothing_stays_open_for_long_or_for_nobody(network: Network) -> None:
    asker, other = Asker(), Asker()
    network.questions.ask(asker, WIFI, 10.0)
    network.questions.ask(other, CELLULAR, 11.0)
    assert network.questions.deadline == 10.0 + LIFE
    network.questions.close_old(10.0 + LIFE)
    assert len(network.waiting) == 1
    network.questions.forget(other)
    assert not network.waiting
    assert network.questions.deadline is None


def test_who_has_gone_is_not_remembered_for_an_answer_that_others_may_use(network: Network) -> None:
    asker = Asker()
    network.questions.ask(asker, WIFI, 10.0)
    network.answer(0, 10.01)
    held = weakref.ref(asker)
    network.questions.forget(asker)
    del asker
    assert held() is None
