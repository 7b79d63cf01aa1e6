"""``whimbrel demo``: a download crosses from 5G to Wi-Fi and back, in a laboratory made of this machine's kernel.

Decides what is needed, what is said, and what counts as success; `whimbrel.cli._demo` does it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from whimbrel.cli import fail

if TYPE_CHECKING:
    from types import FrameType

    from whimbrel.cli._demo.crossing import Crossing, Plan
    from whimbrel.cli._demo.report import Report

SCENARIOS = (
    "demo", "overlap", "hard-cut", "outage", "outage-same", "black-hole", "portal", "nat-rebind", "flapping",
)  # fmt: skip
"""Those of `whimbrel.testing`, which is slow to import; a test compares."""
PICTURE = "whimbrel-demo"
_USAGE = 2
_PACKAGES = {"pyroute2": "pyroute2", "trustme": "trustme"}
"""Modules that the demo cannot do without, and what to install for them."""


class _Unable(Exception):
    """The demo cannot begin. The message says what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Download a file while the network changes underneath, in a laboratory of two radios, two NATs and a server "
        "made of this machine's kernel; beside it, a client over TCP does the same. Needs root or user namespaces."
    )
    parser.add_argument(
        "--scenario", choices=SCENARIOS, default="demo", metavar="NAME",
        help=f"what happens to the networks: {', '.join(SCENARIOS)} (default: demo)",
    )  # fmt: skip
    parser.add_argument(
        "--sockets",
        choices=("pinned", "unconnected", "connected"),
        default="pinned",
        help="how whimbrel's packets find their network (default: pinned)",
    )
    parser.add_argument(
        "--auto",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="watch the network and move by itself (default); --no-auto leaves all to the kernel or to nobody",
    )
    parser.add_argument("--keepalive", type=_seconds, metavar="S", help="send a PING after S seconds of silence")
    parser.add_argument(
        "--server",
        choices=("caddy", "gtlsserver"),
        default="caddy",
        help="who has the file: Caddy (default), or ngtcp2's gtlsserver where it is installed",
    )
    parser.add_argument(
        "--other-client",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run a client over TCP beside it (default); --no-other-client leaves it out",
    )
    parser.add_argument("--size", type=_size, default=60_000_000, metavar="MB", help="of the file (default: 60)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="makes the file's content (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="save what was measured as JSON; - for standard output")
    parser.add_argument(
        "--picture", metavar="STEM", help=f"where the picture goes: STEM.svg and STEM.png (default: {PICTURE})"
    )
    parser.add_argument("--no-picture", action="store_true", help="draw none")


def run(args: argparse.Namespace) -> int:
    """Do it. Returns the exit status: 0 when the file arrived as it is."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        plan = _prepare(args)
        crossing = _cross(plan, args)
    except _Unable as error:
        return fail(error, _USAGE)
    return _tell(crossing, args)


def _prepare(args: argparse.Namespace) -> Plan:
    """Look whether all that is needed is there, before anything is built."""
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if args.picture is not None and not args.no_picture and find_spec("matplotlib") is None:
        missing.append("matplotlib")
    if missing:
        raise _Unable(f"the demo needs more: pip install {' '.join(missing)}")
    for option, name in (("--json", args.json), ("--picture", None if args.no_picture else args.picture or PICTURE)):
        if name not in (None, "-") and not os.access(Path(name).absolute().parent, os.W_OK | os.X_OK):
            raise _Unable(f"{option}: cannot write into {Path(name).absolute().parent}")
    from whimbrel.cli._demo import servers
    from whimbrel.cli._demo.crossing import Plan
    from whimbrel.testing import SCENARIOS as KNOWN

    try:
        servers.find(args.server)
    except servers.ServerMissing as error:
        raise _Unable(str(error)) from error
    return Plan(
        scenario=KNOWN[args.scenario], sockets=args.sockets, auto=args.auto, keepalive=args.keepalive,
        server=args.server, other_client=args.other_client, size=args.size, seed=args.seed,
    )  # fmt: skip


def _cross(plan: Plan, args: argparse.Namespace) -> Crossing:
    from whimbrel.cli._demo import live
    from whimbrel.cli._demo.crossing import CrossingFailed, cross
    from whimbrel.cli._demo.servers import ServerFailed
    from whimbrel.testing import LaboratoryUnavailable

    show = live.show(_output(args))
    try:
        return cross(plan, show)
    except LaboratoryUnavailable as error:
        raise _Unable(f"no laboratory here: {error}") from error
    except (ServerFailed, CrossingFailed, OSError) as error:
        raise _Unable(str(error)) from error
    finally:
        show.close()


def _tell(crossing: Crossing, args: argparse.Namespace) -> int:
    from whimbrel.cli._demo import summary
    from whimbrel.cli._demo.report import Report

    report = Report(crossing)
    output = _output(args)
    summary.show(report, output)
    try:
        _save(report, args.json)
        if not args.no_picture:
            print(_draw(report, Path(args.picture or PICTURE)), file=output, flush=True)
    except OSError as error:
        return fail(f"cannot write {error.filename}: {error.strerror}" if error.filename else error)
    return 0 if report.failure is None else fail(report.failure)


def _save(report: Report, name: str | None) -> None:
    if name is None:
        return
    text = json.dumps(report.as_json(), indent=2) + "\n"
    if name == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(name).write_text(text)


def _draw(report: Report, stem: Path) -> str:
    from whimbrel.cli._demo import picture

    if find_spec("matplotlib") is None:
        return "No picture: pip install matplotlib."
    svg, png = picture.draw(report, stem)
    return f"Picture: {svg} and {png}"


def _output(args: argparse.Namespace) -> TextIO:
    """Where the words go: out of the way of JSON on standard output."""
    return sys.stderr if args.json == "-" else sys.stdout


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    """SIGTERM takes everything down in order, as Ctrl-C does."""
    raise SystemExit(128 + number)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("seconds, and more than 0")
    return value


def _size(text: str) -> int:
    value = float(text)
    if not 0.1 <= value <= 10_000:
        raise argparse.ArgumentTypeError("megabytes, 0.1 to 10000")
    return round(value * 1_000_000)
