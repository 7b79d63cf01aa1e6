"""What the crossing cost: moves and their gaps, networks and their bytes, and what an observer could link."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whimbrel.testing import handover_gap, linkable, resumption

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from whimbrel.cli._demo.crossing import Crossing
    from whimbrel.cli._demo.lane import Progress
    from whimbrel.testing import Event, Sample

NETWORKS = {"wlan0": "Wi-Fi", "wwan0": "5G"}
"""What the laboratory's interfaces stand for."""
_WINDOW = 3.0
"""Seconds after a change in which the stream dries up, if it does, because of it."""
_ALREADY = 0.1
"""Seconds without a byte by which a stream was silent before a change, and not because of it."""
_STALL = 1.0
"""Seconds without a byte that are worth a word."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The migrating client went on over another network."""

    at: float
    source: str
    target: str
    reason: str
    """As the library has it; ``kernel`` where that alone routed the packets."""
    gap: float
    """Seconds; infinite when nothing came afterwards."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A step of the journey, and what it cost."""

    event: Event
    gap: float
    """Seconds, as a move's; infinite when nothing came afterwards."""
    resumption: float | None
    """Seconds from the network's return to the first new bytes, where there was no network before."""


class Report:
    """A crossing, measured."""

    def __init__(self, crossing: Crossing) -> None:
        self.crossing = crossing
        self.samples = _samples(crossing)
        self.moves = _moves(crossing, self.samples)
        self.events = _events(crossing, self.samples)
        ids = [captured.connection_ids for captured in crossing.captured.values()]
        self.linkable_to_server = linkable(ids, "to_server")
        self.linkable_to_client = linkable(ids, "to_client")

    @property
    def sha256_equal(self) -> bool:
        """Whether the file arrived as it is."""
        return self.crossing.migrating.whole and self.crossing.migrating.sha256 == self.crossing.sha256

    @property
    def seconds(self) -> float:
        return (self.crossing.migrating.ended or self.crossing.began) - self.crossing.began

    @property
    def failure(self) -> str | None:
        """Why the migrating client's transfer does not count, in a sentence; None when it does."""
        progress = self.crossing.migrating
        if progress.error is not None:
            return f"the transfer failed: {progress.error}"
        if not self.sha256_equal:
            return f"what arrived is not the file: {progress.received} of {progress.total} bytes, and another hash"
        return None

    def story(self) -> Iterator[tuple[Happened | None, list[Moved]]]:
        """Go through events and moves as they followed each other.

        Each event comes with the first move before the next one, if there is any. A move of its own accord comes
        without an event.
        """
        moves = list(self.moves)
        for number, happened in enumerate(self.events):
            while moves and moves[0].at < happened.event.time:
                yield None, [moves.pop(0)]
            until = self.events[number + 1].event.time if number + 1 < len(self.events) else math.inf
            mine = [move for move in moves if move.at < until][:1]
            del moves[: len(mine)]
            yield happened, mine
        for move in moves:
            yield None, [move]

    def as_json(self) -> dict[str, Any]:
        """Return the report for programs. Times are seconds since the beginning, or milliseconds where it says so."""
        crossing = self.crossing
        return {
            "scenario": crossing.plan.scenario.name,
            "sockets": crossing.plan.sockets,
            "auto": crossing.plan.auto,
            "keepalive": crossing.plan.keepalive,
            "server": crossing.plan.server,
            "bytes": crossing.migrating.received,
            "seconds": round(self.seconds, 3),
            "sha256_equal": self.sha256_equal,
            "error": crossing.migrating.error,
            "moves": [
                {
                    "at": round(move.at - crossing.began, 3),
                    "from": move.source,
                    "to": move.target,
                    "reason": move.reason,
                    "handover_gap_ms": milliseconds(move.gap),
                }
                for move in self.moves
            ],
            "events": [
                {
                    "at": round(happened.event.time - crossing.began, 3),
                    "interface": happened.event.interface,
                    "action": happened.event.action,
                    "gap_ms": milliseconds(happened.gap),
                    "resumption_ms": None if happened.resumption is None else milliseconds(happened.resumption),
                }
                for happened in self.events
            ],
            "networks": {
                interface: {
                    "bytes": captured.bytes,
                    "connection_ids": {
                        "to_server": sorted(each.hex() for each in captured.connection_ids.to_server),
                        "to_client": sorted(each.hex() for each in captured.connection_ids.to_client),
                    },
                    "probes": captured.connection_ids.probes,
                }
                for interface, captured in crossing.captured.items()
            },
            "linkable_connection_ids": {
                "to_server": sorted(each.hex() for each in self.linkable_to_server),
                "to_client": sorted(each.hex() for each in self.linkable_to_client),
            },
            "other_client": None if crossing.standing is None else _standing(crossing.standing, crossing),
        }


