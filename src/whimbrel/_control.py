"""All connections of the process as they are steered: the network's news and the policies' timers in, actions out.

One question a turn for each peer, however many connections lead there; one subscription to the network's news; who has
work under way learns of a change first, and a crowd one after another; one connection's trouble is not that of the
others. Neither thread nor clock of its own: the driver's thread turns it, or, in virtual time, a simulated machine.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
from collections import deque
from dataclasses import astuple
from typing import TYPE_CHECKING, Final, Protocol

from whimbrel import _core
from whimbrel._herd import Herd
from whimbrel._questions import Questions
from whimbrel._steering import Steering
from whimbrel.network import NetworkNews, Route, Settling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whimbrel._config import Migration
    from whimbrel._errors import ConnectionLost
    from whimbrel._events import PathChange
    from whimbrel._machine import Machine, ProbeWire

logger = logging.getLogger("whimbrel")

FEW: Final = 32
"""Connections that are looked at closely."""


class Waiter(Protocol):
    """Waits, and calls `Control.turn` with what is ready."""

    def register(self, source: int | ProbeWire, ready: Callable[[float], None]) -> None:
        """Wait for this, too; `ready` is to be handed to `Control.turn` when it is readable."""

    def unregister(self, source: int | ProbeWire) -> None:
        """No longer."""

    def wake(self) -> None:
        """There is something to do at once."""

    def wake_by(self, deadline: float) -> None:
        """There is something to do then, at the latest."""


class Control:
    """Steers connections. One caller at a time."""

    def __init__(self, machine: Machine, waiter: Waiter, *, forgiving: bool = True) -> None:
        """Subscribe to the network's news, until `close`.

        Args:
            machine: where the networks are.
            waiter: who turns this.
            forgiving: whether an exception of one connection is logged, so that the others go on; else it ends `turn`.

        Raises:
            OSError: out of file descriptors.
        """
        self._machine = machine
        self._waiter = waiter
        self._forgiving = forgiving
        self._posted: deque[Callable[[float], None]] = deque()
        self._members: dict[Steering, int] = {}
        self._timers: list[tuple[float, int]] = []  # a heap of deadlines, each with its number, …
        self._numbers = itertools.count()
        self._timed: dict[int, Steering] = {}  # … and whose they are: none, where another has taken its place
        self._planned: dict[Steering, tuple[float, int]] = {}
        self._questions = Questions(machine, waiter)
        self._known: dict[str, Sequence[Route]] = {}  # in this turn …
        self._told: dict[str, Sequence[Route]] = {}  # … and ever
        self._herd: Herd[Steering] = Herd()
        self._slept: dict[Steering, float] = {}  # who has not learned yet for how long the machine was suspended
        self._settling = Settling()
        self._news: NetworkNews = machine.subscribe()
        descriptor = self._news.fileno()
        if descriptor is not None:
            waiter.register(descriptor, self.network_news)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to steer."""
        return not self._members

    def add(
        self,
        endpoint: _core.Endpoint,
        core: _core.Connection,
        peer: str,
        settings: Migration,
        report: Callable[[PathChange | ConnectionLost], None],
    ) -> Steering:
        """Steer a connection from now on."""
        now = self._machine.now()
        dialled, ways = self._machine.dialled(core), self._machine.routes_to(core.remote_address()[0])
        # Where the kernel routes, the path is what it would choose; else what the dial pinned, gone or not.
        active = next((way for way in ways if dialled is not None and _is_same(way, dialled)), None)
        if active is None:
            active = dialled if settings.sockets == "pinned" else self._machine.route_to(core.remote_address()[0])
        steering = Steering(endpoint, core, peer, settings, self, report, now, active)
        descriptor = endpoint.control_fileno()
        self._members[steering] = descriptor
        self.plan(steering)
        # What the handshake left is heard here, and most of it says no more than that somebody is there.
        urgent = (_core.LOST, _core.SEND_FAILED, _core.DUE)
        news = [each for each in endpoint.control_news() if each[1] in urgent]
        self._waiter.register(descriptor, steering.core_news)
        if news:
            self.post(functools.partial(steering.hear, news))
        if steering.deadline is not None and active is not None and settings._in_order(ways)[:1] == [active]:
            # Nothing may move before the handshake is confirmed, and nothing has to: there is time until that is looked
            # for, and many a connection is over by then.
            self._posted.append(steering.ask_routes)
            self._waiter.wake_by(steering.deadline)
        else:
            # The network may have changed during the handshake.
            self.post(steering.ask_routes)
        return steering

    def remove(self, steering: Steering) -> None:
        """Forget a connection."""
        descriptor = self._members.pop(steering, None)
        if descriptor is not None:
            self._waiter.unregister(descriptor)
        self._forget_plan(steering)
        self._herd.discard(steering)
        self._slept.pop(steering, None)
        self._questions.forget(steering)
        if all(each.remote[0] != steering.remote[0] for each in self._members):
            self._told.pop(steering.remote[0], None)

    def post(self, act: Callable[[float], None]) -> None:
        """Do something in the next turn."""
        self._posted.append(act)
        self._waiter.wake()

    def woke(self, slept: float) -> None:
        """The machine was suspended for so many seconds: connections learn of it in the next turn, before all else.

        All of them will move, so that beyond the first fifty they take turns.
        """
        for member in self._members:
            self._slept[member] = self._slept.get(member, 0.0) + slept
        self._herd.add(self._by_work(list(self._members)))

    def close(self) -> None:
        """Give everything back. What was asked in the last moment is answered: by then, that it is over."""
        for act in self._posted:
            act(self._machine.now())
        self._questions.close()
        self._news.close()

    # Surroundings of a `Steering` -------------------------------------------------------------------------------------

    def routes(self, address: str) -> Sequence[Route]:
        """One question a turn for each peer, however many connections lead there. What is new, all of them learn."""
        if address not in self._known:
            self._known[address] = routes = self._machine.routes_to(address)
            if not _is_same_to_all(routes, self._told.get(address)):
                self._told[address] = routes
                self._questions.forget_answers()
                self._herd.add(self._by_work([each for each in self._members if each.remote[0] == address]))
        return self._known[address]

    def probe(self, steering: Steering, route: Route, now: float) -> None:
        """One question for all that ask the same at the same time."""
        self._questions.ask(steering, route, now)

    @property
    def few(self) -> bool:
        """A look at a connection takes some 50 us, thirty times a second where packets flow: a crowd goes without."""
        return len(self._members) <= FEW

    def plan(self, steering: Steering) -> None:
        """Its deadline may be another."""
        deadline = steering.deadline
        planned = self._planned.get(steering)
        if planned is not None and planned[0] == deadline:
            return
        self._forget_plan(steering)
        if deadline is not None and steering in self._members:
            number = next(self._numbers)
            heapq.heappush(self._timers, (deadline, number))
            self._timed[number], self._planned[steering] = steering, (deadline, number)

    def _forget_plan(self, steering: Steering) -> None:
        planned = self._planned.pop(steering, None)
        if planned is not None:
            del self._timed[planned[1]]

    # A turn -----------------------------------------------------------------------------------------------------------

    def turn(self, ready: Sequence[Callable[[float], None]]) -> None:
        """Do what is due, and what has become ready."""
        now = self._machine.now()
        self._known.clear()
        if self._slept:
            self._tell_herd(now)
        due = self._due(now)
        if self._settling.deadline is not None and self._settling.deadline <= now:
            due.append(self._ask_all)
        if self._news.interval is not None:
            due.append(self.network_news)
        posted = [self._posted.popleft() for _ in range(len(self._posted))]
        for act in (*posted, *ready, *due):
            self._do(act, now)
        self._tell_herd(now)
        self._questions.close_old(now)

    @property
    def deadline(self) -> float | None:
        """When the next turn is due, if nothing becomes ready before."""
        times = [self._settling.deadline, self._herd.deadline, self._questions.deadline]
        while self._timers and self._timers[0][1] not in self._timed:
            heapq.heappop(self._timers)
        if self._timers:
            times.append(self._timers[0][0])
        if self._news.interval is not None:
            times.append(self._machine.now() + self._news.interval)
        return min((time for time in times if time is not None), default=None)

    def _due(self, now: float) -> list[Callable[[float], None]]:
        due: list[Callable[[float], None]] = []
        while self._timers and self._timers[0][0] <= now:
            member = self._timed.get(heapq.heappop(self._timers)[1])
            if member is not None:
                self._forget_plan(member)
                due.append(member.tick)
        return due

    def _tell_herd(self, now: float) -> None:
        for member in self._herd.next(now):
            slept = self._slept.pop(member, None)
            self._do(member.ask_routes if slept is None else functools.partial(member.woke, slept), now)

    def _do(self, act: Callable[[float], None], now: float) -> None:
        try:
            act(now)
        except Exception:
            if not self._forgiving:
                raise
            # One connection's trouble must not be that of the others.
            logger.exception("steering a connection failed; please report this")

    def network_news(self, now: float) -> None:
        """Something may have changed in the networks."""
        if self._news.drain():
            self._settling.heard(now)
            self._ask_all(now)

    def _ask_all(self, now: float) -> None:
        if self._settling.deadline is None or self._settling.deadline > now:
            return
        self._settling.asked(now)
        for address in {member.remote[0] for member in self._members}:
            self.routes(address)

    @staticmethod
    def _by_work(members: list[Steering]) -> list[Steering]:
        """Whoever waits for something comes first."""
        return sorted(members, key=lambda member: not member.is_due) if len(members) > 1 else members


def _is_same(one: Route, other: Route) -> bool:
    return (one.interface, one.source) == (other.interface, other.source)


def _is_same_to_all(routes: Sequence[Route], before: Sequence[Route] | None) -> bool:
    """Also in what routes are not compared by, and connections want to know: names, and other addresses."""
    return before is not None and list(map(astuple, routes)) == list(map(astuple, before))
