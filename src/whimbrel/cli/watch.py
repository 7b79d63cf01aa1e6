"""``whimbrel watch [HOST]``: shows the network changing under this machine, and what a connection would do about it.

It needs no connection, and so neither the native core nor a server: what it says is what the policy does when the new
network answers.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from datetime import datetime

from whimbrel.cli._judgement import first_step, next_step
from whimbrel.network import Route, routes_to
from whimbrel.network._watch import Asking

# Addresses that are nobody's (RFC 5737, RFC 3849): the way there is the way to the internet.
_SOMEWHERE = ("192.0.2.1", "2001:db8::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.description = (
        "Print each change of the way to HOST, and what a connection would do about it. "
        "The kernel's routing tables are asked; no packet is sent. Ctrl-C ends it."
    )
    parser.add_argument(
        "host",
        metavar="HOST",
        nargs="?",
        help=f"name or IP address (default: the internet at large, as {' and '.join(_SOMEWHERE)})",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Watches until interrupted. Returns the exit status."""
    try:
        peers = _addresses(args.host) if args.host else _SOMEWHERE
        return _watch(peers, as_json=args.json)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # Whoever read our lines has enough of them. The interpreter would complain again as it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        print(f"whimbrel watch: {error}", file=sys.stderr)
        return 1


def _watch(peers: Sequence[str], *, as_json: bool) -> int:
    show = _print_json if as_json else _print_line
    with Asking(tuple(peers), routes_to) as changes:
        before = dict(changes.routes)
        for peer, routes in before.items():
            show(peer, routes, *first_step(routes))
        for peer, routes in changes:
            show(peer, routes, *next_step(before[peer], routes))
            before[peer] = routes
    return 0


def _print_line(peer: str, routes: Sequence[Route], _: str, sentence: str) -> None:
    clock = datetime.now().astimezone().isoformat(sep=" ", timespec="milliseconds")[11:23]
    ways = ", ".join(f"{route.interface} {route.source}" for route in routes) or "nothing"
    print(f"{clock}  {peer} over {ways}: {sentence}", flush=True)


def _print_json(peer: str, routes: Sequence[Route], step: str, sentence: str) -> None:
    ways = [{"interface": route.interface, "index": route.index, "source": route.source} for route in routes]
    event = {"time": time.time(), "peer": peer, "route": ways[0] if ways else None, "routes": ways}
    print(json.dumps({**event, "step": step, "sentence": sentence}), flush=True)


def _addresses(host: str) -> tuple[str, ...]:
    """The host's IP addresses, each once.

    Raises:
        OSError: there is no such host, in one sentence.
    """
    try:
        answers = socket.getaddrinfo(host, 443, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that is empty or too long.
        reason = error.strerror if isinstance(error, OSError) else "not a valid host name"
        raise OSError(f"cannot find {host}: {reason}") from error
    return tuple(dict.fromkeys(_text(answer[4]) for answer in answers))


def _text(address: Sequence[str | int | bytes]) -> str:
    """A socket address as text. A link-local one needs its interface's number, its fourth part."""
    scope = address[3] if len(address) == 4 else 0
    return f"{address[0]!s}%{scope!s}" if scope else str(address[0])
