"""What a change of networks cost: pure functions over what was received when, and over captured packets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from whimbrel.testing._capture import is_negotiation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from whimbrel.testing._capture import Packet

Sample = tuple[float, int]
"""When, and how many new application bytes."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The time without data that a change made."""

    begin: float
    """When the last bytes before it came; not finite where none ever came."""
    seconds: float
    """How long it was, less the stream's usual gap, 0 at least; infinite when nothing came after the change."""


def find_gap(samples: Iterable[Sample], change: float, *, since: float = -math.inf, window: float = 3.0) -> Gap:
    """Return the longest time without new bytes around a change, less the stream's usual gap.

    A gap counts when it ends after the change and begins at most ``window`` after it. What is usual is the 95th
    percentile of the gaps in the second before the change.

    Args:
        samples: application bytes at the receiver, in any order.
        change: when the network changed.
        since: when the stream came to the network it used before, if that is less than a second earlier.
        window: seconds.
    """
    times = sorted(at for at, size in samples if size > 0)
    if not times or times[-1] <= change:
        return Gap(times[-1] if times else -math.inf, math.inf)
    around = [pair for pair in pairwise(times) if pair[1] > change and pair[0] < change + window]
    begin, end = max(around, key=lambda pair: pair[1] - pair[0], default=(times[0], times[0]))
    return Gap(begin, max(0.0, end - begin - usual_gap(times, max(since, change - 1.0), change)))


def handover_gap(samples: Iterable[Sample], change: float, *, since: float = -math.inf, window: float = 3.0) -> float:
    """Return how long the gap of a change is: seconds, as `find_gap` has it."""
    return find_gap(samples, change, since=since, window=window).seconds


def usual_gap(times: Sequence[float], begin: float, end: float) -> float:
    """Return the 95th percentile (nearest rank) of the gaps between times in an interval; 0 where there is none."""
    gaps = sorted(later - earlier for earlier, later in pairwise(times) if earlier >= begin and later <= end)
    return gaps[math.ceil(0.95 * len(gaps)) - 1] if gaps else 0.0


def resumption(samples: Iterable[Sample], restored: float) -> float:
    """Return the seconds from the moment a network is back until new bytes come; infinite when none do."""
    return min((at for at, size in samples if size > 0 and at > restored), default=math.inf) - restored


@dataclass(frozen=True, slots=True)
class Move:
    """The device went on over another network."""

    time: float
    """Of the first packet there."""
    source: str
    """Interface before."""
    target: str
    """Interface since."""


def moves(radios: Mapping[str, Iterable[Packet]], port: int) -> list[Move]:
    """Return when a device's datagrams to a server went over another network than those before them.

    That is all there is to know of a client whose packets the kernel routes. Version-negotiation probes do not count.

    Args:
        radios: interface names, and the packets captured there.
        port: the server's UDP port.
    """
    sent = sorted(
        (packet.time, interface)
        for interface, packets in radios.items()
        for packet in packets
        if packet.protocol == "udp" and packet.destination[1] == port and packet.direction == "to_server"
        if not is_negotiation(packet)
    )
    return [Move(at, before, now) for (_, before), (at, now) in pairwise(sent) if before != now]
