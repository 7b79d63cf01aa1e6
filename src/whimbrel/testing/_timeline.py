"""Virtual time: it stands still while anything happens, and then leaps to what happens next."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timeline:
    """What is to happen, and when. Seconds since the beginning."""

    def __init__(self) -> None:
        self.now = 0.0
        self._plans: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def at(self, time: float, action: Callable[[], object]) -> None:
        """Do something then, or at once where that is past. What has the same time happens in the order of planning."""
        heapq.heappush(self._plans, (max(time, self.now), next(self._order), action))

    @property
    def next(self) -> float:
        """When the next plan is due; infinity: there is none."""
        return self._plans[0][0] if self._plans else math.inf

    def leap(self, time: float) -> None:
        """It is that time now. All plans that are due are carried out, with those that they make for now."""
        self.now = time
        while self._plans and self._plans[0][0] <= time:
            _, _, action = heapq.heappop(self._plans)
            action()
