"""``whimbrel demo``: a transfer crosses from 5G to Wi-Fi and back, in a laboratory made of this machine's kernel.

Or over the networks that the machine has, from a server that is somewhere, while the user does what the laboratory did.

Decides what is needed, what is said, and what counts as success; `whimbrel.cli._demo` does it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from whimbrel.cli import fail
from whimbrel.cli._transfers import seconds

if TYPE_CHECKING:
    from types import FrameType

    from whimbrel.cli._demo.crossing import Crossing, Plan
    from whimbrel.cli._demo.report import Report
    from whimbrel.cli._demo.servers import ServerName

SCENARIOS = (
    "demo", "overlap", "hard-cut", "outage", "outage-same", "black-hole", "portal", "nat-rebind", "flapping", "calm",
)  # fmt: skip
"""Those of `whimbrel.testing`, which is slow to import; a test compares."""
SERVERS: tuple[ServerName, ...] = ("caddy", "gtlsserver", "whimbrel")
PICTURE = "whimbrel-demo"
_SCENARIO, _SIZE, _SEED = "demo", 60_000_000, 0
_USAGE = 2
_PACKAGES = {"pyroute2": "pyroute2", "trustme": "trustme"}
"""Modules that the laboratory cannot do without, and what to install for them."""
_LABORATORY_ONLY = ("scenario", "size", "seed", "loss", "direction", "dispatch")
"""Options that make no sense with a URL."""


class _Unable(Exception):
    """The demo cannot begin. The message says what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Transfer a file while the network changes underneath, in a laboratory of two radios, two NATs and a server "
        "made of this machine's kernel; beside it, a client over TCP does the same. Needs root or user namespaces. "
        "With --server URL there is no laboratory: a file comes over the machine's own networks, and you change them."
    )
    parser.add_argument(
        "--scenario", choices=SCENARIOS, metavar="NAME",
        help=f"what happens to the networks: {', '.join(SCENARIOS)} (default: {_SCENARIO})",
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
    parser.add_argument("--keepalive", type=seconds, metavar="S", help="send a PING after S seconds of silence")
    parser.add_argument(
        "--server", type=_server, default="caddy", metavar="NAME|URL",
        help="who has the file: caddy (default), gtlsserver (ngtcp2's, where it is installed), whimbrel (our own), or "
        "an https:// URL of any HTTP/3 server",
    )  # fmt: skip
    parser.add_argument(
        "--dispatch", choices=("wildcard", "connected"),
        help="how whimbrel's own server holds its sockets: one for all clients (default), or one for each",
    )  # fmt: skip
    parser.add_argument(
        "--direction", choices=("down", "up", "both"),
        help="which way the file goes (default: down); up, and both at once on one connection, with whimbrel's server",
    )  # fmt: skip
    parser.add_argument("--cafile", metavar="FILE", help="whom to trust at a URL, instead of the system's authorities")
    parser.add_argument(
        "--other-client",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run a client over TCP beside it (default); --no-other-client leaves it out",
    )
    parser.add_argument(
        "--size", type=_size, metavar="MB", help=f"of the file (default: {_SIZE // 1_000_000}); each way, if both"
    )
    parser.add_argument("--seed", type=int, metavar="N", help=f"makes the file's content (default: {_SEED})")
    parser.add_argument(
        "--loss", type=_loss, metavar="PERCENT", help="of the packets, on both radios, each way (default: 0.1)"
    )
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
    _check_options(args)
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None and not _is_url(args)]
    if args.picture is not None and not args.no_picture and find_spec("matplotlib") is None:
        missing.append("matplotlib")
    if missing:
        raise _Unable(f"the demo needs more: pip install {' '.join(missing)}")
    for option, name in (("--json", args.json), ("--picture", None if args.no_picture else args.picture or PICTURE)):
        if name not in (None, "-") and not os.access(Path(name).absolute().parent, os.W_OK | os.X_OK):
            raise _Unable(f"{option}: cannot write into {Path(name).absolute().parent}")
    from whimbrel.cli._demo.crossing import Plan

    choices: dict[str, Any] = {
        "sockets": args.sockets, "auto": args.auto, "keepalive": args.keepalive, "other_client": args.other_client,
    }  # fmt: skip
    if _is_url(args):
        return Plan(scenario=None, server=args.server, cafile=args.cafile, **choices)
    from whimbrel.cli._demo import servers
    from whimbrel.testing import SCENARIOS as KNOWN

    try:
        servers.find(args.server)
    except servers.ServerMissing as error:
        raise _Unable(str(error)) from error
    return Plan(
        scenario=KNOWN[args.scenario or _SCENARIO],
        server=args.server,
        dispatch=(args.dispatch or "wildcard") if args.server == "whimbrel" else None,
        direction=args.direction or "down",
        size=args.size or _SIZE,
        seed=_SEED if args.seed is None else args.seed,
        loss=args.loss,
        **choices,
    )


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what makes no sense together."""
    if _is_url(args):
        for option in _LABORATORY_ONLY:
            if getattr(args, option) is not None:
                raise _Unable(f"--{option} is for the laboratory; with --server URL you change the networks yourself")
        if args.cafile is not None and not os.access(args.cafile, os.R_OK):
            raise _Unable(f"--cafile: cannot read {args.cafile}")
        return
    if args.cafile is not None:
        raise _Unable("--cafile is for --server URL; in the laboratory the demo makes its own certificates")
    if args.server != "whimbrel":
        if args.dispatch is not None:
            raise _Unable("--dispatch is for --server whimbrel: it says how that holds its sockets")
        if args.direction not in (None, "down"):
            raise _Unable(f"--direction {args.direction} is for --server whimbrel: {args.server} takes no uploads")


def _cross(plan: Plan, args: argparse.Namespace) -> Crossing:
    from whimbrel.cli._demo import live
    from whimbrel.cli._demo.crossing import CrossingFailed, cross, visit
    from whimbrel.cli._demo.servers import ServerFailed
    from whimbrel.testing import LaboratoryUnavailable

    show = live.show(_output(args))
    try:
        return visit(plan, show) if plan.scenario is None else cross(plan, show)
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


def _is_url(args: argparse.Namespace) -> bool:
    return args.server not in SERVERS


def _server(text: str) -> str:
    if text in SERVERS:
        return text
    if "://" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SERVERS)}, and no https:// URL")
    from whimbrel.http import InvalidUrl, Url

    try:
        return str(Url.parse(text))
    except InvalidUrl as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _size(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0.1 <= (value := float(text)) <= 10_000:
            return round(value * 1_000_000)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of megabytes from 0.1 to 10000")


def _loss(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 100:
            return value / 100
    raise argparse.ArgumentTypeError(f"{text!r} is no percentage")
