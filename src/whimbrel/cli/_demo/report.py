"""What the crossing cost: moves and their gaps, networks and their bytes, and what an observer could link."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whimbrel.cli._demo.gaps import gap_around
from whimbrel.cli._progress import size
from whimbrel.testing import Gap, linkable, resumption

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from whimbrel.cli._demo.crossing import Crossing
    from whimbrel.cli._demo.lane import Client, Progress
    from whimbrel.cli._demo.messages import Direction
    from whimbrel.testing import Event, Sample

NETWORKS = {"wlan0": "Wi-Fi", "wwan0": "5G"}
"""What the laboratory's interfaces stand for."""
WAYS: dict[Direction, str] = {"down": "download", "up": "upload"}
_WINDOW = 3.0
"""Seconds after a change in which the stream dries up, if it does, because of it."""
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
    change: float
    """When the network had changed, as far as that is known; else the move itself."""
    gaps: dict[Direction, Gap]


@dataclass(frozen=True, slots=True)
class Happened:
    """A step of the journey, and what it cost."""

    event: Event
    gaps: dict[Direction, Gap]
    resumptions: dict[Direction, float] | None
    """Seconds from the network's return to the first new bytes, where there was no network before."""


class Report:
    """A crossing, measured."""

    def __init__(self, crossing: Crossing) -> None:
        self.crossing = crossing
        self.directions = crossing.plan.directions
        self.samples = {direction: _samples(crossing, direction) for direction in self.directions}
        self.moves = _moves(crossing, self.samples)
        self.events = _events(crossing, self.samples)
        ids = [captured.connection_ids for captured in crossing.captured.values()]
        self.linkable_to_server = linkable(ids, "to_server")
        self.linkable_to_client = linkable(ids, "to_client")

    @property
    def sha256_equal(self) -> bool | None:
        """Whether all arrived as it was; None where nobody knows how it was."""
        answers = [self.equal(direction) for direction in self.directions]
        return False if False in answers else None if None in answers else True

    def equal(self, direction: Direction) -> bool | None:
        """Whether a transfer arrived as it was; None where nobody knows how it was."""
        crossing = self.crossing
        transfer = crossing.migrating.transfers[direction]
        if not transfer.whole:
            return False
        if (wanted := crossing.sha256.get(direction)) is None:
            return None
        # Of an upload the server's word is not enough: what it stored is looked at as well.
        return transfer.sha256 == wanted and (direction == "down" or crossing.stored_sha256 == wanted)

    @property
    def seconds(self) -> float:
        return (self.crossing.migrating.ended or self.crossing.began) - self.crossing.began

    @property
    def failure(self) -> str | None:
        """Why the migrating client's transfer does not count, in a sentence; None when it does."""
        client = self.crossing.migrating
        if client.error is not None:
            return f"the transfer failed: {client.error}"
        for direction, transfer in client.transfers.items():
            if self.equal(direction) is False:
                count = f"{transfer.received}" if transfer.total is None else f"{transfer.received} of {transfer.total}"
                return f"what arrived is not the file: {count} bytes, and another hash"
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
        """Return the report for programs. Times are seconds since the beginning, or milliseconds where it says so.

        What exists for each direction is in ``directions``; beside it, under the same name, is that of the download,
        or of the upload where that is alone.
        """
        crossing, plan = self.crossing, self.crossing.plan
        return {
            "scenario": None if plan.scenario is None else plan.scenario.name,
            "sockets": plan.sockets,
            "auto": plan.auto,
            "keepalive": plan.keepalive,
            "server": plan.server,
            "dispatch": plan.dispatch,
            "direction": plan.direction,
            "loss": plan.loss,
            "bytes": crossing.migrating.received,
            "seconds": round(self.seconds, 3),
            "sha256_equal": self.sha256_equal,
            "error": crossing.migrating.error,
            "transfers": {direction: self._transfer(direction) for direction in self.directions},
            "moves": [
                {
                    "at": round(move.at - crossing.began, 3),
                    "from": move.source,
                    "to": move.target,
                    "reason": move.reason,
                }
                | self._by_direction(
                    {
                        direction: {
                            "handover_gap_ms": milliseconds(gap.seconds),
                            "gap_begins_ms": _begins(gap, move.change, move),
                        }
                        for direction, gap in move.gaps.items()
                    }
                )
                for move in self.moves
            ],
            "events": [
                {
                    "at": round(happened.event.time - crossing.began, 3),
                    "interface": happened.event.interface,
                    "action": happened.event.action,
                }
                | self._by_direction(
                    {
                        direction: {
                            "gap_ms": milliseconds(gap.seconds),
                            "gap_begins_ms": _begins(gap, happened.event.time, moves[0] if moves else None),
                            "resumption_ms": None
                            if happened.resumptions is None
                            else milliseconds(happened.resumptions[direction]),
                        }
                        for direction, gap in happened.gaps.items()
                    }
                )
                for happened, moves in self.story()
                if happened is not None
            ],
            "networks": dict(self._networks()),
            "linkable_connection_ids": {
                "to_server": sorted(each.hex() for each in self.linkable_to_server),
                "to_client": sorted(each.hex() for each in self.linkable_to_client),
            }
            if crossing.captured
            else None,
            "other_client": None if crossing.standing is None else _standing(crossing.standing, crossing),
        }

    def _transfer(self, direction: Direction) -> dict[str, Any]:
        transfer = self.crossing.migrating.transfers[direction]
        return {
            "bytes": transfer.received,
            "seconds": round((transfer.ended or transfer.began) - transfer.began, 3),
            "sha256_equal": self.equal(direction),
            "error": transfer.error,
        }

    def _by_direction(self, figures: dict[Direction, dict[str, Any]]) -> dict[str, Any]:
        # One direction may have been through before: then there is nothing to tell of it.
        names = next(iter(figures.values()))
        first = figures.get(self.directions[0], dict.fromkeys(names))
        return first | {"directions": figures}

    def _networks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for interface, captured in self.crossing.captured.items():
            ids = captured.connection_ids
            named = {
                "to_server": sorted(each.hex() for each in ids.to_server),
                "to_client": sorted(each.hex() for each in ids.to_client),
            }
            yield interface, {"bytes": captured.bytes, "connection_ids": named, "probes": ids.probes}
        if not self.crossing.captured:
            for interface, count in carried_by(self.crossing).items():
                yield interface, {"bytes": count, "connection_ids": None, "probes": None}


