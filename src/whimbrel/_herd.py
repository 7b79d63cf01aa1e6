"""In which order, and how fast, many connections learn of a change. Takes the time as an argument.

A move costs some kilobytes in each direction: the path is validated (RFC 9000 §8.2), IDs are renewed, and the
size of packets is found out anew. A thousand connections that all move at once would fill the queue of the network
that they move to, lose those packets, and take each other's silence for that of the network.
"""

from __future__ import annotations

import math
from typing import Final, Generic, TypeVar

BURST: Final = 50
"""Connections that learn of a change at once: a browser's, or an agent's, are fewer."""
RATE: Final = 1250.0
"""The others, per second: a thousand have moved within one."""
SLICE: Final = 10
"""So many at a time, since each time has its own cost."""

_Member = TypeVar("_Member")


class Herd(Generic[_Member]):
    """Those who have not learned of the latest change yet."""

    def __init__(self) -> None:
        self._waiting: dict[_Member, None] = {}
        self._paid_until = -math.inf  # a token bucket, kept as the time at which it will be full again

    def add(self, members: list[_Member]) -> None:
        """These have something to learn, the first first; who waits already keeps its place."""
        self._waiting.update(dict.fromkeys(members))

    def discard(self, member: _Member) -> None:
        """It is gone."""
        self._waiting.pop(member, None)

    def next(self, now: float) -> list[_Member]:
        """Those whose turn it is."""
        room = round(BURST - max(0.0, self._paid_until - now) * RATE)
        turn = list(self._waiting)[: max(0, room)]
        for member in turn:
            del self._waiting[member]
        self._paid_until = max(self._paid_until, now) + len(turn) / RATE
        return turn

    @property
    def deadline(self) -> float | None:
        """When to call `next`; None: nobody waits."""
        if not self._waiting:
            return None
        return self._paid_until - (BURST - min(SLICE, len(self._waiting))) / RATE
