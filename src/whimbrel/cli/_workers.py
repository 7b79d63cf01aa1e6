"""``whimbrel serve --workers``: a folder, or tunnels, by several processes on one port."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING

from whimbrel.cli import _log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whimbrel import http


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the option."""
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_count,
        help="serve by N processes on the one port; those that die are replaced, and on SIGHUP all of them, one after "
        "another, so that certificates are read again and no transfer is lost",
    )


def problem(args: argparse.Namespace, *, is_app: bool) -> str:
    """What is wrong with the options, "" for nothing."""
    if args.workers is None:
        return ""
    if is_app:
        return "--workers is for folders and tunnels, not for applications"
    if args.dispatch != "wildcard":
        return "--workers needs --dispatch wildcard: the kernel tells their clients apart by connection IDs"
    return ""


async def serve(args: argparse.Namespace) -> int:
    """Serve until a signal comes. Returns the exit status.

    Raises:
        OSError: the port is in use, or a file cannot be read.
        ValueError: a file's content makes no sense.
    """
    from whimbrel._workers import ServeWorkers
    from whimbrel.cli import serve as command

    pair, certificate = command._certificates(args)
    described = ServeWorkers(functools.partial(_site, args), command._hosts(args), args.port, args.workers)
    try:
        async with described as server:
            obeying = asyncio.ensure_future(server.obey_signals(drain=command.PATIENCE))
            # Whoever reads that it listens may send a signal at once.
            await asyncio.sleep(0)
            try:
                command._announce(args, server, pair[0], certificate)
                await obeying
            finally:
                obeying.cancel()
    except RuntimeError as error:  # A worker ended without a word.
        raise OSError(str(error)) from None
    return 0


@contextlib.asynccontextmanager
async def _site(args: argparse.Namespace, hosts: list[str], port: int) -> AsyncIterator[http.Server]:
    """What runs in each of them."""
    from whimbrel.cli import serve as command

    _log(args.verbose)
    async with command._site(args, command._certificates(args)[0], hosts, port) as server:
        yield server


def _count(text: str) -> int:
    from whimbrel._workers import MOST

    with contextlib.suppress(ValueError):
        if 1 <= (value := int(text)) <= MOST:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of workers: 1 to {MOST}")
