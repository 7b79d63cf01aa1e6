"""``whimbrel proxy``: a SOCKS5 and HTTP CONNECT proxy on this machine, whose connections leave from a server."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from whimbrel.cli import fail
from whimbrel.cli._via import Unusable, add_via, attempted, cannot_listen, tell, tunnels, until_signalled

if TYPE_CHECKING:
    from whimbrel.tunnel import LocalPort, Tunnels

DEFAULT = "127.0.0.1:1080"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--listen", metavar="ADDRESS:PORT", default=DEFAULT, help=f"where programs find it (default: {DEFAULT})"
    )
    add_via(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes. Returns the exit status."""
    from whimbrel.tunnel import BadTarget, parse_local

    try:
        local = parse_local(args.listen)
        through = tunnels(args, args.via)
    except (BadTarget, Unusable) as error:
        return fail(error, 2)
    return until_signalled(lambda: _proxy(through, local), 0)


async def _proxy(through: Tunnels, local: LocalPort) -> int:
    from whimbrel.tunnel import Listeners

    async with through, Listeners(through, tell) as listeners:
        if problem := await attempted(through.connect()):
            return fail(problem)
        try:
            here = await listeners.proxy(local)
        except OSError as error:
            return fail(cannot_listen(local, error))
        print(f"proxy at {here} (SOCKS5 and HTTP CONNECT) via {through.server}", flush=True)
        await asyncio.Event().wait()
    raise AssertionError("it waits until it is cancelled")
