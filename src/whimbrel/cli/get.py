"""``whimbrel get``: downloads over HTTP/3, and tells which network carries them.

Decides where things are saved, what counts as success, and what to say; `whimbrel.http` fetches, `_sink` writes,
`_progress` draws, `_transfers` connects.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from whimbrel.cli import INTERRUPTED, fail
from whimbrel.cli._digest import sha256_in
from whimbrel.cli._disk import in_thread
from whimbrel.cli._progress import Progress, progress, size
from whimbrel.cli._sink import CannotWrite, Sink, Version, kept, open_sink
from whimbrel.cli._transfers import Connections, Failure, Outcome, Status, add_connection_arguments, broken, status_text

if TYPE_CHECKING:
    from whimbrel.http import Response, Url

MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})


EPILOG = f"""exit status: 0 when all was saved; else that of the first failure, numbered as curl's:
{Status.USAGE} usage, {Status.MALFORMED_URL} malformed URL, {Status.UNKNOWN_HOST} unknown host,
{Status.CANNOT_CONNECT} no connection, {Status.HTTP_ERROR} HTTP status not 2xx, {Status.CANNOT_WRITE} cannot write,
{Status.TIMEOUT} no answer in time, {Status.HANDSHAKE} handshake failed or no HTTP/3,
{Status.TOO_MANY_REDIRECTS} too many redirects, {Status.INCOMPLETE} ended half-way,
{Status.CERTIFICATE} certificate not accepted, {Status.CA_FILE} CA file unusable, {INTERRUPTED} interrupted.
What came of a download that ended half-way is kept in NAME.part, and the same command goes on from there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("urls", nargs="+", metavar="URL", help="an https:// address; several are fetched in turn")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="save as FILE, into the directory FILE, or - for standard output"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="one JSON object a URL on standard output")
    add_connection_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Fetch the URLs. Returns the exit status."""
    from whimbrel.http import InvalidUrl, Url

    if args.json and args.output == "-":
        return fail("--json and -o - both want standard output", Status.USAGE)
    try:
        urls = [Url.parse(text) for text in args.urls]
    except InvalidUrl as error:
        return fail(error, Status.MALFORMED_URL)
    try:
        targets = _targets(urls, args.output)
    except ValueError as error:
        return fail(error, Status.USAGE)
    show = progress(quiet=args.quiet)
    session = _Session(args, show)
    try:
        return asyncio.run(session.fetch_all(list(zip(args.urls, urls, targets, strict=True))))
    except KeyboardInterrupt:
        return fail("; ".join(["interrupted", *filter(None, [session.kept])]), INTERRUPTED)
    finally:
        show.close()


def _targets(urls: list[Url], output: str | None) -> list[Path | None]:
    """Where each URL goes; None: standard output. Raises ValueError where two would share a file."""
    if output == "-":
        return [None] * len(urls)
    folder = Path() if output is None else Path(output)
    if output is not None and not folder.is_dir():
        if len(urls) > 1:
            raise ValueError(f"{output} is no directory, and cannot take {len(urls)} downloads")
        return [folder]
    targets = [folder / _remote_name(url) for url in urls]
    for target in targets:
        if targets.count(target) > 1:
            raise ValueError(f"two of these URLs would be saved as {target}: fetch them one by one with -o")
    return list(targets)


def _remote_name(url: Url) -> str:
    """The last part of the path; never one that leads elsewhere."""
    name = unquote(url.target.partition("?")[0].rpartition("/")[2])
    name = "".join("_" if char == "/" or not char.isprintable() else char for char in name)
    return "index.html" if name in ("", ".", "..") else name


class _Session:
    """The downloads of one command: one after the other, those of one server over one connection."""

    def __init__(self, args: argparse.Namespace, show: Progress) -> None:
        self.kept = ""
        """What became of a download that was interrupted."""
        self._show = show
        self._connections = Connections(args, show)

    async def fetch_all(self, downloads: list[tuple[str, Url, Path | None]]) -> int:
        exit_status = 0
        try:
            for text, url, target in downloads:
                outcome = Outcome(text)
                status = await self._connections.run(outcome, self._fetch(url, target, outcome))
                exit_status = exit_status or status
        finally:
            await self._connections.close()
        return exit_status

    async def _fetch(self, url: Url, target: Path | None, outcome: Outcome) -> None:
        fresh = False
        for _ in range(MAX_REDIRECTS + 1):
            before = None if fresh else kept(target, str(url))
            response = await self._request(url, before)
            async with response:
                outcome.status = response.status
                if response.status == 416 and before is not None:
                    fresh = True  # What is kept is no part of what is there now.
                    continue
                location = response.headers.get("location")
                if response.status in REDIRECTS and location is not None:
                    url = self._redirected(url, location)
                    continue
                if not 200 <= response.status <= 299:
                    raise Failure(f"{url}: the server answered {status_text(response.status)}", Status.HTTP_ERROR)
                await self._save(url, response, target, outcome, before)
                return
        raise Failure(f"{outcome.url}: redirected more than {MAX_REDIRECTS} times", Status.TOO_MANY_REDIRECTS)

    def _redirected(self, url: Url, location: str) -> Url:
        from whimbrel.http import InvalidUrl

        try:
            return url.join(location)
        except InvalidUrl as error:
            raise Failure(f"{url} redirects to where HTTP/3 cannot follow: {error}", Status.MALFORMED_URL) from error

    async def _request(self, url: Url, before: tuple[int, Version] | None) -> Response:
        from whimbrel import WhimbrelError, __version__

        headers = {"accept": "*/*", "user-agent": f"whimbrel/{__version__}", "want-repr-digest": "sha-256=1"}
        if before is not None:
            # RFC 9110 §13.1.5: the rest where it is still the same, else all of what it is now.
            headers |= {"range": f"bytes={before[0]}-", "if-range": before[1].etag}
        while True:
            used_before = url in self._connections
            client = await self._connections.to(url)
            try:
                return await client.request("GET", url.target, headers=headers)
            except WhimbrelError as error:
                await self._connections.drop(url, client)
                # The server may have ended a connection that was idle; a GET may be sent again (RFC 9110 §9.2.2).
                if not used_before:
                    raise broken(url, error) from error

    async def _save(
        self, url: Url, response: Response, target: Path | None, outcome: Outcome, before: tuple[int, Version] | None
    ) -> None:
        from whimbrel import WhimbrelError

        start = outcome.resumed_at = _start(url, response, before)
        try:
            sink = open_sink(target, _version(url, response), start=start)
        except CannotWrite as error:
            raise Failure(str(error), Status.CANNOT_WRITE) from error
        outcome.file = None if target is None else sink.name
        try:
            length = _length(response)
            total = None if length is None else start + length
            async with self._connections.progressing(url, sink.name, total, outcome):
                await _copy(response, sink, outcome)
                _check_digest(url, response, sink, outcome)
                modified = _modified(response)
                await in_thread(lambda: sink.commit(modified))
        except WhimbrelError as error:
            raise broken(url, error, _how_far(outcome, response), sink.abandon()) from error
        except CannotWrite as error:
            raise Failure("; ".join(filter(None, [str(error), sink.abandon()])), Status.CANNOT_WRITE) from error
        except BaseException:
            self.kept = sink.abandon()
            raise
        seconds = self._connections.elapsed(outcome)
        rate = f"{size(outcome.bytes / seconds)}/s" if seconds else "at once"
        went_on = f", from byte {start} on" if start else ""
        self._show.done(f"{sink.name}: {size(outcome.bytes)} in {seconds:.2f} s ({rate}){outcome.over()}{went_on}")


async def _copy(response: Response, sink: Sink, outcome: Outcome) -> None:
    digest = await sink.digest()
    async for chunk in response:
        await sink.write(chunk)
        outcome.bytes += len(chunk)
        digest.update(chunk)
    outcome.sha256 = digest.hexdigest()


def _check_digest(url: Url, response: Response, sink: Sink, outcome: Outcome) -> None:
    """Compare what came with what the server says that it has, if it does (RFC 9530 §3)."""
    wanted = None
    with contextlib.suppress(ValueError):
        wanted = sha256_in(response.headers.get("repr-digest") or response.trailers.get("repr-digest", ""))
    if wanted is not None and wanted.hex() != outcome.sha256:
        sink.discard()
        raise Failure(f"{url}: what came is not what the server has", Status.INCOMPLETE)


def _start(url: Url, response: Response, before: tuple[int, Version] | None) -> int:
    """The first byte that comes."""
    if response.status != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    etag = response.headers.get("etag")
    if before is None or match is None or int(match[1]) != before[0] or etag not in (None, before[1].etag):
        raise Failure(f"{url}: the server sends a part that nobody asked for", Status.INCOMPLETE)
    return before[0]


def _version(url: Url, response: Response) -> Version | None:
    etag = response.headers.get("etag", "")
    return Version(str(url), etag) if etag.startswith('"') else None


def _modified(response: Response) -> float | None:
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        return parsedate_to_datetime(response.headers.get("last-modified", "")).timestamp()
    return None


def _length(response: Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _how_far(outcome: Outcome, response: Response) -> str:
    length, came = _length(response), outcome.resumed_at + outcome.bytes
    return f"after {came} bytes" if length is None else f"after {came} of {outcome.resumed_at + length} bytes"
