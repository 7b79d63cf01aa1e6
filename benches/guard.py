"""Has it become slower? Ours beside a peer that stays as it is, against the ratios in `guard.json`; under a minute.

Run: python benches/guard.py [--record]. Ours and the peer take turns, so that what else the machine does falls on both,
and the median over the rounds is what counts. A ratio under 0.8 of the recorded one is measured once more, with twice
as many rounds, before it fails. Exit status 1: slower; 2: it could not be measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cells
import harness
from harness import Failed, Machine, significant
from measures import MEASURES, OURS
from programs._files import Files

RECORDED = Path(__file__).with_suffix(".json")
ALLOWED = 0.8
"""Of the recorded ratio."""
ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Guarded:
    """One thing that must not become slower; so much of it takes ours, and the peer, about half a second."""

    measure: str
    peer: str
    ours: int
    theirs: int

    @property
    def title(self) -> str:
        return f"{self.measure}, to {self.peer}"

    def ratio(self, files: Files) -> float:
        """Run both; return how many times better ours was."""
        values = [
            MEASURES[self.measure].value(cells.work(kind, files, self.measure, count, {}))
            for kind, count in ((OURS, self.ours), (self.peer, self.theirs))
        ]
        return values[0] / values[1] if MEASURES[self.measure].more_is_better else values[1] / values[0]


ALL = (
    Guarded("download", "TLS asyncio", 128_000_000, 128_000_000),
    Guarded("upload", "TLS asyncio", 128_000_000, 128_000_000),
    Guarded("ping", "aioquic", 1500, 500),
    Guarded("streams", "aioquic", 6000, 600),
    Guarded("handshakes", "aioquic", 100, 30),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare ours to peers, and to how it compared before.")
    parser.add_argument("--record", action="store_true", help=f"write what is measured to {RECORDED.name}")
    args = parser.parse_args()
    machine = Machine()
    try:
        with tempfile.TemporaryDirectory(prefix="whimbrel-guard-") as folder:
            files = Files(Path(folder))
            files.make()
            if args.record:
                record(measured(ALL, files, 2 * ROUNDS))
                failed = []
            else:
                failed = slower(files)
    except KeyboardInterrupt:
        print("guard: interrupted", file=sys.stderr)
        return 2
    except (OSError, Failed) as error:
        print(f"guard: {error}", file=sys.stderr)
        return 2
    print(harness.described_machine([machine.load()]) + ".")
    return int(bool(failed))


def measured(guarded: Iterable[Guarded], files: Files, rounds: int) -> dict[Guarded, float]:
    """Return the medians of the ratios, each of two runs next to each other."""
    guarded = list(guarded)
    ratios = [{each: each.ratio(files) for each in guarded} for _ in range(rounds)]
    return {each: statistics.median(ratio[each] for ratio in ratios) for each in guarded}


def slower(files: Files) -> list[Guarded]:
    """Return what has become slower, and tell of all."""
    expected: Mapping[str, float] = json.loads(RECORDED.read_text())["ratios"]
    found = measured(ALL, files, ROUNDS)
    doubtful = [each for each in ALL if found[each] < ALLOWED * expected[each.title]]
    for each in doubtful:
        print(f"{each.title}: {significant(found[each])}, measured once more", file=sys.stderr)
    found |= measured(doubtful, files, 2 * ROUNDS)
    failed = [each for each in doubtful if found[each] < ALLOWED * expected[each.title]]
    rows = [
        [
            each.title,
            significant(found[each]),
            significant(expected[each.title]),
            significant(found[each] / expected[each.title]),
            "SLOWER" if each in failed else "as fast",
        ]
        for each in ALL
    ]
    print(harness.table(["times better", "now", "recorded", "of that", f"at least {ALLOWED:g}"], rows))
    return failed


def record(found: Mapping[Guarded, float]) -> None:
    """Write what was measured, and with what."""
    content: dict[str, Any] = {
        "ratios": {each.title: round(ratio, 3) for each, ratio in found.items()},
        "versions": harness.versions("aioquic"),
    }
    RECORDED.write_text(json.dumps(content, indent=2) + "\n")
    print(RECORDED.read_text(), end="")


if __name__ == "__main__":
    sys.exit(main())
