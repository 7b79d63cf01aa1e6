"""How should a server hold its sockets? One wildcard socket and our table, or a connected socket for each client.

Run: python benches/dispatch.py [--rounds 3] [--connections 10 100 ...] [--json FILE] [--picture docs/dispatch]. For
each number of connections, both ways take turns within each round (A B A B ...): a server of ours in a process of its
own, a crowd of clients in another, on the loopback. `--from FILE` tells, and draws, what an earlier run has written.
Figures are the server's own processor time, its memory, and the kernel's; what counts are the ratios within a run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import report
from harness import Failed, Figures, Machine, Process, Server, significant, spread
from programs._files import Files

SERVER = "whimbrel asyncio"
WAYS = ("wildcard", "connected")
COUNTS = (10, 100, 1000, 5000, 10_000)
KERNEL_WAYS = ("wildcard", "reuseaddr", "reuseport")
KERNEL_LINES = {
    "known_us": ("packets", "sockets alone, a client's packet"),
    "stranger_us": ("set-up", "sockets alone, a newcomer's packet"),
}
"""What of it is drawn, where: to SO_REUSEPORT, which our connected sockets are made with."""
KERNEL_MEASURES = {
    "open_us": "open one more",
    "close_us": "close one",
    "known_us": "send to one that is known",
    "stranger_us": "send as a newcomer",
}
SPARE = 200
"""Descriptors of a server beside those of its connections."""
WIDTH = 64
"""Requests under way at once."""
HANDSHAKES = 16
MOVES = 16
"""How many handshakes, and moves, at once."""
STREAMS = 8
"""Bulk transfers at once, each on another connection."""
CACHES = ("UDP", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq")
"""What the kernel keeps for a socket that is watched, by the names of its caches."""

Sample = dict[str, Any]


Value = Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a run of ours."""

    title: str
    unit: str
    value: Value
    group: str
    """The panel of the picture."""


def per(part: str, *names: str, of: str = "count", scale: float = 1e6, least: float = 0.0) -> Value:
    """Return a function that adds up figures of one part of a run, and divides them; None where they are below `least`.

    The kernel divides processor time into user and system by looking now and then: so a part of it needs some.
    """

    def value(sample: Mapping[str, Any]) -> float | None:
        figures = sample.get(part)
        if figures is None:
            return None
        total: float = sum(figures[name] for name in names)
        return total / figures[of] * scale if total >= least else None

    return value


SOME = 0.1
"""Seconds."""
SOME_BYTES = 1e5
MEASURES = (
    Measure("small request, server CPU", "us", per("requests", "user", "system"), "packets"),
    Measure("of it in the kernel", "us", per("requests", "system", least=SOME), ""),
    Measure("a datagram of it", "us", per("requests", "user", "system", of="datagrams"), ""),
    Measure("the clients' kernel, which looks up", "us", per("requests", "client_system", least=SOME), ""),
    Measure("small request, median time", "us", per("requests", "p50_us", of="one", scale=1.0), ""),
    Measure("bulk to clients, server CPU", "s/GB", per("download", "user", "system", of="bytes", scale=1e9), "packets"),
    Measure("bulk from clients, server CPU", "s/GB", per("upload", "user", "system", of="bytes", scale=1e9), "packets"),
    Measure("set-up with handshake, server CPU", "us", per("setup", "user", "system"), "set-up"),
    Measure("of it in the kernel", "us", per("setup", "system", least=SOME), ""),
    Measure("the clients' kernel, which looks up", "us", per("setup", "client_system", least=SOME), ""),
    Measure("set-up, time for each", "us", per("setup", "seconds"), "set-up"),
    Measure("memory of the process", "KiB", per("memory", "resident", scale=1 / 1024), "memory"),
    Measure("memory, with the kernel's", "KiB", per("memory", "resident", "kernel", scale=1 / 1024), "memory"),
    Measure("of it in the kernel", "KiB", per("memory", "kernel", scale=1 / 1024, least=SOME_BYTES), ""),
    Measure("move with a request, server CPU", "us", per("moves", "user", "system"), "moves"),
    Measure("move with a request, median time", "us", per("moves", "p50_us", of="one", scale=1.0), "moves"),
    Measure("move with a request, 99 in 100", "us", per("moves", "p99_us", of="one", scale=1.0), "moves"),
)


