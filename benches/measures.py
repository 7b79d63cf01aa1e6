"""What `peers.py` measures, what is asked of it, and how that is told."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import harness
from harness import Figures, significant, spread

OURS, UVLOOP, BLOCKING, WEB = "whimbrel asyncio", "whimbrel uvloop", "whimbrel.sync", "whimbrel HTTP/3"
FLOOR = "the engine alone"
BARE = "a bare loop"

Samples = Mapping[tuple[str, str], Sequence[dict[str, Any]]]
"""Runs, by what was measured and of which program."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured: its unit, and how it is had from a run's figures."""

    title: str
    unit: str
    value: Callable[[Figures], float]
    more_is_better: bool = True
    per: Literal["GB", "each", ""] = ""
    """What a processor's time is counted for: seconds a GB, microseconds each; none: it is not."""
    of: str = ""
    """The cells that give it, if they are another measure's."""


def _rate(run: Figures) -> float:
    return run["count"] / run["seconds"]


def _seconds(run: Figures) -> float:
    return run["seconds"]


def _bits(run: Figures) -> float:
    return _rate(run) * 8e-9


MEASURES = {
    "download": Measure("Bulk download, one stream", "Gbit/s", _bits, per="GB"),
    "upload": Measure("Bulk upload, one stream", "Gbit/s", _bits, per="GB"),
    "download, MTU": Measure(
        "Bulk download, datagrams as large as each finds by path MTU discovery", "Gbit/s", _bits, per="GB"
    ),
    "ping": Measure(
        "A byte there and one back, each on a new stream; over TCP on the same connection",
        "p50 us",
        lambda run: run["p50"] * 1e6,
        more_is_better=False,
        per="each",
    ),
    "ping, p99": Measure("The same, p99", "p99 us", lambda run: run["p99"] * 1e6, more_is_better=False, of="ping"),
    "streams": Measure(
        "Requests and answers of 1 KiB, 100 at once, each on a new stream; over TCP on 100 connections",
        "a second",
        _rate,
        per="each",
    ),
    "handshakes": Measure("Full handshakes, one after the other", "a second", _rate, per="each"),
    "first": Measure("First answers, each after a full handshake, one after the other", "a second", _rate),
    "resumed": Measure("First answers, each after a resumed handshake", "a second", _rate),
    "early": Measure("First answers, each to a request in the first packet (0-RTT)", "a second", _rate),
    "memory": Measure(
        "Idle connections of a server",
        "KiB each",
        lambda run: run["memory"] / run["count"] / 1024,
        more_is_better=False,
    ),
    "idle": Measure(
        "Many idle connections of a server",
        "% of a core",
        lambda run: run["server_cpu"] / run["seconds"] * 100,
        more_is_better=False,
    ),
    "no move": Measure("A transfer in the laboratory, which stays where it is", "s", _seconds, more_is_better=False),
    "two moves": Measure("The same, which moves to the other radio and back", "s", _seconds, more_is_better=False),
    "web": Measure("HTTP download from Caddy", "Gbit/s", _bits, per="GB"),
    "requests": Measure("Files of 1 KiB from Caddy, 100 at once on one connection", "a second", _rate, per="each"),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """How ours must be beside a peer: at least so many times, or at most where less is better."""

    measure: str
    ours: str
    peer: str | None
    """None: the bar is the figure itself."""
    factor: float
    than: str = ""
    """What is measured of the peer, if it is something else."""
    is_aim: bool = False
    """Missing it is told, and no failure."""


BARS = (
    *(Bar(each, OURS, "s2n-quic", 1.0) for each in ("download", "upload")),
    *(Bar(each, OURS, "quinn", 1.5) for each in ("download", "upload")),
    *(Bar(each, OURS, "quic-go", 3.0) for each in ("download", "upload")),
    *(Bar(each, OURS, "TLS asyncio", 2.0) for each in ("download", "upload")),
    *(Bar(each, OURS, "aioquic", 40.0) for each in ("download", "upload")),
    *(Bar(each, OURS, BARE, 0.9) for each in ("download", "upload")),
    *(Bar(each, BLOCKING, "TLS blocking", 0.55) for each in ("download", "upload")),
    *(Bar(each, BLOCKING, "TLS blocking", 0.8, is_aim=True) for each in ("download", "upload")),
    Bar("ping", OURS, "quinn", 1.2),
    Bar("ping", OURS, "aioquic", 0.3),
    Bar("ping", OURS, "TLS asyncio", 0.7),
    Bar("ping", BLOCKING, "quinn", 1.0),
    Bar("ping, p99", OURS, "quinn", 2.0),
    Bar("ping, p99", BLOCKING, "quinn", 2.0),
    Bar("streams", OURS, "aioquic", 20.0),
    Bar("streams", OURS, "quic-go", 1.5),
    Bar("streams", OURS, "TLS asyncio", 2.5, is_aim=True),
    Bar("handshakes", OURS, "aioquic", 3.0),
    Bar("handshakes", OURS, "quinn", 0.7),
    Bar("resumed", OURS, OURS, 1.0, than="first"),
    Bar("memory", f"{OURS}, wildcard", FLOOR, 1.2),
    Bar("memory", f"{OURS}, wildcard", None, 60.0, is_aim=True),
    Bar("idle", OURS, None, 2.0),
    Bar("two moves", OURS, OURS, 1.05, than="no move"),
    Bar("web", WEB, "aioquic HTTP/3", 10.0),
)


def told(samples: Samples) -> tuple[str, bool]:
    """Return what is asked and whether it was met, then all the tables; and whether a bar was missed."""
    rows = [_bar_row(bar, samples) for bar in BARS]
    parts = [f"### What is asked\n\n{harness.table(['', '', 'asked', 'measured', ''], rows)}"]
    for name, measure in MEASURES.items():
        runs = {program: group for (what, program), group in samples.items() if what == name}
        if runs:
            parts.append(f"### {measure.title}\n\n{_measure_table(name, measure, runs)}")
    parts.append(f"### Ours beside each peer: how many times better\n\n{_ratio_table(samples)}")
    runs_of_all = [sample for group in samples.values() for sample in group]
    versions = "; ".join(dict.fromkeys(sample["versions"] for sample in runs_of_all))
    rounds = sorted({len(group) for group in samples.values()})
    counts = " to ".join(str(count) for count in dict.fromkeys((rounds[0], rounds[-1])))
    parts.append(f"Medians of {counts} rounds: {versions}. {harness.described_machine(runs_of_all)}.")
    return "\n\n".join(parts), any(verdict == MISSED for *_, verdict in rows)


MET, MISSED, UNKNOWN = "met", "MISSED", "not measured"


def _bar_row(bar: Bar, samples: Samples) -> list[str]:
    mine, theirs = middle(samples, bar.measure, bar.ours), 1.0
    if bar.peer is not None:
        theirs = middle(samples, bar.than or bar.measure, bar.peer)
    measure = MEASURES[bar.measure]
    beside = measure.unit if bar.peer is None else f"× {bar.peer}" + (f", {bar.than}" if bar.than else "")
    sign = "≥" if measure.more_is_better else "≤"
    asked = f"{'aim ' if bar.is_aim else ''}{sign} {bar.factor:g} {beside}"
    if mine is None or theirs is None:
        return [bar.measure, bar.ours, asked, "", UNKNOWN]
    ratio = mine / theirs
    met = ratio >= bar.factor if measure.more_is_better else ratio <= bar.factor
    return [bar.measure, bar.ours, asked, significant(ratio), MET if met else "short of it" if bar.is_aim else MISSED]


def _measure_table(name: str, measure: Measure, runs: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """One row a program."""
    # p99 is a column of p50's table.
    also = {each: other for each, other in MEASURES.items() if other.of == name}
    head = ["", f"{measure.unit}, median (min–max)", *[other.unit for other in also.values()]]
    if measure.per:
        cost = "s a GB" if measure.per == "GB" else "us each"
        head += [f"client CPU {cost}", f"server CPU {cost}"]
    head.append("runs")
    rows = []
    for program, group in runs.items():
        row = [program, *[spread([each.value(run) for run in group]) for each in (measure, *also.values())]]
        if measure.per:
            unit = 1e9 if measure.per == "GB" else 1e6
            for side in ("cpu", "server_cpu"):
                costs = [run[side] / run["count"] * unit for run in group if side in run]
                row.append(significant(statistics.median(costs)) if costs else "")
        rows.append([*row, str(len(group))])
    return harness.table(head, rows)


def _ratio_table(samples: Samples) -> str:
    """Ours to each peer, by what is measured: more than 1 is better."""
    names = [name for name, measure in MEASURES.items() if any(what == (measure.of or name) for what, _ in samples)]
    programs = list(dict.fromkeys(program for _, program in samples))
    rows = []
    for ours in [program for program in programs if program.startswith("whimbrel")]:
        for peer in [program for program in programs if not program.startswith("whimbrel")]:
            ratios = [_better(samples, name, ours, peer) for name in names]
            if any(ratio is not None for ratio in ratios):
                rows.append([f"{ours} to {peer}", *["" if ratio is None else significant(ratio) for ratio in ratios]])
    return harness.table(["", *names], rows)


def _better(samples: Samples, name: str, ours: str, peer: str) -> float | None:
    mine, theirs = middle(samples, name, ours), middle(samples, name, peer)
    if mine is None or theirs is None:
        return None
    return mine / theirs if MEASURES[name].more_is_better else theirs / mine


def middle(samples: Samples, name: str, program: str) -> float | None:
    """Return the median; None: nothing was measured."""
    measure = MEASURES[name]
    runs = samples.get((measure.of or name, program))
    return statistics.median(map(measure.value, runs)) if runs else None