def carried_by(crossing: Crossing) -> dict[str, int]:
    """Return the application bytes that came over each network, as the migrating client knows."""
    carried: Counter[str] = Counter()
    for transfer in crossing.migrating.transfers.values():
        for interface, samples in transfer.carried.items():
            carried[interface] += sum(count for _, count in samples)
    return dict(carried)


def fate(progress: Progress) -> str:
    """Say in a few words what became of a transfer."""
    if progress.ended is None:
        return "under way"
    if progress.error is not None:
        text = progress.error
        return text if "%" in text or not progress.received else f"{text} at {_place(progress, progress.received)}"
    text = f"done in {progress.ended - progress.began:.1f} s"
    if progress.longest_stall >= _STALL:
        text += f", {progress.longest_stall:.1f} s of them stalled at {_place(progress, progress.stalled_at)}"
    return text


def fates(client: Client) -> str:
    """Say what became of a client."""
    if len(client.transfers) == 1:
        return "".join(fate(transfer) for transfer in client.transfers.values())
    return "; ".join(f"{WAYS[direction]} {fate(transfer)}" for direction, transfer in client.transfers.items())


def _place(progress: Progress, reached: int) -> str:
    return f"{100 * reached // progress.total} %" if progress.total else size(reached)


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
        case "none":
            return f"{network} stays as it is"


def _standing(client: Client, crossing: Crossing) -> dict[str, Any]:
    transfers = client.transfers
    # On the machine's own networks it is the measure itself; then there is nothing to compare it with.
    equal = [
        transfer.whole and transfer.sha256 == crossing.sha256.get(direction)
        for direction, transfer in transfers.items()
    ]
    figures = {
        direction: {
            "fate": fate(transfer),
            "bytes": transfer.received,
            "seconds": round((transfer.ended or transfer.began) - transfer.began, 3),
            "longest_stall": round(transfer.longest_stall, 3),
            "error": transfer.error,
        }
        for direction, transfer in transfers.items()
    }
    return {
        "name": client.name,
        "congestion_control": crossing.congestion_control,
        **figures[crossing.plan.directions[0]],
        "sha256_equal": None if crossing.plan.scenario is None else all(equal),
        "directions": figures,
    }


