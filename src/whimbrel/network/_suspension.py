"""Whether the machine was suspended: no timer fires then, and none counts the time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

NOTICEABLE: Final = 0.5
"""Seconds. Less may be a thread that was interrupted between two looks at clocks."""


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Suspension:
    """Tells how long the machine was suspended.

    CLOCK_MONOTONIC, which all timers go by, stands still in a suspension, and CLOCK_BOOTTIME does not. Neither is moved
    by whoever sets the time of day.
    """

    def __init__(
        self, awake: Callable[[], float] = time.monotonic, since_boot: Callable[[], float] = _since_boot
    ) -> None:
        """Begin to count.

        Args:
            awake: seconds, without those of suspensions.
            since_boot: seconds, with them.
        """
        self._awake = awake
        self._since_boot = since_boot
        self._asleep = self._bounds()[1]

    def passed(self) -> float:
        """Seconds spent suspended since the last call; 0 if that is not `NOTICEABLE`."""
        least, most = self._bounds()
        slept = least - self._asleep
        if slept < NOTICEABLE:
            return 0.0
        self._asleep = most
        return slept

    def _bounds(self) -> tuple[float, float]:
        """The least and the most that the machine may have spent suspended: two clocks are not read at one time."""
        before = self._awake()
        now = self._since_boot()
        return now - self._awake(), now - before
