"""The headline figure: milliseconds without data when the network goes away, over many runs of each scenario.

Run: python benches/handover_gap.py [--runs 20] [--scenario hard-cut ...] [--json runs.jsonl]; root or user namespaces
are needed. Each run is a ``whimbrel demo`` without its picture and its client over TCP: a laboratory of its own, a
server and a transfer of some seconds. Scenarios take turns, so that what else the machine does falls on all alike; so
do dispatches and directions, of which ``--server whimbrel`` may be given several.
A gap over its bar is a stray; each is told with its beginning, since one that begins long after the move is another
one's: a packet that was lost on the new network. Exit status 1: a bar was missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whimbrel.testing import CELLULAR, WIFI

DEFAULT_SCENARIOS = ("overlap", "hard-cut", "black-hole", "portal", "outage", "outage-same")
OTHER_SCENARIOS = ("demo", "nat-rebind", "flapping", "calm")
STALLS_BY_DESIGN = ("black-hole", "portal")
"""Unconnected sockets cannot survive these: the kernel goes on preferring a network that carries nothing."""
HAPPENS = {"join": "appears", "down": "is cut", "silence": "falls silent", "rebind": "rebinds", "none": "stays"}
RTT = {"wlan0": WIFI.rtt, "wwan0": CELLULAR.rtt}
OTHER = {"wlan0": "wwan0", "wwan0": "wlan0"}
PATIENCE = 300.0
_LOOK = 0.25
"""Seconds for which the machine is watched before each run."""
_USAGE = 2


@dataclass(frozen=True, slots=True)
class Bar:
    """What runs are held to: milliseconds."""

    usual: float = math.inf
    """At least half of the runs stay within."""
    strays: int | None = None
    """How many runs may take longer; None: the other half."""
    worst: float = math.inf
    """No run takes longer."""

    def misses(self, values: list[float]) -> Iterator[str]:
        """Say what is wrong."""
        if percentile(values, 50) > self.usual:
            yield f"p50 over {self.usual:.0f} ms"
        beyond = sum(value > self.usual for value in values)
        if self.strays is not None and beyond > self.strays:
            yield f"{beyond} of {len(values)} over {self.usual:.0f} ms"
        if max(values) > self.worst:
            yield f"worst over {self.worst:.0f} ms"


@dataclass(frozen=True, slots=True)
class Figure:
    """How long something took."""

    value: float
    """Milliseconds."""
    begins: dict[str, float | None] | None = None
    """When a gap began, as seen from the change and from the move: milliseconds."""
    run: int = 0


Variant = tuple[str | None, str]
"""Dispatch of our own server, and direction."""


@dataclass(frozen=True, slots=True)
class Load:
    """What else the machine did."""

    average: float
    """The kernel's load average over one minute."""
    before: float
    """Part of all processors that was busy just before the run, 0 to 1."""
    others: float
    """The same for the run itself, less what it used."""


