"""When the data stopped because of a change, and for how long: at the receiver of one direction."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

from whimbrel.testing import Gap, find_gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whimbrel.testing import Sample

_ALREADY = 0.1
"""Seconds without a byte by which a stream was silent before a change, and not because of it."""


def gap_around(samples: Sequence[Sample], change: float, *, since: float, until: float) -> Gap:
    """Return the handover gap of one change among several.

    Args:
        samples: application bytes at the receiver, in the order of time.
        change: when the network changed.
        since: when it had changed before.
        until: when it changed again: a gap that begins with that is not this one's.
    """
    later = bisect_right(samples, until, key=lambda sample: sample[0])
    last = samples[later - 1][0] if later else -math.inf
    # What was silent already when the network changed again was so because of this change.
    if last <= max(change, until - _ALREADY):
        later += 1
    return find_gap(samples[:later], change, since=since)
