"""``whimbrel get``: downloads over HTTP/3, and tells which network carries them.

Decides where things are saved, what counts as success, and what to say; `whimbrel.http` fetches, `_sink` writes,
`_progress` draws.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import socket
import warnings
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from whimbrel.cli import INTERRUPTED, fail
from whimbrel.cli._progress import Progress, progress, size
from whimbrel.cli._sink import CannotWrite, Sink, open_sink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import whimbrel
    from whimbrel.http import Client, ConnectOptions, Response, Url

MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Status(IntEnum):
    """Exit statuses: curl's numbers, which scripts know."""

    USAGE = 2
    MALFORMED_URL = 3
    UNKNOWN_HOST = 6
    CANNOT_CONNECT = 7
    HTTP_ERROR = 22
    CANNOT_WRITE = 23
    TIMEOUT = 28
    HANDSHAKE = 35
    TOO_MANY_REDIRECTS = 47
    INCOMPLETE = 56
    CERTIFICATE = 60
    CA_FILE = 77


EPILOG = f"""exit status: 0 when all was saved; else that of the first failure, numbered as curl's:
{Status.USAGE} usage, {Status.MALFORMED_URL} malformed URL, {Status.UNKNOWN_HOST} unknown host,
{Status.CANNOT_CONNECT} no connection, {Status.HTTP_ERROR} HTTP status not 2xx, {Status.CANNOT_WRITE} cannot write,
{Status.TIMEOUT} no answer in time, {Status.HANDSHAKE} handshake failed or no HTTP/3,
{Status.TOO_MANY_REDIRECTS} too many redirects, {Status.INCOMPLETE} ended half-way,
{Status.CERTIFICATE} certificate not accepted, {Status.CA_FILE} CA file unusable, {INTERRUPTED} interrupted.
What came of a download that ended half-way is kept in NAME.part."""


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
    parser.add_argument("--cafile", metavar="FILE", help="trust the certificates in FILE instead of the system's")
    parser.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    parser.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="S", help="seconds to wait for a connection (default: 10)"
    )
    parser.add_argument("--keepalive", type=_seconds, metavar="S", help="send a PING after S seconds of silence")
    parser.add_argument(
        "--sockets",
        choices=("pinned", "unconnected", "connected"),
        default="pinned",
        help="how packets find their network: each pinned to one that was probed (default), "
        "routed by the kernel one by one, or by a connected socket for each network",
    )
    parser.add_argument(
        "--auto",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="watch the network and move by itself (default); --no-auto leaves all to the kernel or to nobody",
    )


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


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


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


class _Failure(Exception):
    """A download that did not come about: a sentence and an exit status."""

    def __init__(self, sentence: str, status: Status) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass
class _Outcome:
    """What ``--json`` says of one URL."""

    url: str
    file: str | None = None
    status: int | None = None
    bytes: int = 0
    seconds: float = 0.0
    sha256: str | None = None
    interfaces: list[str] = field(default_factory=list)
    """Those that carried it, in order of their first use."""
    moves: list[dict[str, object]] = field(default_factory=list)
    events: list[dict[str, object]] = field(default_factory=list)
    """What else happened to the path."""
    error: str | None = None
    exit_status: int = 0

    def used(self, interface: str | None) -> None:
        if interface is not None and interface not in self.interfaces:
            self.interfaces.append(interface)


