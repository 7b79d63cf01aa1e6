"""What `whimbrel get` and `whimbrel put` share: connecting, exit statuses, and telling what happens on the way."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import socket
import warnings
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    import whimbrel
    from whimbrel.cli._progress import Progress
    from whimbrel.http import Client, ConnectOptions, Url

PAUSE: Final = 0.25
"""Seconds until a server that refuses newcomers is asked again."""


class Status(IntEnum):
    """Exit statuses: curl's numbers, which scripts know."""

    USAGE = 2
    MALFORMED_URL = 3
    UNKNOWN_HOST = 6
    CANNOT_CONNECT = 7
    HTTP_ERROR = 22
    CANNOT_WRITE = 23
    CANNOT_READ = 26
    TIMEOUT = 28
    HANDSHAKE = 35
    TOO_MANY_REDIRECTS = 47
    INCOMPLETE = 56
    CERTIFICATE = 60
    CA_FILE = 77


class Failure(Exception):
    """A transfer that did not come about: a sentence and an exit status."""

    def __init__(self, sentence: str, status: Status) -> None:
        super().__init__(sentence)
        self.status = status


class NoConnection(Failure):
    """There is no way to the server: other transfers to it would fail, too."""


class Broken(Failure):
    """The connection ended, or the server takes no more requests on it: another one may do."""


@dataclass
class Outcome:
    """What ``--json`` says of one transfer."""

    url: str
    file: str | None = None
    status: int | None = None
    bytes: int = 0
    """Of content, carried by this command."""
    resumed_at: int = 0
    """Bytes that were there from an attempt before."""
    unchanged: bool = False
    """Whether all of it was there already."""
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

    def over(self) -> str:
        """Which networks carried it, and how often it moved, for a person's line."""
        over = f" over {', '.join(self.interfaces)}" if self.interfaces else ""
        return over + {0: "", 1: ", 1 move"}.get(len(self.moves), f", {len(self.moves)} moves")


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say how to connect."""
    parser.add_argument("--cafile", metavar="FILE", help="trust the certificates in FILE instead of the system's")
    parser.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    parser.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="S", help="seconds to wait for a connection (default: 10)"
    )
    parser.add_argument("--keepalive", type=seconds, metavar="S", help="send a PING after S seconds of silence")
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


class Connections:
    """The connections of one command, one for each server, and what happened on them."""

    def __init__(self, args: argparse.Namespace, show: Progress) -> None:
        self._began: dict[int, tuple[Outcome, float]] = {}  # The transfers that run now, and since when.
        self._args = args
        self._show = show
        self._clients: dict[tuple[str, int], Client] = {}
        self._watching: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._dialling = asyncio.Lock()
        self._reached: set[tuple[str, int]] = set()

    def __contains__(self, url: Url) -> bool:
        return url.origin in self._clients

    async def run(self, outcome: Outcome, transfer: Awaitable[None]) -> int:
        """Do one transfer, and tell what came of it: what happens meanwhile is its affair. Returns its exit status."""
        with self.during(outcome):
            try:
                await transfer
            except Failure as failure:
                outcome.error, outcome.exit_status = str(failure), failure.status
                self._show.complain(failure)
            outcome.seconds = round(self.elapsed(outcome), 6)
        if self._args.json:
            print(json.dumps(vars(outcome)), flush=True)
        return outcome.exit_status

    @contextlib.contextmanager
    def during(self, outcome: Outcome) -> Iterator[None]:
        """What happens to paths during the block is noted in the outcome."""
        self._began[id(outcome)] = outcome, asyncio.get_running_loop().time()
        try:
            yield
        finally:
            del self._began[id(outcome)]

    def elapsed(self, outcome: Outcome) -> float:
        """Seconds since the transfer began."""
        return asyncio.get_running_loop().time() - self._began[id(outcome)][1]

    async def to(self, url: Url) -> Client:
        """The connection to a server, made if there is none.

        One that was reached before and refuses newcomers now (RFC 9000 §20.1: CONNECTION_REFUSED) is about to end, and
        another may take its place: it is asked again until the time to connect is over.

        Raises:
            Failure: it cannot be made.
        """
        loop = asyncio.get_running_loop()
        async with self._dialling:
            end = loop.time() + (self._args.timeout if url.origin in self._reached else 0.0)
            while True:
                try:
                    return self._clients.get(url.origin) or await self._connect(url)
                except NoConnection as failure:
                    if failure.status is not Status.CANNOT_CONNECT or loop.time() + PAUSE > end:
                        raise
                await asyncio.sleep(PAUSE)

    async def drop(self, url: Url, client: Client) -> None:
        """Close a connection to a server, unless there is another one already."""
        if self._clients.get(url.origin) is client:
            await self._disconnect(url.origin)

    async def close(self) -> None:
        """Close them all."""
        for origin in list(self._clients):
            await self._disconnect(origin)

    @contextlib.asynccontextmanager
    async def progressing(self, url: Url, name: str, total: int | None, outcome: Outcome) -> AsyncIterator[None]:
        """Shows how a transfer, or many together, goes while the block runs."""
        self._show.start(name, total)
        self._used(url.origin)
        ticking = asyncio.create_task(self._tick(url.origin, outcome))
        try:
            yield
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
            self._used(url.origin)

    async def _connect(self, url: Url) -> Client:
        from whimbrel import ConnectFailed, InsecureWarning, WhimbrelError, http

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureWarning)  # Said on the command line, and meant.
            try:
                client = await http.connect(url.host, url.port, **self._options())
            except ConnectFailed as error:
                raise NoConnection(f"{url}: {_connect_problem(error)}", _connect_status(error)) from error
            except WhimbrelError as error:
                raise broken(url, error) from error
            except (OSError, ValueError) as error:
                # A name for a CA file that is none; the message says so.
                raise NoConnection(str(error), Status.CA_FILE) from error
        self._clients[url.origin] = client
        self._reached.add(url.origin)
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

    async def _tick(self, origin: tuple[str, int], outcome: Outcome) -> None:
        loop = asyncio.get_running_loop()
        # The rate is that of the last second, or of the last interval where that is longer.
        samples = deque([(loop.time(), outcome.bytes)], maxlen=max(2, round(1 / self._show.interval)))
        while True:
            await asyncio.sleep(self._show.interval)
            now, before = loop.time(), samples[0]
            samples.append((now, outcome.bytes))
            rate = (outcome.bytes - before[1]) / (now - before[0])
            self._show.update(outcome.bytes + outcome.resumed_at, rate, self._used(origin))

    def _used(self, origin: tuple[str, int]) -> str | None:
        """Which network carries the transfers now; they are told."""
        client = self._clients.get(origin)
        interface = None if client is None else carrier(client.connection)
        for outcome, _ in self._began.values():
            outcome.used(interface)
        return interface

    async def _watch(self, connection: whimbrel.Connection) -> None:
        """Notes what happens to a connection's path in the outcomes of the transfers that run."""
        from whimbrel import PathMigrated

        async for change in connection.path_changes():
            for outcome, _ in self._began.values():
                _note(outcome, change, round(self.elapsed(outcome), 6))
            if isinstance(change, PathMigrated):
                self._show.note(f"moved from {change.old.interface} to {change.new.interface}: {change.reason}")