def _begins(gap: Gap, change: float, move: Moved | None) -> dict[str, float | None] | None:
    """When a gap began, as seen from the change and from the move: later than both, it may be another one's."""
    if not math.isfinite(gap.begin):
        return None
    return {
        "after_change": milliseconds(gap.begin - change),
        "after_move": None if move is None else milliseconds(gap.begin - move.at),
    }


def duration(seconds: float) -> str:
    """Write a time without data for a person."""
    if math.isinf(seconds):
        return "for good"
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def milliseconds(seconds: float) -> float | None:
    """Round for JSON, which has no infinity."""
    return round(seconds * 1000, 1) if math.isfinite(seconds) else None


def _samples(crossing: Crossing, direction: Direction) -> list[Sample]:
    """Bytes as their receiver got them; of a download where the kernel alone moves packets, as they were captured."""
    samples = crossing.migrating.transfers[direction].samples
    if samples and (crossing.plan.sockets != "unconnected" or direction == "up" or not crossing.captured):
        return samples
    if direction == "up":
        return []
    return sorted(sample for captured in crossing.captured.values() for sample in captured.arrivals)


def _moves(crossing: Crossing, samples: dict[Direction, list[Sample]]) -> list[Moved]:
    if crossing.plan.sockets == "unconnected" and crossing.captured:
        told = [(move.time, move.source, move.target, "kernel") for move in crossing.captured_moves]
    elif crossing.plan.sockets == "unconnected":
        told = [(at, source, target, "kernel") for at, source, target in crossing.migrating.crossed]
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
        Moved(*each, start, _gaps(crossing, samples, start, since, until))
        for each, start, since, until in zip(
            told, starts, [crossing.began, *(at for at, *_ in told)], [*starts[1:], math.inf], strict=False
        )
    ]


def _events(crossing: Crossing, samples: dict[Direction, list[Sample]]) -> list[Happened]:
    end = crossing.migrating.ended or math.inf
    events = [event for event in crossing.events if event.time < end]
    times = [crossing.began, *(event.time for event in events), math.inf]
    happened = []
    up = {"wwan0"}  # Every scenario begins on cellular alone.
    for event, since, until in zip(events, times, times[2:], strict=False):
        back = (
            {direction: resumption(each, event.time) for direction, each in samples.items()}
            if event.action == "join" and not up
            else None
        )
        happened.append(Happened(event, _gaps(crossing, samples, event.time, since, until), back))
        if event.action == "join":
            up.add(event.interface)
        elif event.action == "down":
            up.discard(event.interface)
    return happened


def _gaps(
    crossing: Crossing, samples: dict[Direction, list[Sample]], change: float, since: float, until: float
) -> dict[Direction, Gap]:
    """The gap of one change, in each direction that was still under way."""
    gaps = {}
    for direction, each in samples.items():
        transfer = crossing.migrating.transfers[direction]
        if transfer.whole and (transfer.ended or math.inf) <= change and len(samples) > 1:
            continue
        dry = not each or each[-1][0] < min(until, change + _WINDOW)
        if not transfer.whole and dry:
            # A trickle after the change does not count where it was the last.
            gaps[direction] = Gap(each[-1][0] if each else -math.inf, math.inf)
        else:
            gaps[direction] = gap_around(each, change, since=since, until=until)
    return gaps


def bins(samples: Sequence[Sample], width: float) -> list[Sample]:
    """Count bytes by the bin of time that they came in, as `whimbrel.testing.carried` does for packets."""
    counted: Counter[int] = Counter()
    for at, count in samples:
        counted[int(at / width)] += count
    return [(number * width, count) for number, count in sorted(counted.items())]


def rates(counted_bytes: Sequence[Sample], began: float, ended: float, width: float) -> tuple[list[float], list[float]]:
    """Turn counted bytes into a curve: seconds since the beginning, and Mbit/s; a value for every bin."""
    first, last = math.floor(began / width), math.ceil(ended / width)
    counted = {round(at / width): count for at, count in counted_bytes}
    numbers = range(first, last + 1)
    return [number * width - began for number in numbers], [counted.get(number, 0) * 8e-6 / width for number in numbers]
