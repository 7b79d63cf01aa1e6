"""What the commands that go through a tunnel share: which server, who we are there, and how it is told what fails."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.cli import fail

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from whimbrel.tunnel import Tunnels

DEFAULT_PORT = 4433
"""That of ``whimbrel serve``."""
DEFAULT_PATIENCE = "1h"


class Unusable(Exception):
    """What was said on the command line cannot be done. The message is a sentence."""


def add_via(parser: argparse.ArgumentParser) -> None:
    """Declare ``--via`` and what `add_server_arguments` declares."""
    parser.add_argument(
        "--via",
        metavar="SERVER[:PORT]",
        type=server,
        required=True,
        help=f"the whimbrel server to go through (port: {DEFAULT_PORT}, UDP)",
    )
    add_server_arguments(parser)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say how a server is met."""
    parser.add_argument(
        "--token-file", metavar="FILE", type=Path, help="who we are (default: ~/.config/whimbrel/token, if it is there)"
    )
    parser.add_argument("--cert", metavar="FILE", type=Path, help="a client certificate's chain, PEM")
    parser.add_argument("--key", metavar="FILE", type=Path, help="its private key, PEM")
    parser.add_argument("--cafile", metavar="FILE", help="trust the certificates in FILE instead of the system's")
    parser.add_argument(
        "--timeout", type=duration, default=10.0, metavar="S", help="seconds to wait for a connection (default: 10)"
    )
    parser.add_argument(
        "--patience",
        type=duration,
        default=DEFAULT_PATIENCE,
        metavar="T",
        help=f"how long to hold on without a network, such as 90s, 30m or 8h (default: {DEFAULT_PATIENCE}); "
        "the server's counts as well",
    )


def tunnels(args: argparse.Namespace, place: tuple[str, int]) -> Tunnels:
    """The tunnels through a server.

    Raises:
        Unusable: the options contradict each other, or a file cannot be used.
    """
    from whimbrel.http import ConnectOptions
    from whimbrel.tunnel import BadTokenFile, Tunnels, default_file, read_token

    if (args.cert is None) != (args.key is None):
        raise Unusable("--cert and --key go together")
    file = args.token_file
    if file is None and default_file().exists():
        file = default_file()
    options: ConnectOptions = {"timeout": args.timeout, "verify": args.cafile or True}
    if args.cert is not None:
        options["cert"] = (args.cert, args.key)
    try:
        token = None if file is None else read_token(file)
    except BadTokenFile as error:
        raise Unusable(str(error)) from None
    return Tunnels(*place, token=token, patience=args.patience, **options)


def tell(sentence: str) -> None:
    """Say what became of one tunnel, on standard error."""
    fail(sentence)


async def attempted(work: Awaitable[object]) -> str:
    """Try something over a connection; returns what went wrong, "" for nothing."""
    from whimbrel import WhimbrelError

    try:
        await work
    except WhimbrelError as error:
        return sentence(error)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def cannot_listen(local: object, error: OSError) -> str:
    """Why there is no local port or socket; asyncio's own words are of another kind."""
    return f"cannot listen on {local}: {os.strerror(error.errno) if error.errno else error}"


def sentence(error: Exception) -> str:
    """What went wrong, in one sentence."""
    from whimbrel import CertificateError, WhimbrelError
    from whimbrel.tunnel import Refused

    match error:
        case Refused():
            return f"{error.peer}: {error.message}" if error.peer else error.message
        case CertificateError(ours=True):
            return f"{error.peer}: {error.message}; --cert and --key name another"
        case CertificateError():
            return f"{error.peer}: {error.message}; --cafile names another authority to trust"
        case WhimbrelError():
            text = f"{error.peer}: {error.message}" if error.peer else error.message
            return f"{text}; {error.advice}" if error.advice else text
        case _:
            return str(error)


def until_signalled(main: Callable[[], Coroutine[object, object, int]], status: int | None = None) -> int:
    """Run something, and end it properly when a signal comes: a server holds on for long to who leaves unannounced.

    Args:
        main: to be run.
        status: to be returned after a signal; None: 128 and its number, as shells have it.
    """

    async def run() -> int:
        task = asyncio.ensure_future(main())
        got: list[int] = []

        def end(number: int) -> None:
            got.append(number)
            task.cancel()

        with _signals(end):
            try:
                return await task
            except asyncio.CancelledError:
                if not got:
                    raise
                return 128 + got[0] if status is None else status

    return asyncio.run(run())


@contextlib.contextmanager
def _signals(call: Callable[[int], object]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, call, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def server(text: str) -> tuple[str, int]:
    """What an option takes that names a server."""
    from whimbrel.tunnel import BadTarget, parse_port, tcp_target

    host, colon, port = text.rpartition(":")
    is_bare = ":" in host and not host.startswith("[")
    if not colon or text.endswith("]") or is_bare:
        host, port = text, ""  # A name, or an IPv6 address, alone.
    try:
        target = tcp_target(host.removeprefix("[").removesuffix("]"), parse_port(port, text) if port else DEFAULT_PORT)
    except BadTarget as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return target.host, target.port


def duration(text: str) -> float:
    """What an option takes that is a time: seconds, or a number with s, m, h or d."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text)
    if found is not None:
        value = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
        if 0 < value < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no time above 0, such as 90s, 30m or 8h")
