"""``whimbrel serve --tunnel``: who may have tunnels, and where to."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.cli._via import DEFAULT_PATIENCE, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whimbrel.http import Request, ServeOptions
    from whimbrel.tunnel import Gate, Rule

STREAMS = 256
"""Tunnels, and requests, that a client may have open at once; what comes then waits for one to end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("tunnels", "TCP for whimbrel pipe, forward, proxy and run")
    group.add_argument("--tunnel", action="store_true", help="carry tunnels, for who is let in, to what is allowed")
    group.add_argument(
        "--allow",
        metavar="RULE",
        type=_rule,
        action="append",
        default=[],
        help="where they may lead: HOST:PORT, HOST:* for every port, NETWORK:PORT such as 10.0.0.0/8:22, "
        "NAME:PORT=NETWORK for a name that leads into a private network, or the /PATH of a UNIX socket; "
        "may be given several times",
    )
    group.add_argument(
        "--token-file", metavar="FILE", type=Path, help="let in who has a token of it: whimbrel keygen"
    )
    group.add_argument("--audit-log", metavar="FILE", type=Path, help="who had which tunnel (default: standard error)")
    group.add_argument(
        "--patience",
        metavar="T",
        type=duration,
        default=DEFAULT_PATIENCE,
        help=f"how long to hold on to a client that is silent, such as 90s, 30m or 8h (default: {DEFAULT_PATIENCE})",
    )


def problem(args: argparse.Namespace) -> str:
    """What is wrong with the options, "" for nothing."""
    if not args.tunnel:
        given = [name for name in ("allow", "token_file", "audit_log") if getattr(args, name)]
        return f"--{given[0].replace('_', '-')} is for --tunnel" if given else ""
    if args.token_file is None and args.client_ca is None:
        return "--tunnel lets nobody in unasked: give --token-file (see whimbrel keygen), --client-ca, or both"
    if not args.allow:
        return "--tunnel leads nowhere without --allow, such as --allow localhost:22"
    return ""


@contextlib.contextmanager
def gate(args: argparse.Namespace) -> Iterator[Gate | None]:
    """What decides on tunnels; None where there are none.

    Raises:
        BadTokenFile: the tokens cannot be read.
        OSError: the log cannot be written.
    """
    from whimbrel.tunnel import Audit, Gate, Rules, Tokens

    if not args.tunnel:
        yield None
        return
    tokens = None if args.token_file is None else Tokens.read(args.token_file)
    with contextlib.closing(Audit(args.audit_log, lambda: dt.datetime.now(dt.UTC))) as audit:
        yield Gate(Rules(args.allow), tokens, audit)


async def nothing_else(request: Request) -> None:
    """Answers what is no tunnel, where nothing else is served."""
    await request.respond(404, {"content-type": "text/plain"}, b"There are only tunnels here.\n")


def shown(args: argparse.Namespace) -> str:
    """What a client has to say, for a command that can be tried."""
    return "" if args.token_file is None else f"--token-file {args.token_file} "


def options(args: argparse.Namespace) -> ServeOptions:
    """What a server of tunnels needs otherwise than one of files."""
    from whimbrel import Limits

    return {"idle_timeout": args.patience, "limits": Limits(max_streams=STREAMS)}


def _rule(text: str) -> Rule:
    from whimbrel.tunnel import BadRule, parse_rule

    try:
        return parse_rule(text)
    except BadRule as error:
        raise argparse.ArgumentTypeError(str(error)) from None
