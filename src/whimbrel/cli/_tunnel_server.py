"""``whimbrel serve --tunnel``: who may have tunnels, and where to."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from whimbrel.cli import _app
from whimbrel.cli._via import DEFAULT_PATIENCE, duration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from whimbrel._lost import Lost
    from whimbrel.http import Request, ServeOptions, Server
    from whimbrel.tunnel import Gate, Rule

NO_CERTIFICATE = 116
"""TLS's alert certificate_required (RFC 8446 §6.2)."""
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
    group.add_argument("--token-file", metavar="FILE", type=Path, help="let in who has a token of it: whimbrel keygen")
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
    if _app.is_named(args.folder):
        return "--tunnel and an application are served by two commands"
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
        gate = Gate(Rules(args.allow), tokens, audit)
        with _told_of_handshakes(gate):
            yield gate


@contextlib.asynccontextmanager
async def watched(gate: Gate | None, server: Server) -> AsyncIterator[None]:
    """The server, without those who came in and were never let through."""
    if gate is None:
        yield
        return
    dismissing = asyncio.create_task(gate.dismiss_strangers(server))
    try:
        yield
    finally:
        dismissing.cancel()
        await asyncio.gather(dismissing, return_exceptions=True)


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


@contextlib.contextmanager
def _told_of_handshakes(gate: Gate) -> Iterator[None]:
    """Who fails in TLS never gets to the gate: the log of handshakes tells of it."""
    logger, handler = logging.getLogger("whimbrel.handshake"), _Handshakes(gate)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Handshakes(logging.Handler):
    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def emit(self, record: logging.LogRecord) -> None:
        from whimbrel._lost import certificate_problem

        client, lost = cast("tuple[str, Lost]", record.args)
        kind, code, reason, by_peer = lost
        if kind != "transport" or by_peer or not 0x100 <= code <= 0x1FF:
            return
        alert = code - 0x100
        problem = "missing" if alert == NO_CERTIFICATE else certificate_problem(alert, reason)
        if problem is not None:
            self._gate.certificate_refused(client, problem)


def _rule(text: str) -> Rule:
    from whimbrel.tunnel import BadRule, parse_rule

    try:
        return parse_rule(text)
    except BadRule as error:
        raise argparse.ArgumentTypeError(str(error)) from None
