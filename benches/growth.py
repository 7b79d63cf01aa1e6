"""What does one more cost, by how many there are? Connections of a server, streams of a connection, bytes in flight.

Run: python benches/growth.py [--rounds 3] [--only connections streams flight] [--json FILE] [--picture docs/growth].
All numbers take turns within each round. `--from FILE` tells, and draws, what an earlier run has written.

- connections: as in dispatch.py, with its crowd of clients: both ways that a server can hold its sockets.
- streams: both ends are ours, a process each; all streams of one connection stay open meanwhile.
- flight: a download over a path of 1 Gbit/s in virtual time, with round trips that put more and more bytes on the way.

What counts is the cost of each: where it is the same for any number, the whole grows in proportion. The exit status
is 1 where one more costs over twice of what it did at the reference, or a transfer failed; 2 when there is nothing to
tell.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dispatch
import harness
import report
from dispatch import Measure, Sample, per
from harness import Failed, Figures, Machine, Process, Server, significant, spread
from programs._files import Files
from whimbrel.cli._figures import FAINT, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR = 2.0
"""What one more may cost at most, as a multiple of the reference: caches that become too small are no growth."""
IDLE = 3.0
"""Seconds for which idle connections are watched."""
RATE = 1e9
"""Bits per second of the long path."""
ROOMY = 4
"""Windows of that, in multiples of what the path holds."""
SHORT = 0.1
"""A queue of that, in round trips; otherwise it is one."""
SOME = 1e5
"""Bytes of memory that can be told from what comes and goes."""
BODY = 10_000
"""Bytes that are more than a packet."""
LIVES = 5000
"""Streams that come and go; so many as there are, come before any goes."""
TURNS = 50
"""How often they do at most: room for the next one comes with an acknowledgement, which may wait for 25 ms."""
FEW = 100
"""Streams that may be open where more are wanted."""
PIECE, SMALL = 1_000_000, 1000
"""Bytes of each write."""


@dataclass(frozen=True, slots=True)
class Study:
    """Something of which there may be many."""

    name: str
    title: str
    of: str
    """What the number counts."""
    numbers: Sequence[int]
    reference: int
    """Below it, what is there once costs more than what there is many of."""
    ways: Sequence[str]
    measures: Sequence[Measure]
    run: Callable[[argparse.Namespace, Files, str, int], Mapping[str, Sample]]
    """Measures one turn, and gives what is to be told by the way it is told of."""
    turns: Sequence[str] = ()
    """What is measured in turns, where it is not the ways."""

    def values(self, samples: Iterable[Sample], way: str, measure: Measure) -> dict[int, list[float]]:
        """Return a measure's values by number, round by round."""
        found: dict[int, list[float]] = defaultdict(list)
        for sample in samples:
            if sample["what"] == self.name and sample["way"] == way:
                value = measure.value(sample)
                if value is not None:
                    found[sample["number"]].append(value)
        return found

    def multiples(self, samples: Iterable[Sample], way: str, measure: Measure) -> dict[int, list[float]]:
        """Return them as multiples of the same round's at the reference."""
        found = self.values(samples, way, measure)
        base = found.get(self.reference, [])
        return {
            number: [value / first for value, first in zip(values, base, strict=False) if first]
            for number, values in found.items()
        }


def main() -> int:
    args = arguments()
    try:
        samples = [json.loads(line) for line in args.source.open()] if args.source else list(run(args))
        text = "\n".join(told(samples))
        print(text)
        if args.picture is not None:
            draw(samples, args.picture)
        if args.document is not None:
            harness.fill_in(args.document, __file__, text)
    except KeyboardInterrupt:
        print("growth: interrupted", file=sys.stderr)
    except (OSError, ValueError, Failed) as error:
        print(f"growth: {error}", file=sys.stderr)
    else:
        return 1 if any(steep(samples)) else 0
    return 2


def arguments() -> argparse.Namespace:
    names = [study.name for study in STUDIES]
    parser = argparse.ArgumentParser(description="Tell what one more costs, by how many there are.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--most", type=int, metavar="N", help="leave larger numbers out")
    parser.add_argument("--requests", type=int, default=20_000, metavar="N", help="in all (default: 20000)")
    parser.add_argument("--size", type=int, default=96, metavar="MB", help="of bulk (default: 96)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append every run as a line of JSON")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="tell what is there; run nothing")
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw PATH.svg and PATH.png")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put the tables between its marks")
    args = parser.parse_args()
    if min(args.rounds, args.requests, args.size) < 1:
        parser.error("numbers are 1 or more")
    return args


