"""``whimbrel pipe``: standard input and output through one tunnel, for ssh's ProxyCommand."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from whimbrel.cli import fail, reader_gone
from whimbrel.cli._via import Unusable, add_server_arguments, attempted, sentence, server, tunnels, until_signalled

if TYPE_CHECKING:
    from whimbrel.cli._standard_pipe import StandardPipe
    from whimbrel.tunnel import Target, Tunnels

EPILOG = """ssh -o ProxyCommand="whimbrel pipe %h" HOST            sshd and whimbrel serve --tunnel are on one host
ssh -o ProxyCommand="whimbrel pipe GATE --to %h:%p" HOST    the server leads to a host behind it"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG.replace("%", "%%")
    parser.add_argument("server", metavar="SERVER[:PORT]", type=server, help="the whimbrel server (port: 4433, UDP)")
    parser.add_argument(
        "--to",
        metavar="HOST:PORT",
        default="localhost:22",
        help="where the tunnel leads, as seen from the server; also the /PATH of a UNIX socket (default: localhost:22)",
    )
    add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Carry bytes until both ways have ended. Returns the exit status."""
    from whimbrel.cli._standard_pipe import StandardPipe
    from whimbrel.tunnel import BadTarget, parse_target

    try:
        target = parse_target(args.to)
        through = tunnels(args, args.server)
        local = StandardPipe()
    except (BadTarget, Unusable, ValueError) as error:
        return fail(error, 2)
    try:
        return until_signalled(lambda: _pipe(through, target, local))
    finally:
        local.close()


async def _pipe(through: Tunnels, target: Target, local: StandardPipe) -> int:
    from whimbrel import WhimbrelError
    from whimbrel.tunnel import Traffic, relay

    async with through:
        if problem := await attempted(through.connect()):
            return fail(problem)
        try:
            tunnel = await through.open(target)
        except WhimbrelError as error:
            return fail(sentence(error))
        broken = await relay(local, tunnel, Traffic())
    if isinstance(broken, BrokenPipeError):
        return reader_gone()
    return 0 if broken is None else fail(sentence(broken))
