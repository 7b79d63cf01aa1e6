"""Which addresses a dial tries, over which networks. Decides, and neither sends nor waits.

A handshake belongs to the network that it began on: nothing may move before it is confirmed (RFC 9000 §9). So where the
network changes meanwhile, the same address is tried anew over the other one, beside the attempt that is under way as
long as that has a network, and in its place when it has none. And where nothing changes, and nobody answers, the other
networks are tried beside it: Wi-Fi that has an address and leads nowhere is a common thing.

    address ── over the preferred network ──▶ attempt ──┬── the first that answers is the connection
                          │ another is preferred, or    │
                          │ this one is gone: attempt ──┤
                          │                             │
                          └ nobody answers: attempt ────┘
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from whimbrel.network import Settling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whimbrel._config import Migration
    from whimbrel._errors import ConnectFailed
    from whimbrel._machine import Machine
    from whimbrel._path import Address
    from whimbrel.network import Route

# RFC 8305 §8: how long an address is tried alone before the next joins in, seconds.
STAGGER: Final = 0.25
PATIENCE: Final = 1.0
"""Seconds without an answer over the preferred network before another joins in, and then the next."""
ELSEWHERE: Final = 4
"""So many handshakes at most that are begun because of that: two networks, each with both families."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A handshake with one address, over one network."""

    address: Address
    route: Route | None
    """None: there was none."""
    is_stranded: bool = False
    """Its network is gone, or was in the meantime: by now the handshake waits for its own timers."""


class Attempts:
    """Those of one dial."""

    def __init__(self, machine: Machine, settings: Migration | None, addresses: Sequence[Address]) -> None:
        self._machine = machine
        self._settings = settings
        self._waiting: deque[tuple[Address, int]] = deque((address, 0) for address in addresses)
        if settings is not None and settings.prefer:
            # Whose favourite does not answer is not to wait for it: the others join, one after the other.
            most = max(len(self._ways(address)) for address in addresses)
            self._waiting += [(address, rank) for rank in range(1, most) for address in addresses]
        self._tried: dict[Address, list[Attempt]] = {}
        self._joins = -math.inf  # no other begins before this, while one is under way
        # Sockets that the kernel routes cannot go elsewhere, and by hand is by hand.
        self._elsewhere = ELSEWHERE if settings is not None and settings.auto and settings.sockets == "pinned" else 0

    @property
    def has_more(self) -> bool:
        """Whether `next` will give one, though none is under way."""
        return bool(self._waiting)

    @property
    def deadline(self) -> float | None:
        """When to call `next` while one is under way; None: nothing else is to be tried."""
        return self._joins if self._waiting or self._elsewhere else None

    def hurry(self) -> None:
        """Nothing is to be expected of those under way, or of one of them."""
        if self._waiting:
            self._joins = -math.inf

    def next(self, now: float, *, waiting: bool) -> Attempt | None:
        """The one to begin now, if any.

        Args:
            now: seconds, on whatever clock `deadline` is to be on.
            waiting: whether any is under way.
        """
        if waiting and now < self._joins:
            return None
        if self._waiting:
            attempt = self._next_in_turn()
            self._joins = now + (STAGGER if self._waiting else PATIENCE)
            return attempt
        # Who was refused was answered: only who keeps silent may be reached another way.
        self._joins = now + PATIENCE
        return self._next_elsewhere() if waiting else None

    def _next_in_turn(self) -> Attempt:
        address, rank = self._waiting.popleft()
        ways = self._ways(address)
        attempt = Attempt(address, ways[min(rank, len(ways) - 1)] if ways else None)
        # One that leads nowhere stays in the list: over the same network another would not get further.
        self._tried.setdefault(address, []).append(attempt)
        return attempt

    def _next_elsewhere(self) -> Attempt | None:
        """Over a network that was not tried."""
        for address, attempts in self._tried.items() if self._elsewhere else ():
            for route in self._in_order(self._machine.routes_to(address[0])):
                if not any(each.route == route for each in attempts):
                    self._elsewhere -= 1
                    attempts.append(Attempt(address, route))
                    return attempts[-1]
        return None

    def network_changed(self) -> tuple[list[Attempt], list[Attempt]]:
        """Look at the networks again. Returns what to begin, and what to drop for it."""
        begun: list[Attempt] = []
        dropped: list[Attempt] = []
        for address, attempts in self._tried.items():
            routes = self._in_order(self._machine.routes_to(address[0]))
            for attempt in attempts:
                attempt.is_stranded = attempt.is_stranded or attempt.route not in routes
            if routes and not any(each.route == routes[0] and not each.is_stranded for each in attempts):
                dropped += [attempt for attempt in attempts if attempt.is_stranded]
                attempts[:] = [attempt for attempt in attempts if not attempt.is_stranded]
                attempts.append(Attempt(address, routes[0]))
                begun.append(attempts[-1])
        return begun, dropped

    def _ways(self, address: Address) -> Sequence[Route]:
        if self._settings is not None and (self._settings.prefer or self._settings.metered):
            routes = self._in_order(self._machine.routes_to(address[0]))
            if routes:
                return routes
        route = self._machine.route_to(address[0])
        return [] if route is None else [route]

    def _in_order(self, routes: Sequence[Route]) -> Sequence[Route]:
        return routes if self._settings is None else self._settings._in_order(routes)


class NetworkChanges:
    """When a dial has to look at the networks again. A context manager."""

    def __init__(self, machine: Machine) -> None:
        """Start to listen.

        Raises:
            OSError: out of file descriptors.
        """
        self._machine: Final = machine
        self._news: Final = machine.subscribe()
        self._settling: Final = Settling()

    def fileno(self) -> int | None:
        """Readable when `are_there` should be asked."""
        return self._news.fileno()

    def delay(self) -> float | None:
        """Seconds until it should be asked in any case."""
        if self._settling.deadline is None:
            return self._news.interval
        return max(0.0, self._settling.deadline - self._machine.now())

    def are_there(self) -> bool:
        """Whether to look now."""
        now = self._machine.now()
        if self._news.drain():
            self._settling.heard(now)
        if self._settling.deadline is None or now < self._settling.deadline:
            return False
        self._settling.asked(now)
        return True

    def close(self) -> None:
        """Listen no more."""
        self._news.close()


def all_failed(failures: list[ConnectFailed]) -> ConnectFailed:
    """What is raised when no address led anywhere: the first failure, with the others as a note."""
    error = failures[0]
    if len(failures) > 1:
        error.add_note("; ".join(str(other) for other in failures[1:]))
    return error
