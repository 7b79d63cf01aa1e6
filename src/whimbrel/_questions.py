"""Questions to servers, put over one network each, and shared by all connections that want to know the same.

A thousand connections of a process ask the same thing at the same time, when a network appears. One datagram answers
them all; a thousand would be 1.2 MB ahead of the data on a network of which nothing is known yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from whimbrel._probe import ProbeDatagram

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel._machine import Machine, ProbeWire
    from whimbrel._path import Address
    from whimbrel.network import Route

LIFE: Final = 5.0
"""Seconds for which an answer is waited for: the policy has long given up."""
SHARED: Final = 0.1
"""Seconds for which a question is that of others as well, answered or not."""


class Asker(Protocol):
    """Wants to know whether a server can be reached."""

    remote: Address

    def answered(self, route: Route, rtt: float, now: float) -> None:
        """It can, over that route."""


class Waiter(Protocol):
    """Calls back when something is readable."""

    def register(self, source: ProbeWire, ready: Callable[[float], None]) -> None:
        """Wait for this, too."""

    def unregister(self, source: ProbeWire) -> None:
        """No longer."""


@dataclass(slots=True, eq=False)
class _Question:
    key: tuple[Address, Route]
    datagram: ProbeDatagram
    wire: ProbeWire
    sent: float
    askers: dict[Asker, None] = field(default_factory=dict)
    """In the order of asking."""
    rtt: float | None = None
    """Seconds; None: not answered yet."""


class Questions:
    """Those of one process. Takes the time as an argument."""

    def __init__(self, machine: Machine, waiter: Waiter) -> None:
        self._machine = machine
        self._waiter = waiter
        self._open: dict[ProbeWire, _Question] = {}  # the oldest first
        self._latest: dict[tuple[Address, Route], _Question] = {}

    def ask(self, asker: Asker, route: Route, now: float) -> None:
        """Find out whether the asker's server answers over that route, and tell it if so.

        Who asks once more has not been answered, and gets a question of its own.

        Raises:
            OSError: the kernel refuses.
        """
        latest = self._latest.get((asker.remote, route))
        if latest is None or now - latest.sent >= SHARED or asker in latest.askers:
            latest = self._put(asker.remote, route, now)
        latest.askers[asker] = None
        if latest.rtt is not None:
            asker.answered(route, latest.rtt, now)

    def forget_answers(self) -> None:
        """The network has changed, and the answers may be others."""
        self._latest.clear()

    def forget(self, asker: Asker) -> None:
        """It does not want to know any more."""
        for question in {*self._open.values(), *self._latest.values()}:
            question.askers.pop(asker, None)
            if not question.askers:
                self._close(question)

    def close_old(self, now: float) -> None:
        """Give those up that will not be answered any more, and forget what is of no use to others."""
        for question in [each for each in self._latest.values() if now - each.sent >= SHARED]:
            del self._latest[question.key]
        for question in list(self._open.values()):
            if now < question.sent + LIFE:
                return
            self._close(question)

    def close(self) -> None:
        """Give all of them up."""
        for question in list(self._open.values()):
            self._close(question)

    @property
    def deadline(self) -> float | None:
        """When to call `close_old`."""
        return next((question.sent + LIFE for question in self._open.values()), None)

    def _put(self, remote: Address, route: Route, now: float) -> _Question:
        # From a new socket for each: a port seen on two networks would link them.
        question = _Question((remote, route), ProbeDatagram.new(), self._machine.open_probe(remote, route), now)
        self._open[question.wire] = question
        self._waiter.register(question.wire, lambda now: self._came(question, now))
        try:
            question.wire.send(question.datagram.data)
        except OSError:
            self._close(question)
            raise
        self._latest[question.key] = question
        return question

    def _came(self, question: _Question, now: float) -> None:
        if question.wire not in self._open:
            return  # It was closed earlier in this turn.
        if any(question.datagram.is_answered_by(datagram) for datagram in question.wire.receive()):
            question.rtt = now - question.sent
            self._close(question)
            for asker in list(question.askers):
                asker.answered(question.key[1], question.rtt, now)

    def _close(self, question: _Question) -> None:
        if self._open.pop(question.wire, None) is not None:
            self._waiter.unregister(question.wire)
            question.wire.close()
        if (question.rtt is None or not question.askers) and self._latest.get(question.key) is question:
            del self._latest[question.key]
