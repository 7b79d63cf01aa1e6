"""``whimbrel forward``: local ports and UNIX sockets that lead to ports and sockets behind a server."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from whimbrel.cli import fail
from whimbrel.cli._via import Unusable, add_via, attempted, cannot_listen, tell, tunnels, until_signalled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whimbrel.tunnel import Forwarding, Tunnels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "forwardings",
        nargs="+",
        metavar="LOCAL:HOST:PORT",
        help="LOCAL is [ADDRESS:]PORT, here (127.0.0.1; 0: any port), HOST:PORT is as seen from the server; "
        "either may be the /PATH of a UNIX socket",
    )
    add_via(parser)


def run(args: argparse.Namespace) -> int:
    """Forward until a signal comes. Returns the exit status."""
    from whimbrel.tunnel import BadTarget, Forwarding

    try:
        forwardings = [Forwarding.parse(text) for text in args.forwardings]
        through = tunnels(args, args.via)
    except (BadTarget, Unusable) as error:
        return fail(error, 2)
    return until_signalled(lambda: _forward(through, forwardings), 0)


async def _forward(through: Tunnels, forwardings: Sequence[Forwarding]) -> int:
    from whimbrel.tunnel import Listeners

    async with through, Listeners(through, tell) as listeners:
        if problem := await attempted(through.connect()):
            return fail(problem)
        for forwarding in forwardings:
            try:
                here = await listeners.forward(forwarding)
            except OSError as error:
                return fail(cannot_listen(forwarding.local, error))
            print(f"forwarding {here} to {forwarding.target} via {through.server}", flush=True)
        await asyncio.Event().wait()
    raise AssertionError("it waits until it is cancelled")
