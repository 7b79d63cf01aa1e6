"""Random journeys by the thousand, on all cores: ``make sim ARGS="--journeys 10000"``."""

# ruff: noqa: T201 - a program for a terminal

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.simulation.exploration import BATCH, Outcome, explore, most_growth, unpacked
from tests.simulation.journey import Journey
from tests.simulation.traveller import Traveller, travel

GROWTH = 96 << 10
"""KiB that a process may take more after its last batch than after its first."""


def main() -> int:
    """Go."""
    parser = argparse.ArgumentParser(prog="make sim")
    parser.add_argument("--journeys", type=int, default=1000, help=f"how many, in batches of {BATCH} (1000)")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first batch (0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at once (one for each core)")
    parser.add_argument("--seed", type=int, help="the batch of this seed only")
    parser.add_argument("--replay", metavar="JOURNEY", help="one journey, as a failure printed it")
    options = parser.parse_args()
    if min(options.journeys, options.processes) < 1:
        parser.error("--journeys and --processes are numbers from 1 on")
    if options.replay is not None:
        try:
            return replay(unpacked(options.replay))
        except ValueError as error:
            parser.error(str(error))
    seeds = range(options.first, options.first + -(-options.journeys // BATCH))
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    return run(seeds, options.processes)


def run(seeds: range, processes: int) -> int:
    """Go on the journeys of these seeds."""
    began = time.monotonic()
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(explore, number) for number in seeds]):
            outcome = future.result()
            outcomes.append(outcome)
            if outcome.failure:
                print(f"seed {outcome.seed}: {outcome.failure}", flush=True)
    failures = sum(bool(outcome.failure) for outcome in outcomes)
    gone, took = sum(outcome.journeys for outcome in outcomes), time.monotonic() - began
    growth = most_growth(outcomes) if not failures else 0  # Making a journey short takes memory of its own.
    print(
        f"{gone} journeys of the seeds {seeds.start} to {seeds.stop - 1} in {took:.1f} s; "
        f"{failures} seeds failed; a process grew by {growth >> 10} MiB"
    )
    if growth > GROWTH:
        print(f"that is more than {GROWTH >> 10} MiB: something is never forgotten")
    return int(failures > 0 or growth > GROWTH)


def replay(journey: Journey) -> int:
    """Go on one journey, and tell of it."""
    try:
        travel(journey, tell)
    except AssertionError as error:
        print(f"failed: {error}")
        return 1
    print("passed")
    return 0


def tell(traveller: Traveller) -> None:
    """What happened on a journey."""
    internet = traveller.internet
    for at, change in internet.changes:
        print(f"{at:10.3f} s  {change}")
    print(f"{internet.now:10.3f} s  lost: {internet.lost}, failure: {internet.failure!r}")
    for transfer in traveller.transfers:
        when, silence = transfer.completed_at, transfer.longest_silence
        print(f"  {transfer.received} bytes, complete at {when} s, silent for {silence:.3f} s")
    print(f"  {len(internet.datagrams)} datagrams, probes: {[round(at, 3) for at in internet.probes]}")


if __name__ == "__main__":
    sys.exit(main())