def main() -> int:
    args = arguments()
    try:
        samples = [json.loads(line) for line in args.source.open()] if args.source else list(run(args))
        print("\n".join(told(samples)))
        if args.picture is not None:
            draw(samples, args.picture)
        if args.document is not None:
            harness.fill_in(args.document, __file__, "\n".join(told(samples)))
    except KeyboardInterrupt:
        print("dispatch: interrupted", file=sys.stderr)
    except (OSError, ValueError, Failed) as error:
        print(f"dispatch: {error}", file=sys.stderr)
    else:
        return 0
    return 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare a wildcard socket with a connected socket for each client.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--connections", type=int, nargs="+", default=COUNTS, metavar="N", help="default: 10 to 10000")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="default: both")
    parser.add_argument("--requests", type=int, default=20_000, metavar="N", help="in all (default: 20000)")
    parser.add_argument("--size", type=int, default=256, metavar="MB", help="of bulk, each way (default: 256)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append every run as a line of JSON")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="tell what is there; run nothing")
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw PATH.svg and PATH.png")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put the tables between its marks")
    args = parser.parse_args()
    if min(args.rounds, args.requests, args.size, *args.connections) < 1:
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
        for number, count in itertools.product(range(args.rounds), args.connections):
            turns = [("server", way, one) for way in args.ways] + [("kernel", way, kernel) for way in KERNEL_WAYS]
            for what, way, measure in turns:
                if not fits(way, count):
                    print(f"{way} with {count} is left out: there are not as many descriptors", file=sys.stderr)
                    continue
                machine = Machine()
                figures = measure(args, files, way, count) | machine.load()
                yield note(args, figures, what, way, count, number)


def fits(way: str, count: int) -> bool:
    """Whether there are descriptors for so many."""
    # A server leaves an eighth of its descriptors alone; then it goes on by its wildcard socket.
    return way == "wildcard" or count + SPARE <= harness.descriptor_limit() * 7 // 8


def note(args: argparse.Namespace, figures: Sample, what: str, way: str, count: int, number: int) -> Sample:
    """Tell one run, and keep it."""
    sample = figures | {"what": what, "way": way, "connections": count, "round": number + 1}
    sample["versions"] = harness.versions()
    if what == "server":
        shown = [(measure, measure.value(sample)) for measure in MEASURES if measure.group]
        told = ", ".join(f"{each.title} {significant(value)} {each.unit}" for each, value in shown if value is not None)
        print(f"{number + 1:3} {way} {count}: {told}; {sample['others']:.0%} by others", file=sys.stderr, flush=True)
    if args.json is not None:
        with args.json.open("a") as file:
            file.write(json.dumps(sample) + "\n")
    return sample


# What is measured -----------------------------------------------------------------------------------------------------


def one(args: argparse.Namespace, files: Files, way: str, count: int) -> Sample:
    """Measure one server with so many clients: the set-up, requests, bulk, moves."""
    with running(files, way, count) as (server, crowd):
        return measured(args, server, crowd, way, count)


@contextlib.contextmanager
def running(files: Files, way: str, count: int) -> Iterator[tuple[Server, Process]]:
    """Run a server for so many clients, and who makes them."""
    options: dict[str, Any] = {"sockets": way, "idle_timeout": harness.IDLE_TIMEOUT, "max_connections": count + SPARE}
    with harness.server(SERVER, files, **options) as server, harness.crowd(files, server.port) as crowd:
        yield server, crowd


