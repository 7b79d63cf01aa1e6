"""What the crossing came to, for a person: sentences and two tables."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

from whimbrel.cli._demo.report import WAYS, carried_by, duration, fate, name, sentence
from whimbrel.cli._progress import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whimbrel.cli._demo.lane import Progress
    from whimbrel.cli._demo.messages import Direction
    from whimbrel.cli._demo.report import Happened, Moved, Report
    from whimbrel.testing import Gap

_STILL = {
    "black-hole": "the kernel goes on preferring a network that carries nothing",
    "portal": "the kernel prefers a network that carries nothing",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells below a head."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def show(report: Report, output: TextIO) -> None:
    """Print it."""
    rich = output.isatty() and find_spec("rich") is not None
    for part in parts(report):
        if rich:
            _print_rich(part, output)
        else:
            for line in [part] if isinstance(part, str) else _plain(part):
                print(line, file=output)
    output.flush()


def parts(report: Report) -> Iterator[str | Table]:
    """Return its parts, in order."""
    crossing = report.crossing
    for direction, transfer in crossing.migrating.transfers.items():
        yield f"whimbrel{_way(report, direction)}: {_outcome(report, transfer)}"
    if crossing.standing is not None:
        how = ", ".join(filter(None, ["TCP", crossing.congestion_control]))
        for direction, transfer in crossing.standing.transfers.items():
            yield f"http.client ({how}){_way(report, direction)}: {fate(transfer)}"
    if report.sha256_equal is None:
        yield "No other client has a whole copy to compare with, so nothing can be said of the hash."
    if report.events or (crossing.plan.scenario is None and report.moves):
        gaps = [f"gap {direction}" for direction in report.directions] if len(report.directions) > 1 else ["gap"]
        yield Table(("at", "what happened", "what whimbrel did", *gaps), list(_story(report)))
    if crossing.captured:
        yield Table(("network", "bytes", "connection IDs to server", "to client", "probes"), list(_networks(report)))
        yield _linkable(report)
    else:
        rows: list[tuple[str, ...]] = [
            (_network(interface), size(count)) for interface, count in carried_by(crossing).items() if count
        ]
        if rows:
            yield Table(("network", "bytes"), rows)
        yield "Nothing was captured, so which connection IDs were seen where is not known."
    if (why := _by_design(report)) is not None:
        yield why


def _way(report: Report, direction: Direction) -> str:
    return f", {WAYS[direction]}" if report.crossing.plan.direction != "down" else ""


def _outcome(report: Report, transfer: Progress) -> str:
    if not transfer.whole:
        return fate(transfer)
    seconds = max((transfer.ended or 0.0) - transfer.began, 1e-3)
    rate = transfer.received * 8e-6 / seconds
    equal = {True: "equal", False: "DIFFERENT", None: "unknown"}[report.equal(transfer.direction)]
    return f"{size(transfer.received)} in {seconds:.1f} s, {rate:.0f} Mbit/s, SHA-256 {equal}"


def _story(report: Report) -> Iterator[tuple[str, ...]]:
    """Events and moves, as they followed each other."""
    began = report.crossing.began
    for happened, moves in report.story():
        if happened is None:
            yield _moved(report, moves[0], began)
        else:
            at = happened.event.time - began
            gaps = (_gap(happened, direction) for direction in report.directions)
            yield f"{at:.2f} s", sentence(happened.event), _did(happened, moves), *gaps


def _did(happened: Happened, moves: list[Moved]) -> str:
    if moves:
        after = (moves[0].at - happened.event.time) * 1000
        return f"{name(moves[0].source)} → {name(moves[0].target)} after {after:.0f} ms ({moves[0].reason})"
    return "went on" if happened.resumptions is not None else "stayed"


def _gap(happened: Happened, direction: Direction) -> str:
    if happened.resumptions is not None:
        return f"resumed after {duration(happened.resumptions[direction])}"
    return _length(happened.gaps, direction)


def _moved(report: Report, move: Moved, began: float) -> tuple[str, ...]:
    what = f"{name(move.source)} → {name(move.target)} ({move.reason})"
    return f"{move.at - began:.2f} s", "", what, *(_length(move.gaps, direction) for direction in report.directions)


def _length(gaps: dict[Direction, Gap], direction: Direction) -> str:
    return duration(gaps[direction].seconds) if direction in gaps else "was done"


def _networks(report: Report) -> Iterator[tuple[str, ...]]:
    for interface, captured in report.crossing.captured.items():
        ids = captured.connection_ids
        counts = (len(ids.to_server), len(ids.to_client), ids.probes)
        yield _network(interface), size(captured.bytes), *(str(count) for count in counts)


def _network(interface: str) -> str:
    return interface if name(interface) == interface else f"{name(interface)} ({interface})"


def _linkable(report: Report) -> str:
    ours, theirs = len(report.linkable_to_server), len(report.linkable_to_client)
    if not ours and not theirs:
        return "No connection ID was seen on both networks: an observer of both cannot link them."
    return f"Connection IDs seen on both networks: {ours} to the server, {theirs} to the client."


def _by_design(report: Report) -> str | None:
    plan = report.crossing.plan
    if report.failure is None or plan.sockets == "pinned" or plan.scenario is None:
        return None
    if (why := _STILL.get(plan.scenario.name)) is not None:
        return f"{plan.sockets.capitalize()} sockets cannot survive this: {why}. Pinned ones can."
    if plan.sockets == "unconnected" and not plan.auto and plan.keepalive is None and plan.direction == "down":
        return (
            "Without a watch-dog, a pure download sends nothing after a cut, so the server never learns: --keepalive 1."
        )
    return None


def _plain(table: Table) -> Iterator[str]:
    lines = [table.head, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]
    for line in lines:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _print_rich(part: str | Table, output: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(file=output, highlight=False)
    if isinstance(part, str):
        console.print(part, markup=False)
        return
    table = RichTable(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in part.head:
        table.add_column(title, justify="right" if title.startswith(("at", "gap", "bytes")) else "left")
    for row in part.rows:
        table.add_row(*row)
    console.print(table)
