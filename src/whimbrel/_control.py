"""All connections of the process as they are steered: the network's news and the policies' timers in, actions out.

One question a turn for each peer, however many connections lead there; one subscription to the network's news; one
connection's trouble is not that of the others. Neither thread nor clock of its own: the driver's thread turns it, or,
in virtual time, a simulated machine.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from whimbrel._steering import Steering
from whimbrel.network import NetworkNews, Route, Settling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whimbrel import _core
    from whimbrel._config import Migration
    from whimbrel._errors import ConnectionLost
    from whimbrel._events import PathChange
    from whimbrel._machine import Machine, ProbeWire

logger = logging.getLogger("whimbrel")

PROBE_LIFE: Final = 5.0
"""Seconds for which an answer to a probe is waited for: the policy has long given up."""


class Waiter(Protocol):
    """Waits, and calls `Control.turn` with what is ready."""

    def register(self, source: int | ProbeWire, ready: Callable[[float], None]) -> None:
        """Wait for this, too; `ready` is to be handed to `Control.turn` when it is readable."""

    def unregister(self, source: int | ProbeWire) -> None:
        """No longer."""

    def wake(self) -> None:
        """There is something to do at once."""


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
        self._probes: dict[ProbeWire, tuple[Steering, float]] = {}
        self._known: dict[str, Sequence[Route]] = {}
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
        self._waiter.register(descriptor, steering.core_news)
        # The network may have changed during the handshake.
        self.post(steering.ask_routes)
        return steering

    def remove(self, steering: Steering) -> None:
        """Forget a connection."""
        descriptor = self._members.pop(steering, None)
        if descriptor is not None:
            self._waiter.unregister(descriptor)
        for probe in [probe for probe, (owner, _) in self._probes.items() if owner is steering]:
            self._close_probe(probe)

    def post(self, act: Callable[[float], None]) -> None:
        """Do something in the next turn."""
        self._posted.append(act)
        self._waiter.wake()

    def woke(self, slept: float) -> None:
        """The machine was suspended for so many seconds: connections learn of it in the next turn, before all else."""
        self._posted.extendleft(functools.partial(member.woke, slept) for member in self._members)

    def close(self) -> None:
        """Give everything back. What was asked in the last moment is answered: by then, that it is over."""
        for act in self._posted:
            act(self._machine.now())
        for probe in list(self._probes):
            self._close_probe(probe)
        self._news.close()

    # Surroundings of a `Steering` -------------------------------------------------------------------------------------

    def routes(self, address: str) -> Sequence[Route]:
        """One question a turn for each peer, however many connections lead there."""
        if address not in self._known:
            self._known[address] = self._machine.routes_to(address)
        return self._known[address]

    def send_probe(self, steering: Steering, route: Route, datagram: bytes) -> None:
        """From a new socket for each: a port seen on two networks would link them."""
        probe = self._machine.open_probe(steering.remote, route)
        self._probes[probe] = steering, self._machine.now() + PROBE_LIFE
        self._waiter.register(probe, lambda now: self._probe_answered(probe, now))
        try:
            probe.send(datagram)
        except OSError:
            self._close_probe(probe)
            raise

    # A turn -----------------------------------------------------------------------------------------------------------

    def turn(self, ready: Sequence[Callable[[float], None]]) -> None:
        """Do what is due, and what has become ready."""
        now = self._machine.now()
        self._known.clear()
        due = [member.tick for member in self._members if _is_due(member, now)]
        if self._settling.deadline is not None and self._settling.deadline <= now:
            due.append(self._ask_all)
        if self._news.interval is not None:
            due.append(self.network_news)
        posted = [self._posted.popleft() for _ in range(len(self._posted))]
        for act in (*posted, *ready, *due):
            try:
                act(now)
            except Exception:
                if not self._forgiving:
                    raise
                # One connection's trouble must not be that of the others.
                logger.exception("steering a connection failed; please report this")
        for probe in [probe for probe, (_, until) in self._probes.items() if until <= now]:
            self._close_probe(probe)

    @property
    def deadline(self) -> float | None:
        """When the next turn is due, if nothing becomes ready before."""
        times = [member.deadline for member in self._members]
        times.append(self._settling.deadline)
        if self._news.interval is not None:
            times.append(self._machine.now() + self._news.interval)
        if self._probes:
            times.append(min(until for _, until in self._probes.values()))
        return min((time for time in times if time is not None), default=None)

    def network_news(self, now: float) -> None:
        """Something may have changed in the networks."""
        if self._news.drain():
            self._settling.heard(now)
            self._ask_all(now)

    def _ask_all(self, now: float) -> None:
        if self._settling.deadline is None or self._settling.deadline > now:
            return
        self._settling.asked(now)
        for member in list(self._members):
            member.ask_routes(now)

    def _probe_answered(self, probe: ProbeWire, now: float) -> None:
        found = self._probes.get(probe)
        if found is not None:  # It may have been closed earlier in this turn.
            for datagram in probe.receive():
                found[0].datagram_came(datagram, now)

    def _close_probe(self, probe: ProbeWire) -> None:
        if self._probes.pop(probe, None) is not None:
            self._waiter.unregister(probe)
            probe.close()


def _is_due(member: Steering, now: float) -> bool:
    deadline = member.deadline
    return deadline is not None and deadline <= now


def _is_same(one: Route, other: Route) -> bool:
    return (one.interface, one.source) == (other.interface, other.source)