def run(args: argparse.Namespace) -> Iterable[Sample]:
    """Measure all, in turns."""
    reason = harness.build_native()
    if reason is not None:
        raise Failed(f"the clients cannot be built: {reason}")
    print(f"{args.rounds} rounds; {harness.versions()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="whimbrel-bench-") as folder:
        files = Files(Path(folder))
        files.make()
        chosen = [study for study in STUDIES if study.name in args.only]
        for number, study in itertools.product(range(args.rounds), chosen):
            sizes = [size for size in study.numbers if args.most is None or size <= args.most]
            for size, turn in itertools.product(sizes, study.turns or study.ways):
                if study.name == "connections" and not dispatch.fits(turn, size):
                    print(f"{turn} with {size} is left out: there are not as many descriptors", file=sys.stderr)
                    continue
                machine = Machine()
                came = study.run(args, files, turn, size)
                load = machine.load()
                for way, figures in came.items():
                    yield note(args, study, figures | load, way, size, number)


def note(args: argparse.Namespace, study: Study, figures: Sample, way: str, size: int, number: int) -> Sample:
    """Tell one run, and keep it."""
    sample = figures | {"what": study.name, "way": way, "number": size, "round": number + 1}
    sample["versions"] = harness.versions()
    shown = [(measure, measure.value(sample)) for measure in study.measures]
    text = ", ".join(f"{each.title} {significant(value)} {each.unit}" for each, value in shown if value is not None)
    print(f"{number + 1:3} {way} {size}: {text}; {sample['others']:.0%} by others", file=sys.stderr, flush=True)
    if args.json is not None:
        with args.json.open("a") as file:
            file.write(json.dumps(sample) + "\n")
    return sample


# What is measured -----------------------------------------------------------------------------------------------------


def connections(args: argparse.Namespace, files: Files, way: str, count: int) -> Mapping[str, Sample]:
    """Measure one server with so many clients, at work and when nobody wants anything."""
    with dispatch.running(files, way, count) as (server, crowd):
        figures = dispatch.measured(args, server, crowd, way, count)
        # With many connections, nearly all of those requests were the first of theirs.
        crowd.ask(f"exchange {count} {dispatch.WIDTH} 1 1")
        again = dispatch.Meter(server, crowd).measure(f"exchange {args.requests} {dispatch.WIDTH} 1 1")
        before = server.settle()
        time.sleep(IDLE)
        idle = used(before, server.usage()) | {"count": count * IDLE}
        return {way: figures | {"again": again, "idle": idle}}


def streams(args: argparse.Namespace, files: Files, _turn: str, count: int) -> Mapping[str, Sample]:
    """Measure both ends of one connection with so many streams."""
    sides: dict[str, Sample] = {"server": {}, "client": {}}
    lives = min(max(LIVES // count, 1), TURNS) * count
    with server_of_streams(files, count) as server:
        before = server.settle()
        with client_of_streams(files, server) as client:
            # A server keeps a place for each stream that its client may open.
            there, places = client.hear(), server.settle()
            sides["server"]["places"] = {"count": count, "memory": places["memory"] - before["memory"]}
            opened = client.ask(f"open {count} {dispatch.WIDTH}")["memory"] - there["memory"]
            sides["client"]["memory"] = {"count": count, "memory": opened}
            sides["server"]["memory"] = {"count": count, "memory": server.usage()["memory"] - places["memory"]}
            work(sides, server, client, "alone", f"ask {args.requests // 10} 1 1")
            for part, wanted, size in (("together", args.requests, 1), ("bodies", args.size * 1_000_000 // BODY, BODY)):
                work(sides, server, client, part, f"ask {max(wanted // count, 1) * count} {count} {size}")
            client.ask("finish")
            work(sides, server, client, "lives", f"live {lives} {count}")
    with server_of_streams(files, FEW) as server, client_of_streams(files, server) as client:
        client.hear()
        client.ask(f"queue {FEW} {FEW}")
        work(sides, server, client, "queued", f"queue {lives} {count}")
    return sides


def work(sides: Mapping[str, Sample], server: Server, client: Process, part: str, order: str) -> None:
    """Note what an order costs the client, who carries it out, and the server."""
    before = server.settle()
    sides["client"][part] = client.ask(order)
    sides["server"][part] = used(before, server.settle()) | {"count": sides["client"][part]["count"]}


def flight(args: argparse.Namespace, _files: Files, way: str, milliseconds: int) -> Mapping[str, Sample]:
    """Measure one download over the long path, in virtual time."""
    rtt = milliseconds / 1000
    holds = rtt * RATE / 8
    window = 0 if way == WAYS["default"] else max(int(ROOMY * holds), 1_000_000)
    piece = SMALL if way == WAYS["small"] else PIECE
    queue = max(rtt * (SHORT if way == WAYS["short"] else 1), 0.002)
    numbers = (rtt, RATE, queue, window, args.size * 1_000_000, piece)
    argv = [sys.executable, "-m", "programs._in_flight", *map(str, numbers)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, env=harness.environment(), cwd=harness.HERE, check=False)
    if done.returncode:
        raise Failed("the download failed: see above")
    came: Sample = json.loads(done.stdout)
    return {way: {"flight": came}}


@contextlib.contextmanager
def server_of_streams(files: Files, count: int) -> Iterator[Server]:
    """Run a server whose clients may open so many streams."""
    argv = [sys.executable, "-m", "programs._many_streams", "server", str(files.folder), str(count)]
    with harness.running("the server of many streams", argv) as process:
        yield Server(process)


def client_of_streams(files: Files, server: Server) -> contextlib.AbstractContextManager[Process]:
    """Run its client; it says what it has used when it is connected."""
    argv = [sys.executable, "-m", "programs._many_streams", "client", str(files.folder), str(server.port)]
    return harness.running("the client of many streams", argv)


def used(before: Figures, after: Figures) -> Figures:
    """Processor seconds between two looks."""
    return {name: after[name] - before[name] for name in ("user", "system")}


# What is told ---------------------------------------------------------------------------------------------------------

WAYS = {"roomy": "roomy windows", "default": "default windows", "small": "small writes", "short": "a short queue"}


def whole(name: str, scale: float) -> Callable[[Any], float | None]:
    """A figure of a download for each byte of it; None where it has failed."""

    def value(sample: Any) -> float | None:
        came = sample["flight"]
        return None if came["failure"] else came[name] / came["received"] * scale

    return value


def filled(sample: Any) -> float | None:
    """The part of the path's rate that a download had, once it was under way."""
    came = sample["flight"]
    return None if came["failure"] else came["settled_rate"] / came["rate"]


STUDIES = (
    Study(
        "connections",
        "Connections of a server",
        "connections",
        (10, 100, 1000, 10_000, 17_000, 20_000),
        100,
        dispatch.WAYS,
        (
            Measure("set-up with handshake", "us", per("setup", "user", "system"), "cpu"),
            Measure("small request", "us", per("requests", "user", "system"), "cpu"),
            Measure("small request, later", "us", per("again", "user", "system"), "cpu"),
            Measure("bulk to clients", "s/GB", per("download", "user", "system", of="bytes", scale=1e9), "cpu"),
            Measure("bulk from clients", "s/GB", per("upload", "user", "system", of="bytes", scale=1e9), "cpu"),
            Measure("move with a request", "us", per("moves", "user", "system"), "cpu"),
            Measure("a second of idleness", "us", per("idle", "user", "system"), ""),
            Measure(
                "memory, with the kernel's",
                "KiB",
                per("memory", "resident", "kernel", scale=1 / 1024, least=SOME),
                "memory",
            ),
        ),
        connections,
    ),
    Study(
        "streams",
        "Streams of a connection",
        "streams open at once",
        (1, 10, 100, 1000, 10_000),
        100,
        ("server", "client"),
        (
            Measure("the life of one, with a request", "us", per("lives", "user", "system"), "cpu"),
            Measure("a request, one at a time", "us", per("alone", "user", "system"), "cpu"),
            Measure("a request, on all at once", "us", per("together", "user", "system"), "cpu"),
            Measure("10 kB, on all at once", "us", per("bodies", "user", "system"), "cpu"),
            Measure("a request that waits for its stream", "us", per("queued", "user", "system"), "cpu"),
            Measure("memory", "KiB", per("memory", "memory", scale=1 / 1024, least=SOME), "memory"),
            Measure("a place for one, unused", "KiB", per("places", "memory", scale=1 / 1024, least=SOME), "memory"),
        ),
        streams,
        ("both ends",),
    ),
    Study(
        "flight",
        "Bytes in flight",
        "ms of round trip at 1 Gbit/s",
        (2, 10, 20, 50, 100, 200),
        10,
        tuple(WAYS.values()),
        (
            Measure("the core, both ends", "s/GB", whole("core", 1e9), "cpu"),
            Measure("our Python, both ends", "s/GB", whole("library", 1e9), "cpu"),
            Measure("share of the path that was used", "", filled, "filled"),
        ),
        flight,
    ),
)


def told(samples: list[Sample]) -> Iterable[str]:
    """Return, for each study, what one costs, and how much more than at the reference."""
    for study in STUDIES:
        own = [sample for sample in samples if sample["what"] == study.name]
        if not own:
            continue
        numbers = sorted({sample["number"] for sample in own})
        rows = []
        for measure, way in itertools.product(study.measures, study.ways):
            found, multiples = study.values(own, way, measure), study.multiples(own, way, measure)
            cells = [spread(found[number]) if found.get(number) else "" for number in numbers]
            last = max((number for number in multiples if multiples[number]), default=0)
            growth = spread(multiples[last]) if last > study.reference else ""
            rows.append([measure.title, measure.unit, way, *cells, growth])
        yield f"### {study.title}\n"
        growth = f"the most ÷ {study.reference}"
        yield harness.table([f"each, by {study.of}", "", "", *map(str, numbers), growth], rows) + "\n"
        yield from failures(own)
    rounds = max(sample["round"] for sample in samples)
    yield f"Median (least–most) of {rounds} rounds. {harness.described_machine(samples)}."


def failures(samples: list[Sample]) -> Iterable[str]:
    """Return what did not come whole."""
    for sample in samples:
        came = sample.get("flight", {"failure": ""})
        if came["failure"]:
            received = f"{came['received'] / 1e6:.0f} MB"
            yield f"Failed: {sample['way']}, {sample['number']} ms, after {received}: {came['failure']}\n"


def steep(samples: list[Sample]) -> Iterable[str]:
    """Name what costs more the more there is."""
    yield from failures(samples)
    for study in STUDIES:
        for measure, way in itertools.product(study.measures, study.ways):
            for number, multiples in study.multiples(samples, way, measure).items():
                if measure.unit and number > study.reference and multiples:
                    middle = statistics.median(multiples)
                    if middle > BAR:
                        text = f"{measure.title}, {way}: {significant(middle)} times at {number}"
                        print(f"growth: {text}", file=sys.stderr)
                        yield text


# What is drawn --------------------------------------------------------------------------------------------------------


def draw(samples: list[Sample], path: Path) -> None:
    """Draw the cost of each against how many there are."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(STYLE | {"svg.hashsalt": "growth"}):
        figure, axes = plt.subplots(len(STUDIES), 2, figsize=(10, 3.6 * len(STUDIES)), layout="constrained")
        for study, (left, right) in zip(STUDIES, axes, strict=True):
            groups = list(dict.fromkeys(measure.group for measure in study.measures if measure.group))
            for axis, group in zip((left, right), groups, strict=True):
                panel(axis, study, group, samples)
        report.save(figure, path)


def panel(axes: Axes, study: Study, group: str, samples: list[Sample]) -> None:
    """Draw one study's costs of one kind."""
    styles = dict(zip(study.ways, ("-", "--", ":", "-."), strict=False))
    measures = [measure for measure in study.measures if measure.group == group]
    is_cost = all(measure.unit for measure in measures)
    for (index, measure), way in itertools.product(enumerate(measures), study.ways):
        found = (study.multiples if is_cost else study.values)(samples, way, measure)
        if any(found.values()):
            report.curve(axes, f"{measure.title} ({way})", found, color=f"C{index}", linestyle=styles[way])
    titles = {"cpu": "processor time", "memory": "memory", "filled": "share of the path used, once under way"}
    axes.set(title=f"{study.title}: {titles[group]}", xlabel=study.of, xscale="log")
    if is_cost:
        # Cost that grows with the square of the number would be parallel to this line.
        most = max(study.numbers)
        axes.plot([study.reference, most], [1, most / study.reference], color=FAINT, linewidth=0.8, linestyle="--")
        axes.axhline(1, color=FAINT, linewidth=0.8)
        axes.set(ylabel=f"of each, ÷ that at {study.reference}", yscale="log", ylim=(0.25, 16))
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=1 + is_cost)


if __name__ == "__main__":
    sys.exit(main())