def fate(progress: Progress) -> str:
    """Say in a few words what became of a client."""
    if progress.ended is None:
        return "under way"
    if progress.error is not None:
        text = progress.error
        if "%" not in text:
            text = f"{text} at {int(100 * progress.fraction)} %"
        return text
    text = f"done in {progress.ended - progress.began:.1f} s"
    if progress.longest_stall >= _STALL:
        text += (
            f", {progress.longest_stall:.1f} s of them stalled at {int(100 * progress.stalled_at / progress.total)} %"
        )
    return text


def name(interface: str | None) -> str:
    """Return what an interface of the laboratory stands for; any other one's own name."""
    return "?" if interface is None else NETWORKS.get(interface, interface)


def sentence(event: Event) -> str:
    """Say what happened to a network."""
    network = name(event.interface)
    match event.action:
        case "join":
            return f"{network} appears"
        case "down":
            return f"{network} is cut"
        case "leave":
            return f"{network} takes its address back"
        case "renew":
            return f"{network} gives another address"
        case "silence":
            return f"{network} carries nothing any more"
        case "speak":
            return f"{network} carries again"
        case "rebind":
            return f"{network}'s router forgets its translations"


def _standing(progress: Progress, crossing: Crossing) -> dict[str, Any]:
    return {
        "name": progress.name,
        "congestion_control": crossing.congestion_control,
        "fate": fate(progress),
        "bytes": progress.received,
        "seconds": round((progress.ended or progress.began) - progress.began, 3),
        "sha256_equal": progress.whole and progress.sha256 == crossing.sha256,
        "longest_stall": round(progress.longest_stall, 3),
        "error": progress.error,
    }


def duration(seconds: float) -> str:
    """Write a time without data for a person."""
    if math.isinf(seconds):
        return "for good"
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def milliseconds(seconds: float) -> float | None:
    """Round for JSON, which has no infinity."""
    return round(seconds * 1000, 1) if math.isfinite(seconds) else None


def _samples(crossing: Crossing) -> list[Sample]:
    """Bytes as the application got them; where the kernel alone moves packets, as they were captured."""
    if crossing.plan.sockets != "unconnected" and crossing.migrating.samples:
        return crossing.migrating.samples
    return sorted(sample for captured in crossing.captured.values() for sample in captured.arrivals)


def _moves(crossing: Crossing, samples: list[Sample]) -> list[Moved]:
    if crossing.plan.sockets == "unconnected":
        told = [(move.time, move.source, move.target, "kernel") for move in crossing.captured_moves]
    else:
        told = [
            (change.facts["since"], change.facts["source"], change.facts["target"], change.facts["reason"])
            for change in crossing.migrating.changes
            if change.kind == "PathMigrated"
        ]
    # The gap begins where the network changed, which is some time before the move: after a black hole, a long one.
    starts, before = [], crossing.began
    for at, *_ in told:
        starts.append(max((event.time for event in crossing.events if before < event.time <= at), default=at))
        before = at
    return [
        Moved(*each, _gap(crossing, samples, start, since, until))
        for each, start, since, until in zip(
            told, starts, [crossing.began, *(at for at, *_ in told)], [*starts[1:], math.inf], strict=False
        )
    ]


def _events(crossing: Crossing, samples: list[Sample]) -> list[Happened]:
    end = crossing.migrating.ended or math.inf
    events = [event for event in crossing.events if event.time < end]
    times = [crossing.began, *(event.time for event in events), math.inf]
    happened = []
    up = {"wwan0"}  # Every scenario begins on cellular alone.
    for event, since, until in zip(events, times, times[2:], strict=False):
        back = resumption(samples, event.time) if event.action == "join" and not up else None
        happened.append(Happened(event, _gap(crossing, samples, event.time, since, until), back))
        if event.action == "join":
            up.add(event.interface)
        elif event.action == "down":
            up.discard(event.interface)
    return happened


def _gap(crossing: Crossing, samples: list[Sample], change: float, since: float, until: float) -> float:
    if not crossing.migrating.whole and (not samples or samples[-1][0] < min(until, change + _WINDOW)):
        return math.inf  # A trickle after the change does not count where it was the last.
    return gap_around(samples, change, since=since, until=until)


def gap_around(samples: Sequence[Sample], change: float, *, since: float, until: float) -> float:
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
    return handover_gap(samples[:later], change, since=since)


def rates(bins: Sequence[Sample], began: float, ended: float, width: float) -> tuple[list[float], list[float]]:
    """Turn counted bytes into a curve: seconds since the beginning, and Mbit/s; a value for every bin."""
    first, last = math.floor(began / width), math.ceil(ended / width)
    counted = {round(at / width): size for at, size in bins}
    numbers = range(first, last + 1)
    return [number * width - began for number in numbers], [counted.get(number, 0) * 8e-6 / width for number in numbers]