class _Session:
    """The downloads of one command: one after the other, those of one server over one connection."""

    def __init__(self, args: argparse.Namespace, show: Progress) -> None:
        self.kept = ""
        """What became of a download that was interrupted."""
        self._args = args
        self._show = show
        self._clients: dict[tuple[str, int], Client] = {}
        self._watching: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._outcome: _Outcome | None = None
        self._began = 0.0

    async def fetch_all(self, downloads: list[tuple[str, Url, Path | None]]) -> int:
        exit_status = 0
        try:
            for text, url, target in downloads:
                status = await self._fetch_reported(text, url, target)
                exit_status = exit_status or status
        finally:
            for origin in list(self._clients):
                await self._disconnect(origin)
        return exit_status

    async def _fetch_reported(self, text: str, url: Url, target: Path | None) -> int:
        loop = asyncio.get_running_loop()
        outcome = self._outcome = _Outcome(text)
        self._began = loop.time()
        try:
            await self._fetch(url, target, outcome)
        except _Failure as failure:
            outcome.error, outcome.exit_status = str(failure), failure.status
            self._show.close()
            fail(failure)
        outcome.seconds = round(loop.time() - self._began, 6)
        if self._args.json:
            print(json.dumps(vars(outcome)), flush=True)
        return outcome.exit_status

    async def _fetch(self, url: Url, target: Path | None, outcome: _Outcome) -> None:
        for _ in range(MAX_REDIRECTS + 1):
            client, response = await self._request(url)
            async with response:
                outcome.status = response.status
                location = response.headers.get("location")
                if response.status in REDIRECTS and location is not None:
                    url = self._redirected(url, location)
                    continue
                if not 200 <= response.status <= 299:
                    raise _Failure(f"{url}: the server answered {_status_text(response.status)}", Status.HTTP_ERROR)
                await self._save(url, client, response, target, outcome)
                return
        raise _Failure(f"{outcome.url}: redirected more than {MAX_REDIRECTS} times", Status.TOO_MANY_REDIRECTS)

    def _redirected(self, url: Url, location: str) -> Url:
        from whimbrel.http import InvalidUrl

        try:
            return url.join(location)
        except InvalidUrl as error:
            raise _Failure(f"{url} redirects to where HTTP/3 cannot follow: {error}", Status.MALFORMED_URL) from error

    async def _request(self, url: Url) -> tuple[Client, Response]:
        from whimbrel import WhimbrelError, __version__

        headers = {"accept": "*/*", "user-agent": f"whimbrel/{__version__}"}
        while True:
            used_before = url.origin in self._clients
            client = self._clients.get(url.origin) or await self._connect(url)
            try:
                return client, await client.request("GET", url.target, headers=headers)
            except WhimbrelError as error:
                await self._disconnect(url.origin)
                # The server may have ended a connection that was idle; a GET may be sent again (RFC 9110 §9.2.2).
                if not used_before:
                    raise _broken(url, error) from error

    async def _connect(self, url: Url) -> Client:
        from whimbrel import ConnectFailed, InsecureWarning, WhimbrelError, http

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureWarning)  # Said on the command line, and meant.
            try:
                client = await http.connect(url.host, url.port, **self._options())
            except ConnectFailed as error:
                raise _Failure(f"{url}: {_connect_problem(error)}", _connect_status(error)) from error
            except WhimbrelError as error:
                raise _broken(url, error) from error
            except (OSError, ValueError) as error:
                # A name for a CA file that is none; the message says so.
                raise _Failure(str(error), Status.CA_FILE) from error
        self._clients[url.origin] = client
        self._watching[url.origin] = asyncio.create_task(self._watch(client.connection))
        return client

    def _options(self) -> ConnectOptions:
        from whimbrel import Migration

        args = self._args
        return {
            "verify": False if args.insecure else args.cafile or True,
            "timeout": args.timeout,
            "keepalive": args.keepalive,
            "migration": Migration(sockets=args.sockets, auto=args.auto),
        }

    async def _disconnect(self, origin: tuple[str, int]) -> None:
        watching = self._watching.pop(origin)
        await self._clients.pop(origin).close(linger=0.0)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    async def _save(self, url: Url, client: Client, response: Response, target: Path | None, outcome: _Outcome) -> None:
        from whimbrel import WhimbrelError

        try:
            sink = open_sink(target)
        except CannotWrite as error:
            raise _Failure(str(error), Status.CANNOT_WRITE) from error
        outcome.file = None if target is None else sink.name
        try:
            async with self._progressing(client.connection, response, sink, outcome):
                await _copy(response, sink, outcome, hashed=self._args.json)
            sink.commit()
        except WhimbrelError as error:
            raise _broken(url, error, _how_far(outcome, response), sink.abandon()) from error
        except CannotWrite as error:
            raise _Failure("; ".join(filter(None, [str(error), sink.abandon()])), Status.CANNOT_WRITE) from error
        except BaseException:
            self.kept = sink.abandon()
            raise
        seconds = asyncio.get_running_loop().time() - self._began
        over = f" over {', '.join(outcome.interfaces)}" if outcome.interfaces else ""
        moves = {0: "", 1: ", 1 move"}.get(len(outcome.moves), f", {len(outcome.moves)} moves")
        rate = f"{size(outcome.bytes / seconds)}/s" if seconds else "at once"
        self._show.done(f"{sink.name}: {size(outcome.bytes)} in {seconds:.2f} s ({rate}){over}{moves}")

    @contextlib.asynccontextmanager
    async def _progressing(
        self, connection: whimbrel.Connection, response: Response, sink: Sink, outcome: _Outcome
    ) -> AsyncIterator[None]:
        """Shows how it goes while the block runs."""
        self._show.start(sink.name, _length(response))
        outcome.used(_interface(connection))
        ticking = asyncio.create_task(self._tick(connection, outcome))
        try:
            yield
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
            outcome.used(_interface(connection))

    async def _tick(self, connection: whimbrel.Connection, outcome: _Outcome) -> None:
        loop = asyncio.get_running_loop()
        # The rate is that of the last second, or of the last interval where that is longer.
        samples = deque([(loop.time(), 0)], maxlen=max(2, round(1 / self._show.interval)))
        while True:
            await asyncio.sleep(self._show.interval)
            now, before = loop.time(), samples[0]
            samples.append((now, outcome.bytes))
            interface = _interface(connection)
            outcome.used(interface)
            self._show.update(outcome.bytes, (outcome.bytes - before[1]) / (now - before[0]), interface)

    async def _watch(self, connection: whimbrel.Connection) -> None:
        """Notes what happens to a connection's path in the outcome of whichever download runs."""
        from whimbrel import PathMigrated

        async for change in connection.path_changes():
            outcome = self._outcome
            assert outcome is not None, "connections are made for downloads"
            at = round(asyncio.get_running_loop().time() - self._began, 6)
            match change:
                case PathMigrated(old=old, new=new):
                    outcome.used(old.interface)
                    outcome.used(new.interface)
                    outcome.moves.append(
                        {
                            "at": at,
                            "from": old.interface,
                            "to": new.interface,
                            "old_address": list(old.local),
                            "new_address": list(new.local),
                            "reason": change.reason,
                            "silence_ms": round(change.silence * 1000, 3) if math.isfinite(change.silence) else None,
                            "linkable": change.linkable,
                        }
                    )
                    self._show.note(f"moved from {old.interface} to {new.interface}: {change.reason}")
                case _:
                    facts = {name: getattr(change, name) for name in type(change).__dataclass_fields__}
                    outcome.events.append({"at": at, "event": type(change).__name__, **facts})


