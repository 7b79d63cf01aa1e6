"""``whimbrel plot FILE``: draws a connection's qlog, path by path.

Ours and those of others: see `whimbrel.cli._plot.records` for the forms that are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from whimbrel.cli import fail
from whimbrel.cli._plot.records import NotReadableError, parse
from whimbrel.cli._plot.trace import Trace, follow

_FORMATS = (".svg", ".png")
_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Draw a qlog: the rate, RTT and congestion window of each path over time, and the moves from one to the next. "
        "`connect(qlog=...)`, `serve(qlog=...)` and the variable QLOGDIR write such files, and so do other programs."
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a qlog, such as 2f6a…_client.sqlog")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PICTURE",
        type=Path,
        help="ends in .svg or .png (default: FILE's name with .svg, here)",
    )


def run(args: argparse.Namespace) -> int:
    """Draw it. Returns the exit status."""
    file: Path = args.file
    output: Path = args.output or Path(f"{file.stem}.svg")
    if output.suffix not in _FORMATS:
        return fail(f"-o: {output} ends in neither .svg nor .png", _USAGE)
    try:
        log = parse(file.read_bytes().decode())
        trace = follow(log)
    except OSError as error:
        return fail(f"cannot read {file}: {error.strerror}")
    except UnicodeDecodeError:
        return fail(f"{file}: this is not a qlog")
    except NotReadableError as error:
        return fail(f"{file}: {error}")
    try:
        from whimbrel.cli._plot.drawing import draw

        draw(trace, f"{file.name}, as the {log.side} saw it", output)
    except ModuleNotFoundError as error:
        return fail(f"pictures need {error.name}: pip install 'whimbrel[plot]'")
    except OSError as error:
        return fail(f"cannot write {output}: {error.strerror}")
    print(f"{output}: {_summary(trace)}{'; the last record is cut off' if log.cut_off else ''}")
    return 0


def _summary(trace: Trace) -> str:
    counts = ((len(trace.paths), "path"), (len(trace.moves), "move"))
    return ", ".join(f"{count} {noun}{'s' * (count != 1)}" for count, noun in counts) + f" in {trace.ended:.1f} s"