def measured(args: argparse.Namespace, server: Server, crowd: Process, way: str, count: int) -> Sample:
    """Let so many clients come, and work."""
    first = min(5, count // 2)
    size = args.size * 1_000_000 // STREAMS
    meter = Meter(server, crowd)
    # So that what a server does once in its life is not counted.
    crowd.ask(f"connect {first} {first}")
    server.wait_for(first)
    before = server.settle()
    caches, descriptors = kernel_memory(), server.descriptors()
    setup = meter.measure(f"connect {count - first} {HANDSHAKES}")
    after = server.wait_for(count)
    memory = {
        "count": count - first,
        "resident": after["memory"] - before["memory"],
        "kernel": kernel_memory() - caches,
        "descriptors": server.descriptors() - descriptors,
    }
    if way == "connected" and memory["descriptors"] < count - first:
        raise Failed(f"{count - first} clients have {memory['descriptors']:.0f} sockets")
    requests = meter.measure(f"exchange {args.requests} {WIDTH} 1 1")
    download = meter.measure(f"exchange {STREAMS} {STREAMS} 0 {size}") | {"bytes": size * STREAMS}
    upload = meter.measure(f"exchange {STREAMS} {STREAMS} {size} 1") | {"bytes": size * STREAMS}
    moves = meter.measure(f"move {min(count, 1000)} {MOVES}")
    return {
        "setup": setup,
        "memory": memory,
        "requests": requests,
        "download": download,
        "upload": upload,
        "moves": moves,
    }


class Meter:
    """What an order to the crowd costs the server."""

    def __init__(self, server: Server, crowd: Process) -> None:
        self._server, self._crowd = server, crowd

    def measure(self, order: str) -> Figures:
        """Carry it out, and wait for all that comes of it."""
        before, clients = self._server.settle(), harness.processor_times(self._crowd.pid)
        figures = self._crowd.ask(order)
        after = self._server.settle()
        kernel = harness.processor_times(self._crowd.pid)["system"] - clients["system"]
        used = {name: after[name] - before[name] for name in ("user", "system")}
        datagrams = figures["datagrams_sent"] + figures["datagrams_received"]
        return figures | used | {"client_system": kernel, "datagrams": datagrams, "one": 1.0}


def kernel(_args: argparse.Namespace, _files: Files, way: str, count: int) -> Sample:
    """Measure sockets alone: see programs/kernel.py."""
    argv = [sys.executable, "-m", "programs.kernel", way, str(count)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, env=harness.environment(), check=False)
    if done.returncode:
        raise Failed("the sockets alone failed: see above")
    figures: Sample = json.loads(done.stdout)
    return figures


def kernel_memory() -> float:
    """Bytes in the kernel's caches for sockets and what belongs to them; nan where only root may look."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except OSError:
        return float("nan")
    words = [line.split() for line in lines]
    return sum(float(each[1]) * float(each[3]) for each in words if each[0] in CACHES)


# What is told ---------------------------------------------------------------------------------------------------------


def told(samples: list[Sample]) -> Iterable[str]:
    """Return, for each measure, both ways and their ratio by the number of connections."""
    counts = sorted({sample["connections"] for sample in samples})
    rows, ratios = [], []
    for measure in MEASURES:
        for way in WAYS:
            found = by_count(samples, way, measure)
            cells = [spread(found[count]) if found.get(count) else "" for count in counts]
            rows.append([measure.title if way == WAYS[0] else "", measure.unit, way, *cells])
        quotients = ratios_by_count(samples, measure)
        ratios.append([measure.title, *[spread(quotients[count]) if quotients.get(count) else "" for count in counts]])
    heads = [str(count) for count in counts]
    yield "### Wildcard ÷ connected, round by round, by the number of connections\n"
    yield harness.table(["below 1 the wildcard socket takes less", *heads], ratios) + "\n"
    yield "### Sockets alone, microseconds\n"
    yield kernel_table(samples, counts, heads) + "\n"
    yield "### Figures\n"
    yield harness.table(["for each connection, request or move", "", "", *heads], rows) + "\n"
    rounds = max(sample["round"] for sample in samples)
    yield f"Median (least–most) of {rounds} rounds. {harness.described_machine(samples)}."


def kernel_table(samples: list[Sample], counts: list[int], titles: list[str]) -> str:
    """Sockets without QUIC."""
    rows = []
    alone = [sample for sample in samples if sample["what"] == "kernel"]
    for name, title in KERNEL_MEASURES.items():
        for way in KERNEL_WAYS:
            chosen = [sample for sample in alone if sample["way"] == way and name in sample]
            cells = [[sample[name] for sample in chosen if sample["connections"] == count] for count in counts]
            if chosen:
                rows.append([title, way, *[spread(cell) if cell else "" for cell in cells]])
    return harness.table(["", "", *titles], rows)


def by_count(samples: list[Sample], way: str, measure: Measure) -> dict[int, list[float]]:
    """Return a measure's values."""
    found: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        value = measure.value(sample) if sample["what"] == "server" and sample["way"] == way else None
        if value is not None:
            found[sample["connections"]].append(value)
    return found


def ratios_by_count(samples: list[Sample], measure: Measure) -> dict[int, list[float]]:
    """Return wildcard ÷ connected, round by round."""
    wildcard, connected = (by_count(samples, way, measure) for way in WAYS)
    return {
        count: [one / other for one, other in zip(values, connected[count], strict=False) if other]
        for count, values in wildcard.items()
    }


def kernel_ratios(samples: list[Sample], name: str) -> dict[int, list[float]]:
    """Return wildcard ÷ connected of sockets alone, round by round."""
    found: dict[str, dict[int, list[float]]] = {way: defaultdict(list) for way in KERNEL_WAYS}
    for sample in samples:
        if sample["what"] == "kernel":
            found[sample["way"]][sample["connections"]].append(sample[name])
    wildcard, connected = found["wildcard"], found["reuseport"]
    return {
        count: [one / other for one, other in zip(values, connected[count], strict=False)]
        for count, values in wildcard.items()
    }


def draw(samples: list[Sample], path: Path) -> None:
    """Draw the ratios against the number of connections."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    groups = list(dict.fromkeys(measure.group for measure in MEASURES if measure.group))
    titles = {
        "packets": "Packets: processor time",
        "set-up": "Set-up",
        "memory": "Memory of an idle connection",
        "moves": "Clients that move",
    }
    plt.rcParams["svg.hashsalt"] = "dispatch"  # So that the same figures make the same file.
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
    for axis, group in zip(axes.flat, groups, strict=True):
        lines = {each.title: ratios_by_count(samples, each) for each in MEASURES if each.group == group}
        lines |= {
            title: kernel_ratios(samples, name) for name, (where, title) in KERNEL_LINES.items() if where == group
        }
        for title, ratios in lines.items():
            report.curve(axis, title, ratios)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(title=titles[group], xscale="log", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.supxlabel("connections")
    figure.supylabel("wildcard ÷ connected: below 1 the wildcard socket takes less")
    report.save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