def _note(outcome: Outcome, change: whimbrel.PathChange, at: float) -> None:
    from whimbrel import PathMigrated

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
        case _:
            facts = {name: getattr(change, name) for name in type(change).__dataclass_fields__}
            outcome.events.append({"at": at, "event": type(change).__name__, **facts})


def status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def broken(url: Url, error: whimbrel.WhimbrelError, *details: str) -> Failure:
    """A connection or a stream that ended before its transfer did."""
    from whimbrel import ConnectionClosed, ConnectionLost, ProtocolError, StreamReset
    from whimbrel.http import ErrorCode, RequestRejected

    what = error.message
    if isinstance(error, ConnectionClosed) and error.is_application and error.by_peer:
        name = f"H3 error 0x{error.code:x}"
        with contextlib.suppress(ValueError):
            name = ErrorCode(error.code).name
        what = f"the server closed the connection ({name}{f', {error.reason}' if error.reason else ''})"
    details = tuple(filter(None, details))
    where = f" {details[0]}" if details else ""
    # A server that ends lets go of its requests before it lets go of its connections.
    let_go = isinstance(error, StreamReset) and error.code == ErrorCode.H3_REQUEST_CANCELLED
    kind = Broken if let_go or isinstance(error, ConnectionLost | ProtocolError | RequestRejected) else Failure
    return kind("; ".join([f"{url}: {what}{where}", *details[1:]]), Status.INCOMPLETE)


def seconds(text: str) -> float:
    """What an option takes that is a time."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


def carrier(connection: whimbrel.Connection) -> str | None:
    """The network that carries the connection: where the kernel chooses, its choice now."""
    from whimbrel.network import route_to

    path = connection.path
    if path.interface is not None:
        return path.interface
    route = route_to(path.remote[0])
    return None if route is None else route.interface


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
