"""``whimbrel run``: a program with a proxy of its own, so that its connections survive the move."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Self

from whimbrel.cli import fail
from whimbrel.cli._via import Unusable, add_via, attempted, tell, tunnels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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

    with _Signals() as signals:
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
            signals.hand_on_to(program)
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


class _Signals:
    """Hands signals on to the program, from before it is there. What it makes of them is its affair.

    A terminal's own go to the program as well as to us, and are not sent twice.
    """

    _handed_on = (signal.SIGTERM, signal.SIGHUP)
    _left_to_it = (signal.SIGINT, signal.SIGQUIT)

    def __init__(self) -> None:
        self._program: asyncio.subprocess.Process | None = None
        self._early: list[int] = []
        self._loop = asyncio.get_running_loop()

    def hand_on_to(self, program: asyncio.subprocess.Process) -> None:
        """It runs now."""
        self._program = program
        for number in self._early:
            self._send(number)

    def __enter__(self) -> Self:
        for number in self._handed_on:
            self._loop.add_signal_handler(number, self._send, number)
        for number in self._left_to_it:
            self._loop.add_signal_handler(number, self._keep, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._handed_on + self._left_to_it:
            self._loop.remove_signal_handler(number)

    def _send(self, number: int) -> None:
        if self._program is None:
            self._keep(number)
            return
        with contextlib.suppress(ProcessLookupError):
            self._program.send_signal(number)

    def _keep(self, number: int) -> None:
        if self._program is None:
            self._early.append(number)
