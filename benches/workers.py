"""What do several worker processes carry, beside one?

Run: python benches/workers.py [--rounds 5] [--workers 1 2] [--json FILE]. Each round takes the numbers of workers in
turns, each in a server of its own, with a crowd of clients in one process (in Rust, which costs less than a server in
Python), all on the loopback. Clients and workers share the machine's processors, so that two things are told:

- carried: what was done for each processor second of the busiest worker. A server whose clients have machines of their
  own is at its limit when its busiest worker is.
- here: what was done for each second on the clock, clients included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import harness
from harness import Failed, Machine, Process, running, spread
from programs._files import Files

CONNECTIONS = 256
"""Chance deals them out, so that of two workers the busier one has some 136: with fewer, more than its share."""
WIDTH = 64
"""Requests under way at once."""
BULKS = 32
"""Transfers at once; the next one begins when one has ended, each on another connection."""
UNITS = {"requests": "requests/s", "bulk": "MB/s", "handshakes": "handshakes/s"}

Sample = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare numbers of worker processes.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--requests", type=int, default=20_000, metavar="N", help="default: 20000")
    parser.add_argument("--size", type=int, default=256, metavar="MB", help="of bulk to clients (default: 256)")
    parser.add_argument("--handshakes", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append every run as a line of JSON")
    args = parser.parse_args()
    if min(args.rounds, args.requests, args.size, args.handshakes, *args.workers) < 1:
        parser.error("numbers are 1 or more")
    try:
        print("\n".join(told(list(run(args)), args.workers)))
    except KeyboardInterrupt:
        print("workers: interrupted", file=sys.stderr)
    except (OSError, ValueError, Failed) as error:
        print(f"workers: {error}", file=sys.stderr)
    else:
        return 0
    return 2


def run(args: argparse.Namespace) -> Iterable[Sample]:
    """Measure all, in turns."""
    reason = harness.build_native()
    if reason is not None:
        raise Failed(f"the clients cannot be built: {reason}")
    with tempfile.TemporaryDirectory(prefix="whimbrel-bench-") as folder:
        files = Files(Path(folder))
        files.make()
        for number in range(args.rounds):
            for count in args.workers:
                machine = Machine()
                sample = one(args, files, count) | machine.load() | {"workers": count, "round": number + 1}
                sample["versions"] = harness.versions()
                if args.json is not None:
                    with args.json.open("a") as file:
                        file.write(json.dumps(sample) + "\n")
                shown = [f"{name} {sample[name]['here']:.0f} {unit}" for name, unit in UNITS.items()]
                print(f"{number + 1:3} {count}: {', '.join(shown)}; {sample['others']:.0%} by others", file=sys.stderr)
                yield sample


def one(args: argparse.Namespace, files: Files, count: int) -> Sample:
    """Measure one server."""
    argv = [sys.executable, "-m", "programs._workers", str(files.folder), str(count)]
    with running("the server", argv) as server:
        facts: dict[str, Any] = server.hear()
        workers: list[int] = facts["workers"]
        with harness.crowd(files, facts["port"]) as crowd:
            crowd.ask(f"connect {CONNECTIONS} 16")
            # So that what a server does once in its life is not counted.
            crowd.ask(f"exchange {4 * CONNECTIONS} {WIDTH} 1 1")
            size = args.size * 1_000_000 // CONNECTIONS
            return {
                "requests": measured(workers, crowd, f"exchange {args.requests} {WIDTH} 1 1", args.requests),
                "bulk": measured(workers, crowd, f"exchange {CONNECTIONS} {BULKS} 0 {size}", args.size),
                "handshakes": measured(workers, crowd, f"connect {args.handshakes} 16", args.handshakes),
            }


def measured(workers: list[int], crowd: Process, order: str, amount: int) -> Sample:
    """Carry an order out, and look at what each worker has used for it."""
    before = [used(worker) for worker in workers]
    began = time.perf_counter()
    crowd.ask(order)
    seconds = time.perf_counter() - began
    cpu = [used(worker) - earlier for worker, earlier in zip(workers, before, strict=True)]
    return {"here": amount / seconds, "carried": amount / max(cpu), "cpu": cpu, "seconds": seconds}


def used(worker: int) -> float:
    """Processor seconds, in user mode and in the kernel."""
    return sum(harness.processor_times(worker).values())


def told(samples: list[Sample], counts: list[int]) -> Iterable[str]:
    """Return, for each kind of work, what each number of workers does, and the ratio to the first, round by round."""
    rows = []
    for name, unit in UNITS.items():
        for way in ("carried", "here"):
            by_count = {count: [each[name][way] for each in samples if each["workers"] == count] for count in counts}
            ratios = [
                spread([value / first for value, first in zip(by_count[count], by_count[counts[0]], strict=True)])
                for count in counts[1:]
            ]
            shown = f"{unit} of the busiest worker's time" if way == "carried" else f"{unit}, clients beside"
            rows.append([name, shown, *[spread(by_count[count]) for count in counts], *ratios])
    heads = [f"{count} worker{'s' * (count > 1)}" for count in counts]
    yield harness.table(["", "", *heads, *[f"{head} ÷ {heads[0]}" for head in heads[1:]]], rows) + "\n"
    yield f"Median (least–most) of {len(samples) // len(counts)} rounds. {harness.described_machine(samples)}."


if __name__ == "__main__":
    sys.exit(main())