async def _copy(response: Response, sink: Sink, outcome: _Outcome, *, hashed: bool) -> None:
    digest = hashlib.sha256()
    async for chunk in response:
        await sink.write(chunk)
        outcome.bytes += len(chunk)
        if hashed:
            digest.update(chunk)
    if hashed:
        outcome.sha256 = digest.hexdigest()


def _length(response: Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _how_far(outcome: _Outcome, response: Response) -> str:
    total = _length(response)
    return f"after {outcome.bytes} bytes" if total is None else f"after {outcome.bytes} of {total} bytes"


def _interface(connection: whimbrel.Connection) -> str | None:
    """The network that carries the connection: where the kernel chooses, its choice now."""
    from whimbrel.network import route_to

    path = connection.path
    if path.interface is not None:
        return path.interface
    route = route_to(path.remote[0])
    return None if route is None else route.interface


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _broken(url: Url, error: whimbrel.WhimbrelError, *details: str) -> _Failure:
    """A connection or a stream that ended before its download did."""
    from whimbrel import ConnectionClosed
    from whimbrel.http import ErrorCode

    what = error.message
    if isinstance(error, ConnectionClosed) and error.is_application and error.by_peer:
        name = f"H3 error 0x{error.code:x}"
        with contextlib.suppress(ValueError):
            name = ErrorCode(error.code).name
        what = f"the server closed the connection ({name}{f', {error.reason}' if error.reason else ''})"
    details = tuple(filter(None, details))
    where = f" {details[0]}" if details else ""
    return _Failure("; ".join([f"{url}: {what}{where}", *details[1:]]), Status.INCOMPLETE)


def _connect_problem(error: whimbrel.ConnectFailed) -> str:
    from whimbrel import AlpnMismatch, CertificateError

    match error:
        case CertificateError():
            return f"{error.message}; --cafile names another authority to trust, --insecure trusts anybody"
        case AlpnMismatch():
            return "the server speaks QUIC, but no HTTP/3"
        case _:
            return "; ".join(filter(None, [error.message, error.advice]))


def _connect_status(error: whimbrel.ConnectFailed) -> Status:
    from whimbrel import CertificateError, ConnectTimeout, HandshakeFailed

    match error:
        case ConnectTimeout():
            return Status.TIMEOUT
        case CertificateError():
            return Status.CERTIFICATE
        case HandshakeFailed():
            return Status.HANDSHAKE
        case _ if isinstance(error.__cause__, socket.gaierror | UnicodeError):
            return Status.UNKNOWN_HOST
        case _:
            return Status.CANNOT_CONNECT
