"""``whimbrel put``: uploads over HTTP/3, and tells which network carries them.

Decides what is sent where, what counts as success, and what to say; `whimbrel.http` sends, `_transfers` connects.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from whimbrel.cli import INTERRUPTED, fail
from whimbrel.cli._digest import sha256_in
from whimbrel.cli._progress import Progress, progress, size
from whimbrel.cli._transfers import Connections, Failure, Outcome, Status, add_connection_arguments, broken, status_text
from whimbrel.cli._waiting import readable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import BinaryIO

    from whimbrel.http import FilePart, Response, Url

PIECE = 256 << 10
"""Bytes read from a pipe at once."""
MAX_SENTENCE = 300
"""Characters of a server's explanation that are shown."""

EPILOG = f"""exit status: 0 when the server stored all; else that of the first failure, numbered as curl's:
{Status.USAGE} usage, {Status.MALFORMED_URL} malformed URL, {Status.UNKNOWN_HOST} unknown host,
{Status.CANNOT_CONNECT} no connection, {Status.HTTP_ERROR} the server refused, {Status.CANNOT_READ} cannot read,
{Status.TIMEOUT} no answer in time, {Status.HANDSHAKE} handshake failed or no HTTP/3,
{Status.INCOMPLETE} ended half-way or stored something else, {Status.CERTIFICATE} certificate not accepted,
{Status.CA_FILE} CA file unusable, {INTERRUPTED} interrupted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("files", nargs="+", metavar="FILE", help="what to send; - is standard input")
    parser.add_argument("url", metavar="URL", help="where to; with a slash at its end, files keep their names")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="one JSON object a file on standard output")
    add_connection_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Send the files. Returns the exit status."""
    from whimbrel.http import InvalidUrl, Url

    try:
        url = Url.parse(args.url)
        uploads = [(file, target_of(url, file, alone=len(args.files) == 1)) for file in args.files]
    except InvalidUrl as error:
        return fail(error, Status.MALFORMED_URL)
    except ValueError as error:
        return fail(error, Status.USAGE)
    show = progress(quiet=args.quiet)
    try:
        return asyncio.run(_Session(args, show).send_all(uploads))
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    finally:
        show.close()


def target_of(url: Url, file: str, *, alone: bool) -> Url:
    """Where a file goes.

    Raises:
        ValueError: the URL names no file, and this one has no name to give it.
    """
    from whimbrel.http import Url

    if not url.target.endswith("/"):
        if not alone:
            raise ValueError(f"{url} cannot take several files: it does not end in a slash")
        return url
    name = Path(file).name
    if file == "-" or name in ("", ".."):
        raise ValueError(f"{url} ends in a slash, and {file} has no name to put there")
    return Url(url.host, url.port, url.target + quote(os.fsencode(name), safe=""))


class _Session:
    """The uploads of one command: one after the other, over one connection."""

    def __init__(self, args: argparse.Namespace, show: Progress) -> None:
        self._show = show
        self._connections = Connections(args, show)

    async def send_all(self, uploads: list[tuple[str, Url]]) -> int:
        exit_status = 0
        try:
            for file, url in uploads:
                outcome = Outcome(str(url), file=file)
                status = await self._connections.run(outcome, self._send(file, url, outcome))
                exit_status = exit_status or status
        finally:
            await self._connections.close()
        return exit_status

    async def _send(self, file: str, url: Url, outcome: Outcome) -> None:
        from whimbrel import WhimbrelError
        from whimbrel.http._files import whole_file

        with _open(file) as source:
            part = whole_file(source)
            length = None if part is None else part.length
            client = await self._connections.to(url)
            body = _Body(source.fileno(), part, file, outcome)
            try:
                async with self._connections.progressing(client, file, length, outcome):
                    response = await client.request("PUT", url.target, headers=_headers(length), body=body)
                    async with response:
                        await self._check(url, response, body, outcome)
            except WhimbrelError as error:
                await self._connections.drop(url)
                raise broken(url, error, f"after {outcome.bytes} bytes") from error
        seconds = self._connections.elapsed()
        self._show.done(
            f"{file}: {size(outcome.bytes)} in {seconds:.2f} s ({size(outcome.bytes / seconds)}/s){outcome.over()}"
        )

    async def _check(self, url: Url, response: Response, body: _Body, outcome: Outcome) -> None:
        outcome.status = response.status
        if not 200 <= response.status <= 299:
            said = " ".join((await response.read()).decode("utf-8", "replace").split())[:MAX_SENTENCE]
            text = f"{url}: the server answered {status_text(response.status)}{f' ({said})' if said else ''}"
            raise Failure(text, Status.HTTP_ERROR)
        await response.read()
        outcome.sha256 = body.digest.hexdigest()
        if not body.is_whole:
            raise Failure(f"{url}: the server answered {response.status} before it had all", Status.INCOMPLETE)
        stored = _digest(response)
        if stored is not None and stored != body.digest.digest():
            raise Failure(f"{url}: the server stored something else than was sent", Status.INCOMPLETE)


class _Body:
    """The content of a file, piece by piece, counted and hashed on its way.

    Args:
        descriptor: open for reading.
        part: what is sent, where the whole is known; what a file grows by meanwhile is not sent.
        name: for messages.
        outcome: counts.
    """

    def __init__(self, descriptor: int, part: FilePart | None, name: str, outcome: Outcome) -> None:
        self.digest = hashlib.sha256()
        self.is_whole = False
        self._descriptor = descriptor
        self._part = part
        self._name = name
        self._outcome = outcome

    async def __aiter__(self) -> AsyncIterator[bytes]:
        from whimbrel.http._files import file_pieces

        part = self._part
        try:
            async for piece in _arriving(self._descriptor) if part is None else file_pieces(part):
                self.digest.update(piece)
                yield piece
                self._outcome.bytes += len(piece)
        except OSError as error:
            raise _cannot_read(self._name, error) from error
        if part is not None and self._outcome.bytes < part.length:
            raise Failure(f"{self._name} was cut short while it was sent", Status.CANNOT_READ)
        self.is_whole = True


async def _arriving(descriptor: int) -> AsyncIterator[bytes]:
    """What comes through a pipe or from a terminal, to its end."""
    while True:
        with contextlib.suppress(PermissionError):
            await readable(descriptor)
        piece = os.read(descriptor, PIECE)
        if not piece:
            return
        yield piece


def _open(file: str) -> BinaryIO:
    if file == "-":
        if sys.stdin is None:
            raise _cannot_read(file, OSError(errno.EBADF, os.strerror(errno.EBADF)))
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    try:
        return Path(file).open("rb", buffering=0)
    except OSError as error:
        raise _cannot_read(file, error) from error


def _cannot_read(file: str, error: OSError) -> Failure:
    return Failure(f"cannot read {file}: {error.strerror}", Status.CANNOT_READ)


def _headers(length: int | None) -> dict[str, str]:
    from whimbrel import __version__

    headers = {"user-agent": f"whimbrel/{__version__}"}
    if length is not None:
        headers["content-length"] = str(length)
    return headers


def _digest(response: Response) -> bytes | None:
    """The SHA-256 of what the server stored, if it tells (RFC 9530 §3)."""
    with contextlib.suppress(ValueError):
        return sha256_in(response.headers.get("repr-digest", ""))
    return None
