"""``whimbrel keygen``: a token that lets its bearer have tunnels."""

from __future__ import annotations

import argparse
import getpass
import socket
from pathlib import Path

from whimbrel.cli import fail


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--token-file", metavar="FILE", type=Path, help="the file to make (default: ~/.config/whimbrel/token)"
    )
    parser.add_argument(
        "--name", metavar="NAME", type=_name, help="what the server's log calls the bearer (default: USER@HOST)"
    )


def run(args: argparse.Namespace) -> int:
    """Make the file. Returns the exit status."""
    from whimbrel.tunnel import BadTokenFile, default_file, write_token

    file = args.token_file or default_file()
    try:
        write_token(file, args.name or f"{_user()}@{socket.gethostname()}")
    except BadTokenFile as error:
        return fail(error)
    print(file)
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # An account without a name.
        return "somebody"


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no name")
    return text.strip()
