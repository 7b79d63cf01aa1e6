"""``whimbrel run``: a program with a proxy of its own, so that its connections survive the move."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from whimbrel.cli import fail
from whimbrel.cli._via import Unusable, add_via, attempted, tell, tunnels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from whimbrel.tunnel import Tunnels

FAILED, CANNOT_RUN, NOT_FOUND = 125, 126, 127
"""Exit statuses for what is not the program's fault, as env(1) and timeout(1) have them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = (
        f"exit status: the program's; {FAILED} where the tunnel fails, {CANNOT_RUN} where the program cannot be run, "
        f"{NOT_FOUND} where it is not found, 128 and the number of the signal that ended it"
    )
    add_via(parser)
    parser.add_argument("command", metavar="COMMAND", help="the program; -- before it keeps its options apart")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="what it is given")


def run(args: argparse.Namespace) -> int:
    """Run the program. Returns its exit status."""
    try:
        through = tunnels(args, args.via)
    except Unusable as error:
        return fail(error, FAILED)
    return asyncio.run(_run(through, [args.command, *args.arguments]))


async def _run(through: Tunnels, command: Sequence[str]) -> int:
    from whimbrel.tunnel import Listeners, LocalPort

    async with through, Listeners(through, tell) as listeners:
        if problem := await attempted(through.connect()):
            return fail(problem, FAILED)
        here = await listeners.proxy(LocalPort("127.0.0.1", 0))
        try:
            program = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment(here)})
        except FileNotFoundError:
            return fail(f"{command[0]}: there is no such program", NOT_FOUND)
        except OSError as error:
            return fail(f"cannot run {command[0]}: {error.strerror}", CANNOT_RUN)
        with _signals_for(program):
            status = await program.wait()
    return status if status >= 0 else 128 - status


def environment(proxy: str) -> Mapping[str, str]:
    """What programs look at for their proxy, in both spellings that are about.

    Names are looked up by the server (``socks5h``), and nothing is left out, this machine's own name neither: it is
    the server's then.
    """
    socks, connect = f"socks5h://{proxy}", f"http://{proxy}"
    # Plain HTTP asks proxies otherwise than by CONNECT, so it has to go by SOCKS.
    said = {"ALL_PROXY": socks, "HTTP_PROXY": socks, "HTTPS_PROXY": connect, "NO_PROXY": ""}
    return {**said, **{name.lower(): value for name, value in said.items()}}


@contextlib.contextmanager
def _signals_for(program: asyncio.subprocess.Process) -> Iterator[None]:
    """Hand signals on. The terminal's own go to the program as well as to us: it decides what becomes of them."""
    loop = asyncio.get_running_loop()
    handed_on, left_to_it = (signal.SIGTERM, signal.SIGHUP), (signal.SIGINT, signal.SIGQUIT)
    for number in handed_on:
        loop.add_signal_handler(number, program.send_signal, number)
    for number in left_to_it:
        loop.add_signal_handler(number, int)
    try:
        yield
    finally:
        for number in handed_on + left_to_it:
            loop.remove_signal_handler(number)
