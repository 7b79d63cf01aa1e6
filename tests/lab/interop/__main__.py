"""``make interop``: fills in the matrix of peers, prints it, and fails where something does not work that could.

    python -m tests.lab.interop [--only WORD ...] [--json FILE] [--document docs/interop.md]

Needs root or user namespaces. Exit status: 0, every cell works or is explained; 1, one fails that could work; 2, none
could be tried. What is not installed is called "not here", with what to install: it neither works nor fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tests.lab.interop.outcome import Result
from whimbrel.testing import LaboratoryUnavailable, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab.interop.matrix import Cell
    from tests.lab.interop.outcome import Outcome

_FAILS, _USAGE, _INTERRUPTED = 1, 2, 130
_BEGIN, _END = "<!-- make interop: begin -->", "<!-- make interop: end -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    args = _arguments(argv)
    try:
        prepare()  # Before anything starts a thread.
    except (LaboratoryUnavailable, ModuleNotFoundError) as error:
        print(f"interop: no laboratory here: {error}", file=sys.stderr)
        return _USAGE
    from tests.lab.interop import matrix

    chosen = [cell for cell in matrix.cells() if all(word in cell.name.split("/") for word in args.only)]
    if not chosen:
        print(f"interop: no cell is all of {', '.join(args.only)}", file=sys.stderr)
        return _USAGE
    if args.document is not None and len(chosen) < len(matrix.cells()):
        print("interop: --document wants the whole matrix: leave --only out", file=sys.stderr)
        return _USAGE
    began = time.monotonic()
    outcomes: list[Outcome] = []
    status = 0
    try:
        for cell in chosen:
            outcomes.append(_filled(cell, len(outcomes) + 1, len(chosen)))
    except KeyboardInterrupt:
        status = _INTERRUPTED
    failed = [outcome for outcome in outcomes if outcome.result == "fails"]
    lines = matrix.table(outcomes)
    print("\n".join(lines), file=sys.stderr if args.json == "-" else sys.stdout)
    print(_summary(outcomes, time.monotonic() - began), file=sys.stderr)
    _save(outcomes, args.json)
    if args.document is not None and status == 0:
        _write(Path(args.document), lines)
    return status or (_FAILS if failed else 0)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make interop", description="Fill in the matrix of peers.")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD",
        help="only cells that are all of these: client, server (what whimbrel is), a peer, a journey",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="save the outcomes; - for standard output")
    parser.add_argument("--document", metavar="FILE", help="put the tables into this page, between its marks")
    return parser.parse_args(argv)


def _filled(cell: Cell, number: int, count: int) -> Outcome:
    began = time.monotonic()
    outcome = cell.fill()
    why = f": {outcome.why}" if outcome.why else ""
    took = time.monotonic() - began
    print(f"[{number}/{count}] {cell.name}: {outcome.result}{why} ({took:.1f} s)", file=sys.stderr, flush=True)
    return outcome


def _summary(outcomes: list[Outcome], seconds: float) -> str:
    counts = [(name, sum(each.result == name for each in outcomes)) for name in get_args(Result)]
    told = ", ".join(f"{count} {name}" for name, count in counts if count)
    return f"{len(outcomes)} cells: {told}; {seconds:.0f} s on Linux {platform.release()}"


def _save(outcomes: list[Outcome], name: str | None) -> None:
    if name is None:
        return
    text = json.dumps({"cells": [dataclasses.asdict(outcome) for outcome in outcomes]}, indent=2) + "\n"
    if name == "-":
        sys.stdout.write(text)
    else:
        Path(name).write_text(text)


def _write(page: Path, lines: list[str]) -> None:
    text = page.read_text()
    block = "\n".join([_BEGIN, "", *lines, "", _END])
    page.write_text(re.sub(f"{_BEGIN}.*{_END}", lambda _: block, text, flags=re.DOTALL))


if __name__ == "__main__":
    sys.exit(main())