def main() -> int:
    args = arguments()
    done: list[dict[str, Any]] = []
    wanted = args.scenario or list(DEFAULT_SCENARIOS)
    variants = list(itertools.product(dispatches(args), args.direction or ["down"]))
    kinds = "; ".join(" ".join(filter(None, variant)) for variant in variants)
    print(
        f"{args.runs} runs each, one at a time: {', '.join(wanted)}; {args.size:g} MB, {args.server}; {kinds}",
        flush=True,
    )
    try:
        for number in range(args.runs):
            for scenario, variant in itertools.product(wanted, variants):
                run = once(scenario, variant, args) | {"number": number + 1}
                done.append(run)
                print(line(run), file=sys.stderr, flush=True)
                if args.json is not None:
                    with Path(args.json).open("a") as file:
                        file.write(json.dumps(run) + "\n")
    except KeyboardInterrupt:
        print("interrupted; so far:")
    except (OSError, RuntimeError) as error:
        print(f"handover_gap: {error}", file=sys.stderr)
        return _USAGE
    return tell(done) if done else _USAGE


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure handover gaps over many runs of the demo's scenarios.")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each scenario (default: 20)")
    parser.add_argument(
        "--scenario", action="append", choices=DEFAULT_SCENARIOS + OTHER_SCENARIOS, metavar="NAME",
        help=f"may be repeated (default: {', '.join(DEFAULT_SCENARIOS)}; also: {', '.join(OTHER_SCENARIOS)})",
    )  # fmt: skip
    parser.add_argument("--sockets", choices=("pinned", "unconnected", "connected"), default="pinned")
    parser.add_argument("--auto", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--keepalive", type=float, metavar="S", help="seconds of silence before a PING")
    parser.add_argument("--server", choices=("caddy", "gtlsserver", "whimbrel"), default="caddy")
    parser.add_argument(
        "--dispatch", action="append", choices=("wildcard", "connected"),
        help="of whimbrel's own server; may be repeated (default: wildcard)",
    )  # fmt: skip
    parser.add_argument(
        "--direction", action="append", choices=("down", "up", "both"), help="may be repeated (default: down)"
    )
    parser.add_argument("--size", type=float, default=60, metavar="MB", help="of the file (default: 60, as the demo)")
    parser.add_argument("--loss", type=float, metavar="PERCENT", help="on both radios (default: the demo's)")
    parser.add_argument("--json", metavar="FILE", help="append each run's results as a line of JSON")
    return parser.parse_args()


def dispatches(args: argparse.Namespace) -> list[str | None]:
    """Return what was asked for of our own server; of the others nothing can be."""
    wanted: list[str | None] = list(args.dispatch or ())
    return wanted or (["wildcard"] if args.server == "whimbrel" else [None])


def once(scenario: str, variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    """Run the demo once; return its report, with the machine's load beside it.

    Raises:
        RuntimeError: there was no report. The message has what the demo said.
    """
    average, before = os.getloadavg()[0], busy_share(_LOOK)
    (busy, total), own = processor_time(), children_time()
    with tempfile.TemporaryDirectory(prefix="whimbrel-bench-") as folder:
        result = Path(folder) / "report.json"
        argv = [sys.executable, "-P", "-m", "whimbrel", "demo", "--scenario", scenario, "--sockets", args.sockets]
        argv += ["--auto" if args.auto else "--no-auto", "--server", args.server, "--size", str(args.size)]
        argv += ["--no-other-client", "--no-picture", "--json", str(result), "--direction", variant[1]]
        argv += [] if variant[0] is None else ["--dispatch", variant[0]]
        argv += [] if args.keepalive is None else ["--keepalive", str(args.keepalive)]
        argv += [] if args.loss is None else ["--loss", str(args.loss)]
        said = demo(argv)
        if not result.exists():
            raise RuntimeError(f"the demo made no report of {scenario}: {said}")
        report: dict[str, Any] = json.loads(result.read_text())
    (busy_after, total_after), own_after = processor_time(), children_time()
    others = max(0.0, (busy_after - busy - (own_after - own)) / max(total_after - total, 1e-9))
    load = Load(average, before, others)
    return {"finished": round(time.time(), 1), "load": {name: round(getattr(load, name), 2) for name in load.__slots__},
            "report": report}  # fmt: skip


def demo(argv: list[str]) -> str:
    """Run it to its end, whatever that is; return its last words."""
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.communicate(timeout=PATIENCE)[1]
        except BaseException as error:
            process.terminate()  # It takes its laboratory down.
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                return f"not done after {PATIENCE:.0f} s"
            raise
    return said.strip().splitlines()[-1] if said.strip() else "it said nothing"


def tell(done: list[dict[str, Any]]) -> int:
    """Print the table and the verdict; return the exit status."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in done:
        report = run["report"] | {"number": run["number"]}
        how = report["sockets"] + ("" if report["auto"] else ", not auto")
        server = report["server"] + (f", {report['dispatch']}" if report["dispatch"] else "")
        groups[report["scenario"], how, f"{server}, {report['direction']}"].append(report)
    head = ("scenario", "sockets", "server", "runs", "equal", "what happened", "p50", "p99", "max", "beyond", "bar",
            "linkable to server / client", "probes")  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    verdicts: list[str] = []
    missed = False
    strays: list[str] = []
    for title, reports in groups.items():
        table, misses, beyond = summary(reports)
        rows += [(*(title if not index else ("", "", "")), *row) for index, row in enumerate(table)]
        strays += [f"{title[0]} {title[2]}: {stray}" for stray in beyond]
        excuse = excused(reports[0])
        missed |= bool(misses) and excuse is None
        verdict = "met" if not misses else f"{'by design' if excuse else 'MISSED'}: {'; '.join(misses)}"
        verdicts.append(f"{', '.join(title)}: {verdict}" + (f" ({excuse})" if misses and excuse else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    print("milliseconds; gaps less the stream's usual one, resumptions whole")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\n".join([*strays, loads([run["load"] for run in done]), *verdicts]))
    return int(missed)


def summary(reports: list[dict[str, Any]]) -> tuple[list[tuple[str, ...]], list[str], list[str]]:
    """Return the cells of one group, a row for each kind of event; what is wrong; and what the strays were."""
    equal = sum(report["sha256_equal"] for report in reports)
    linkable = {
        way: sum(bool(report["linkable_connection_ids"][way]) for report in reports)
        for way in ("to_server", "to_client")
    }
    probes = [sum(network["probes"] for network in report["networks"].values()) for report in reports]
    misses = [] if equal == len(reports) else [f"{len(reports) - equal} transfers failed"]
    misses += [f"linkable {way} in {linkable[way]} runs" for way in ours_to_keep_apart(reports[0]) if linkable[way]]
    common = (str(len(reports)), f"{equal}/{len(reports)}")
    tail = (" / ".join(map(str, linkable.values())) + " runs", f"{percentile(probes, 50):.0f}, at most {max(probes)}")
    rows: list[tuple[str, ...]] = []
    strays: list[str] = []
    for (what, bar), figures in measured(reports).items():
        values = [figure.value for figure in figures]
        misses += [f"{what}: {miss}" for miss in bar.misses(values)]
        usual = bar.usual if math.isfinite(bar.usual) else bar.worst
        beyond = [figure for figure in figures if figure.value > usual]
        strays += [f"{what}: {stray(figure)}" for figure in beyond]
        limits = (str(len(beyond)), number(usual)) if math.isfinite(usual) else ("", "none")
        cells = [number(figure) for figure in (percentile(values, 50), percentile(values, 99), max(values))]
        lead, end = (common, tail) if not rows else (("", ""), ("", ""))
        rows.append((*lead, what, *cells, *limits, *end))
    return rows or [(*common, *[""] * 6, *tail)], misses, strays


def stray(figure: Figure) -> str:
    """Tell of a gap over its bar: when it began says whose it is."""
    told = f"run {figure.run}, {number(figure.value)} ms"
    if figure.begins is None:
        return told
    change, move = figure.begins["after_change"], figure.begins["after_move"]
    told += f", from {change:+.0f} ms of the change"
    return told if move is None else f"{told}, {move:+.0f} ms of the move"


def ours_to_keep_apart(report: dict[str, Any]) -> list[str]:
    """Return the directions in which an ID on both networks is our fault: to the client, it is the server's choice."""
    if report["sockets"] != "pinned":
        return []
    return ["to_server", "to_client"] if report["server"] == "whimbrel" else ["to_server"]


def measured(reports: Iterable[dict[str, Any]]) -> dict[tuple[str, Bar], list[Figure]]:
    """Return what took how long, by kind of event and direction, and the bar that it has."""
    found: dict[tuple[str, Bar], list[Figure]] = defaultdict(list)
    for report in reports:
        for event in report["events"]:
            for direction, figures in event["directions"].items():
                named = kind(report, event, figures, direction)
                if named is None:
                    continue
                what, bar, value = named
                if report["direction"] == "both":
                    what += f", {direction}"
                found[what, bar].append(Figure(finite(value), figures["gap_begins_ms"], report["number"]))
    return found


def kind(
    report: dict[str, Any], event: dict[str, Any], figures: dict[str, Any], direction: str
) -> tuple[str, Bar, float | None] | None:
    """Return what an event is called, its bar and what it took; None: it is not measured."""
    scenario, interface, action = report["scenario"], event["interface"], event["action"]
    if scenario.startswith("outage"):
        if figures["resumption_ms"] is None and action != "join":
            return None
        # Back on the same network nothing need have been lost, or all may: shown only.
        bar = Bar(worst=2000 * RTT[interface] + 100) if scenario == "outage" else Bar()
        return f"{interface} is back: resumed", bar, figures["resumption_ms"]
    what = HAPPENS.get(action)
    if what is None:
        return None
    bar = gap_bar(scenario, interface, action, direction) if report["sockets"] == "pinned" else Bar()
    return f"{interface} {what}", bar, figures["gap_ms"]


def gap_bar(scenario: str, interface: str, action: str, direction: str) -> Bar:
    """Return what a gap may be, given what happened to which interface."""
    if scenario in ("demo", "overlap", "hard-cut"):
        if action == "down" and direction == "up":
            # The client must notice first what it has lost, and sends again what was under way.
            return Bar(usual=3000 * RTT[OTHER[interface]] + 150, strays=1, worst=1000)
        new = interface if action == "join" else OTHER[interface]
        return Bar(usual=2000 * RTT[new] + 30, strays=1, worst=1000)
    if scenario == "portal":
        # Nothing to see: a packet that is lost, one in a thousand, costs a round trip whatever appears.
        return Bar(usual=1000 * RTT[OTHER[interface]] + 30, worst=1000)
    if scenario == "black-hole":
        return Bar(worst=1000)
    return Bar()


def excused(report: dict[str, Any]) -> str | None:
    """Say why a failure is none, if it is."""
    if report["sockets"] != "unconnected":
        return None
    if report["scenario"] in STALLS_BY_DESIGN:
        return "the kernel prefers a network that carries nothing, and nobody else is asked"
    if not report["auto"] and report["scenario"] != "overlap" and report["direction"] == "down":
        return "a pure download sends nothing after a cut, so the server never learns, unless a keep-alive does"
    return None


def line(run: dict[str, Any]) -> str:
    """Tell one run in a line."""
    report, load = run["report"], run["load"]
    gaps = ", ".join(f"{event['interface']} {event['action']} {_cost(event)}" for event in report["events"])
    good = "equal" if report["sha256_equal"] else f"FAILED ({report['error']})"
    busy = f"load {load['average']:.1f}, busy {load['before']:.0%} before, {load['others']:.0%} by others"
    which = " ".join(filter(None, [report["scenario"], report["dispatch"], report["direction"]]))
    return f"{run['number']:3} {which:<11} {good}, {report['seconds']:.1f} s: {gaps} ms; {busy}"


def _cost(event: dict[str, Any]) -> str:
    return "/".join(
        number(finite(figures["gap_ms"]))
        if figures["resumption_ms"] is None
        else f"resumed {number(figures['resumption_ms'])}"
        for figures in event["directions"].values()
    )


def loads(all_of_them: list[dict[str, float]]) -> str:
    """Sum up what else the machine did: gaps under load are the load's as well."""
    middle = {name: percentile([load[name] for load in all_of_them], 50) for name in Load.__slots__}
    worst = {name: max(load[name] for load in all_of_them) for name in Load.__slots__}
    return (
        f"machine: {os.cpu_count()} processors; load average {middle['average']:.1f} (at most {worst['average']:.1f}); "
        f"busy before a run {middle['before']:.0%} (at most {worst['before']:.0%}), "
        f"by others during one {middle['others']:.0%} (at most {worst['others']:.0%})"
    )


def percentile(values: Iterable[float], percent: float) -> float:
    """Return it by nearest rank."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)]


def finite(milliseconds: float | None) -> float:
    """Undo what JSON does to infinity."""
    return math.inf if milliseconds is None else milliseconds


def number(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if math.isfinite(milliseconds) else "for good"


def busy_share(seconds: float) -> float:
    """Watch the machine for a while; return the part of its processors that was busy."""
    busy, total = processor_time()
    time.sleep(seconds)
    busy_after, total_after = processor_time()
    return (busy_after - busy) / max(total_after - total, 1e-9)


def processor_time() -> tuple[float, float]:
    """Return seconds that all processors together were busy, and that there were (proc_stat(5))."""
    user, nice, system, idle, waiting, *more = (
        int(field) / os.sysconf("SC_CLK_TCK") for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    busy = user + nice + system + sum(more)
    return busy, busy + idle + waiting


def children_time() -> float:
    """Return processor seconds of the children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
