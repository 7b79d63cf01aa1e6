"""The ``whimbrel`` command. One file for each subcommand, with ``add_arguments(parser)`` and ``run(args)``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "get": "download over HTTP/3, and keep downloading while the machine changes networks",
    "put": "upload over HTTP/3, and keep uploading while the machine changes networks",
    "serve": "serve a folder over HTTP/3, to clients that may move",
    "pipe": "carry standard input and output through a tunnel, for ssh's ProxyCommand",
    "forward": "lead local ports and UNIX sockets to others, through tunnels that survive a change of networks",
    "proxy": "serve SOCKS5 and HTTP CONNECT on this machine, through tunnels that survive a change of networks",
    "run": "run a program with such a proxy of its own",
    "keygen": "make a token that lets its bearer have tunnels",
    "doctor": "tell whether connections to a host can follow this machine between networks",
    "demo": "watch a download cross from 5G to Wi-Fi and back, in a laboratory on this machine",
    "watch": "print what happens to this machine's networks",
    "plot": "draw a connection's qlog: rate, RTT and congestion window by path, with its moves",
}
"""Subcommands, each the module of its name, with what ``whimbrel --help`` says of it."""

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the signal's number, as shells have it."""


class Command(Protocol):
    """What a subcommand's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``whimbrel`` command.

    Args:
        argv: its arguments; by default those of this process.

    Returns:
        The exit status: 0 for success. What went wrong is on standard error, one sentence each.
    """
    parser = argparse.ArgumentParser(prog="whimbrel", description="QUIC that follows the machine between networks.")
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = _load(name)
        subparser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.add_arguments(subparser)
        subparser.add_argument(
            "-v", "--verbose", action="count", default=0, help="log moves to standard error; twice: everything"
        )
        subparser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    _log(args.verbose)
    try:
        status: int = args.run(args)
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        return reader_gone()
    return status


def fail(problem: object, status: int = 1) -> int:
    """Say what went wrong, in one line on standard error. Returns ``status``."""
    # Where standard error is gone as well, nobody is left to be told.
    with contextlib.suppress(OSError):
        print(message(problem), file=sys.stderr, flush=True)
    return status


def message(problem: object) -> str:
    """What is said of a problem, in one line."""
    return f"whimbrel: {' '.join(str(problem).split())}"


def reader_gone() -> int:
    """End as other programs do when nobody reads their output any more, such as after ``| head``."""
    # Python would try to write what is left once more at exit, and complain.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
    return 128 + signal.SIGPIPE


class _Version(argparse.Action):
    """Asks for the version only when it is wanted: it lies in the native module."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> None:
        from whimbrel import __version__

        print(f"whimbrel {__version__}")
        parser.exit()


def _load(name: str) -> Command:
    return cast("Command", importlib.import_module(f"whimbrel.cli.{name}"))


def _log(verbosity: int) -> None:
    if verbosity:
        level = logging.INFO if verbosity == 1 else logging.DEBUG
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger("whimbrel").setLevel(level)
