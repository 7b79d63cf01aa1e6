"""A link in virtual time: how long each packet takes, and which never arrive.

──▶ queue, rate ──▶ latency, jitter ──▶          (lost, held back, or twice)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from whimbrel.testing._capture import Direction


@dataclass(slots=True, kw_only=True)
class Link:
    """Both directions of a link are alike. Each value may be changed under way."""

    latency: float = 0.005
    """Seconds, one way."""
    rate: float = 10e6
    """Bits per second."""
    loss: float = 0.0
    """The chance of each packet to be lost, 0 to 1."""
    jitter: float = 0.0
    """Up to so many seconds are added to the latency, packet by packet: they overtake each other."""
    reordering: float = 0.0
    """The chance of each packet to take twice the latency, so that those behind it overtake it."""
    duplication: float = 0.0
    """The chance of each packet to arrive twice."""
    queue: float = 0.050
    """Seconds that a packet waits for its turn at most; where it would be longer, it is dropped."""
    mtu: int = 1500
    """Bytes of the largest IP packet; larger ones vanish."""
    _free: dict[Direction, float] = field(
        default_factory=lambda: {"to_server": 0.0, "to_client": 0.0}, init=False, repr=False
    )

    def carry(self, direction: Direction, size: int, now: float, chance: random.Random) -> Passage:
        """When an IP packet of that size, sent now, has left the queue, and when it arrives."""
        begins = max(now, self._free[direction])
        if begins - now > self.queue or size > self.mtu:
            return Passage(-math.inf, ())
        self._free[direction] = leaves = begins + size * 8 / self.rate
        # Dice are thrown for what can happen only, so that a link without it is the same whatever its neighbours do.
        if self.loss > 0 and chance.random() < self.loss:
            return Passage(leaves, ())
        copies = 2 if self.duplication > 0 and chance.random() < self.duplication else 1
        return Passage(leaves, tuple(leaves + self._delay(chance) for _ in range(copies)))

    def _delay(self, chance: random.Random) -> float:
        delay = self.latency
        if self.jitter > 0:
            delay += chance.random() * self.jitter
        if self.reordering > 0 and chance.random() < self.reordering:
            delay += self.latency
        return delay


@dataclass(frozen=True, slots=True)
class Passage:
    """What a link does with one packet."""

    leaves: float
    """When it has left the queue; minus infinity: it was dropped there."""
    arrives: tuple[float, ...]
    """When; more than once, or never."""
