"""Connection: streams, datagrams, the path in use, and the end of it all.

A connection decides nothing about its path: that is the driver's part, which tells it what happened. It holds who waits
for what, and turns the core's news into wake-ups.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from whimbrel import _core
from whimbrel._errors import (
    ConnectionLost,
    DatagramTooLarge,
    Lost,
    MigrationDisabled,
    NoAnswer,
    address_text,
    is_clean,
    lost_error,
)
from whimbrel._events import PathChange, PathMigrated
from whimbrel._loop import Line, Pump
from whimbrel._path import Path
from whimbrel._stream import ReceiveStream, SendStream, Stream

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from typing_extensions import Buffer

logger = logging.getLogger("whimbrel")

# What one caller of `path_changes` may leave unread. A flapping network makes tens of changes a minute.
PATH_CHANGES = 64
# Of an object whose construction failed: nothing is to be cleaned.
_UNBORN: Lost = ("unborn", 0, "", False)


class Attachment(Protocol):
    """What the driver gives for a connection that it looks after."""

    def request_move(self, interface: str | None) -> concurrent.futures.Future[Path]:
        """Ask for a move; the future fails with a `MigrationError`."""

    def cancel_move(self) -> None:
        """Forget the move that was asked for."""

    def detach(self) -> None:
        """Look after the connection no more."""

    def path(self) -> Path:
        """The path in use."""


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """What one connection has done so far: plain numbers, taken at one moment."""

    bytes_sent: int
    """UDP payload, all paths together."""
    bytes_received: int
    datagrams_sent: int
    """UDP datagrams."""
    datagrams_received: int
    packets_sent: int
    packets_lost: int
    """Packets declared lost (RFC 9002 §6)."""
    rtt: float
    """Smoothed round-trip time of the active path, seconds."""
    min_rtt: float
    congestion_window: int
    """Bytes that may be in flight on the active path."""
    congestion_events: int
    mtu: int
    """Largest UDP payload sent, bytes."""
    moves: int
    """How often the path changed."""
    send_errors: int
    """Packets that the kernel refused to send."""
    path_changes_dropped: int
    """Events that no caller of `Connection.path_changes` fetched in time."""


class Connection:
    """One QUIC connection; made by `connect` or by a server. An async context manager: leaving it closes.

    Attributes:
        alpn: the application protocol agreed on.
        peer_certificate: the peer's certificate, DER; None where it showed none.
        is_client: whether this end opened it.
        peer: who is at the other end, as ``host:port``.
    """

    def __init__(
        self,
        pump: Pump,
        core: _core.Connection,
        *,
        is_client: bool,
        peer: str,
        interface: str | None,
        released: Callable[[], None],
    ) -> None:
        """Made by this package only.

        Args:
            pump: moves its packets.
            core: the engine's part.
            is_client: whether this end opened it.
            peer: for messages.
            interface: the one that packets leave by, where it is known.
            released: called once, when nothing more can come of it; must not refer to this object.
        """
        self.is_client = is_client
        self.peer = peer
        self.alpn = ""
        self.peer_certificate: bytes | None = None
        self._pump = pump
        self._loop = pump.loop
        self._core = core
        self._interface = interface
        self._released = released
        self._attachment: Attachment | None = None
        self._lost: Lost | None = None
        self._fatal: ConnectionLost | None = None  # what the driver ended it with
        self._closing = False
        self._readers: dict[int, asyncio.Future[None]] = {}
        self._writers: dict[int, asyncio.Future[None]] = {}
        self._finishing: set[int] = set()  # finished streams that are not acknowledged
        self._openers = (Line(self._loop), Line(self._loop))
        self._accepters = Line(self._loop)
        self._datagram_readers = Line(self._loop)
        self._dialling: asyncio.Future[None] | None = None
        self._lingering = Line(self._loop)
        self._waiting_closed = Line(self._loop)
        self._watchers: weakref.WeakSet[_PathChanges] = weakref.WeakSet()
        self._dropped_changes = 0
        self._since = pump.now()
        self._path = Path(("", 0), core.remote_address(), interface, False, 0.0, 0, self._since)
        pump.add(core.number, self)

    # The path ---------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The path in use, as it is now: a value that does not change under you."""
        if self._lost is None:
            self._pump.check()
            self._path = self._attachment.path() if self._attachment is not None else self._core_path()
        return self._path

    def path_changes(self) -> AsyncIterator[PathChange]:
        """What happens to the path from now on. Each caller has its own; it ends with the connection.

        At most 64 events wait to be fetched; then the oldest is dropped, and counted in `ConnectionStats`.
        """
        self._pump.check()
        watcher = _PathChanges(self)
        self._watchers.add(watcher)
        return watcher

    async def migrate(self, *, interface: str | None = None, timeout: float | None = None) -> Path:
        """Move the connection to another network path and return that path.

        The server is asked over the new network first; until it answers, data keeps flowing on the old path. The move
        uses a connection ID never used elsewhere, so that an observer cannot link the two (RFC 9000 §9.5). A cancelled
        call stops asking, and the connection stays where it is.

        Args:
            interface: its name, such as ``"wlan0"``. By default, whichever the kernel prefers now.
            timeout: seconds; by default three probes at the best RTT known.

        Raises:
            MigrationDisabled: the server sent ``disable_active_migration`` (§18.2), or this connection was opened with
                ``migration=None``, or this is the server's end, which may not move (§9).
            NoRoute: no network leads to the peer over that interface.
            NoAnswer: nothing came back over the new network in time; the old path stays in use.
            ConnectionIdsExhausted: the server left us no spare connection ID.
            ConnectionLost: the connection ended.
        """
        self._pump.check()
        if self._lost is not None:
            raise self._error()
        attachment = self._attachment
        if attachment is None:
            raise MigrationDisabled(
                "migration=None keeps it on its path" if self.is_client else "only the client may move",
                peer=self.peer,
                path=self._path,
            )
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                self._path = await asyncio.wrap_future(attachment.request_move(interface), loop=self._loop)
        except asyncio.CancelledError:
            attachment.cancel_move()
            raise
        except TimeoutError:
            if not deadline.expired():
                raise
            attachment.cancel_move()
            raise NoAnswer(f"no answer within {timeout:g} s", peer=self.peer, path=self._path) from None
        return self._path

    def stats(self) -> ConnectionStats:
        """What the connection has done so far."""
        self._pump.check()
        now = self._core.stats()
        return ConnectionStats(
            bytes_sent=now.bytes_sent,
            bytes_received=now.bytes_received,
            datagrams_sent=now.datagrams_sent,
            datagrams_received=now.datagrams_received,
            packets_sent=now.packets_sent,
            packets_lost=now.packets_lost,
            rtt=now.rtt,
            min_rtt=now.min_rtt,
            congestion_window=now.congestion_window,
            congestion_events=now.congestion_events,
            mtu=now.mtu,
            moves=now.moves,
            send_errors=now.send_errors,
            path_changes_dropped=self._dropped_changes,
        )

    # Streams and datagrams --------------------------------------------------------------------------------------------

    async def open_stream(self) -> Stream:
        """Open a stream in both directions; wait while the peer's limit is reached (RFC 9000 §4.6).

        The peer learns of it with the first bytes.

        Raises:
            ConnectionLost: the connection ended.
        """
        return Stream(self, await self._open(0))

    async def open_send_stream(self) -> SendStream:
        """Open a stream in our direction only; wait while the peer's limit is reached.

        Raises:
            ConnectionLost: the connection ended.
        """
        return SendStream(self, await self._open(1))

    async def accept_stream(self) -> Stream | ReceiveStream:
        """Wait for a stream that the peer opens.

        Raises:
            ConnectionLost: the connection ended.
        """
        while True:
            self._pump.check()
            # What came before the peer closed is still ours to read; after our own close() nothing is.
            stream = self._accept() if self._lost is None or self._lost[0] != "local" else None
            if stream is not None:
                self._accepters.wake()
                return stream
            if self._lost is not None:
                raise self._error()
            await self._accepters.wait()

    def streams(self) -> AsyncIterator[Stream | ReceiveStream]:
        """The streams that the peer opens. Ends quietly when the connection ends cleanly.

        Raises:
            ConnectionLost: while iterating: the connection ended otherwise.
        """
        self._pump.check()
        return _Streams(self)

    @property
    def max_datagram_size(self) -> int:
        """The largest datagram that fits into a packet now, bytes; 0 when the peer takes none (RFC 9221)."""
        self._pump.check()
        return self._core.max_datagram_size() if self._lost is None else 0

    def send_datagram(self, data: Buffer) -> None:
        """Send an unreliable datagram (RFC 9221). When too many wait to be sent, the oldest is dropped.

        Raises:
            DatagramTooLarge: it is larger than `max_datagram_size`.
            ConnectionLost: the connection ended.
        """
        self._pump.check()
        if self._lost is not None:
            raise self._error()
        try:
            self._core.send_datagram(data)
        except ValueError:
            size, limit = memoryview(data).nbytes, self._core.max_datagram_size()
            text = f"a datagram of {size} bytes is larger than {limit}" if limit else "the peer takes no datagrams"
            raise DatagramTooLarge(text, peer=self.peer, path=self._path) from None

    async def receive_datagram(self) -> bytes:
        """Wait for a datagram of the peer's.

        Raises:
            ConnectionLost: the connection ended.
        """
        while True:
            self._pump.check()
            data = self._core.receive_datagram()
            if data is not None:
                self._datagram_readers.wake()
                return data
            if self._lost is not None:
                raise self._error()
            await self._datagram_readers.wait()

    # The end ----------------------------------------------------------------------------------------------------------

    async def close(self, code: int = 0, reason: str = "", *, linger: float = 3.0) -> None:
        """Close the connection (CONNECTION_CLOSE, RFC 9000 §10.2). May be called twice.

        Finished streams are first given time to be acknowledged. Cancelled meanwhile, it closes without waiting.

        Args:
            code: the reason, in the application's code space; 0: all is well.
            reason: a phrase for the peer's log.
            linger: seconds to wait for acknowledgements, at most.
        """
        self._pump.check()
        if self._lost is None and not self._closing:
            self._closing = True
            try:
                if self._finishing and linger > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(linger):
                            while self._finishing and self._lost is None:
                                await self._lingering.wait()
            finally:
                self._close_now(code, reason)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whoever ended it and why."""
        self._pump.check()
        while self._lost is None:
            await self._waiting_closed.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            # The peer must not take this for the good end of what we were doing.
            self._pump.check()
            self._close_now(1, "")

    def __repr__(self) -> str:
        state = "" if self._lost is None else ", closed"
        return f"<Connection {'to' if self.is_client else 'from'} {self.peer}{state}>"

    def __del__(self) -> None:
        lost = getattr(self, "_lost", _UNBORN)
        if lost is _UNBORN or self._pump.is_forked:
            return
        if lost is not None:
            # Only now: what had come was still to be read until the last reference went.
            self._pump.endpoint.forget(self._core.number)
            return
        warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
        self._core.close(0, b"")
        if self._attachment is not None:
            self._attachment.detach()
        for watcher in list(self._watchers):
            watcher.end_from_anywhere()
        self._released()
        self._pump.endpoint.forget(self._core.number)

    # News from below --------------------------------------------------------------------------------------------------

    def news(self, kind: int, value: int) -> None:
        """What the core says; called by the pump, on the loop."""
        if kind == _core.READABLE:
            self._wake_reader(value)
        elif kind == _core.WRITABLE:
            self._wake_writer(value)
        elif kind == _core.FINISHED:
            self._finishing.discard(value)
            self._check_lingering()
        elif kind == _core.STOPPED:
            self._wake_writer(value)
            self._finishing.discard(value)
            self._check_lingering()
        elif kind == _core.OPENED:
            self._accepters.wake()
        elif kind == _core.AVAILABLE:
            self._openers[value].wake()
        elif kind == _core.DATAGRAM:
            self._datagram_readers.wake()
        elif kind == _core.CONNECTED:
            self._connected()
        elif kind == _core.LOST:
            self._end(self._core.lost() or ("local", 0, "", False))
        elif kind == _core.MOVED:
            self._peer_moved()

    def report(self, event: PathChange | Exception) -> None:
        """What the driver says, on the loop: a change of the path, or what it ended the connection with."""
        if self._lost is not None:
            return
        if not isinstance(event, Exception):
            self._tell(event)
            return
        self._fatal = event if isinstance(event, ConnectionLost) else ConnectionLost(str(event), peer=self.peer)
        self._close_now(0, "")

    def farewell(self) -> None:
        """The interpreter ends."""
        if self._lost is None:
            self._lost = ("local", 0, "", False)
            self._core.close(0, b"")

    async def handshake(self) -> Lost | None:
        """Wait for the handshake; None when it is complete, else why it failed. For `connect` and `serve`."""
        while self._lost is None and not self._core.is_connected():
            self._dialling = self._loop.create_future()
            await self._dialling
        self._dialling = None
        return self._lost

    def _connected(self) -> None:
        self.alpn = (self._core.alpn() or b"").decode("ascii", "replace")
        self.peer_certificate = self._core.peer_certificate()
        self._since = self._pump.now()
        self._path = self._core_path()
        if self._dialling is not None and not self._dialling.done():
            self._dialling.set_result(None)

    def _attach(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def _peer_moved(self) -> None:
        old, self._since = self._path, self._pump.now()
        self._path = new = self._core_path()
        self.peer = address_text(new.remote)
        logger.info("%s moved to %s", address_text(old.remote), address_text(new.remote))
        self._tell(PathMigrated(old, new, "peer", 0.0))

    def _tell(self, event: PathChange) -> None:
        if isinstance(event, PathMigrated):
            self._path = event.new
        for watcher in list(self._watchers):
            self._dropped_changes += watcher.put(event)

    def _close_now(self, code: int, reason: str) -> None:
        if self._lost is None:
            self._core.close(code, reason.encode())
            self._end(("local", code, reason, False))

    def _end(self, lost: Lost) -> None:
        """It is over: wake all who wait, and give everything back."""
        if self._lost is not None:
            return
        with contextlib.suppress(RuntimeError):  # An engine that let go already: the path is as it was last seen.
            self._path = self.path
        self._lost = lost
        if self._attachment is not None:
            self._attachment.detach()
        for waiter in (*self._readers.values(), *self._writers.values(), self._dialling):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        for line in (
            *self._openers,
            self._accepters,
            self._datagram_readers,
            self._lingering,
            self._waiting_closed,
        ):
            line.wake_all()
        for watcher in list(self._watchers):
            watcher.end()
        self._released()

    # Small parts ------------------------------------------------------------------------------------------------------

    async def _open(self, kind: int) -> int:
        line = self._openers[kind]
        while True:
            self._pump.check()
            if self._lost is not None:
                raise self._error()
            stream = self._core.open_stream(kind == 1)
            if stream is not None:
                line.wake()
                return stream
            await line.wait()

    def _accept(self) -> Stream | ReceiveStream | None:
        stream = self._core.accept_stream(False)
        if stream is not None:
            return Stream(self, stream)
        stream = self._core.accept_stream(True)
        if stream is not None:
            return ReceiveStream(self, stream)
        return None

    def _core_path(self) -> Path:
        core = self._core
        stats = core.stats()
        return Path(
            local=core.local_address(),
            remote=core.remote_address(),
            interface=self._interface,
            validated=core.is_connected(),
            rtt=stats.rtt,
            mtu=stats.mtu,
            since=self._since,
        )

    def _wake_reader(self, stream: int) -> None:
        waiter = self._readers.get(stream)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake_writer(self, stream: int) -> None:
        waiter = self._writers.get(stream)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _check_lingering(self) -> None:
        if not self._finishing:
            self._lingering.wake_all()

    def _is_clean(self) -> bool:
        return self._lost is not None and self._fatal is None and is_clean(self._lost, self.alpn)

    def _error(self) -> ConnectionLost:
        """A new exception for each who asks, so that their tracebacks stay apart."""
        if self._fatal is not None:
            fatal = self._fatal
            if fatal.args:
                return type(fatal)(*fatal.args, peer=self.peer, path=self._path)
            return type(fatal)(peer=self.peer, path=self._path)
        assert self._lost is not None, "asked for the reason of an end that has not come"
        return lost_error(self._lost, peer=self.peer, path=self._path)


class _Streams:
    """Iteration over the peer's streams. A class, since a generator left half-way would need the loop to clean it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Stream | ReceiveStream:
        try:
            return await self._connection.accept_stream()
        except ConnectionLost:
            if self._connection._is_clean():
                raise StopAsyncIteration from None
            raise


class _PathChanges:
    """One caller's queue of path changes."""

    def __init__(self, connection: Connection) -> None:
        self._events: deque[PathChange] = deque(maxlen=PATH_CHANGES)
        self._loop = connection._loop
        self._line = Line(self._loop)
        # Events stay readable when the connection is gone, and waiting must not keep it alive.
        self._ended = connection._lost is not None

    def put(self, event: PathChange) -> int:
        """Add an event; returns how many were dropped for it."""
        dropped = int(len(self._events) == PATH_CHANGES)
        self._events.append(event)
        self._line.wake()
        return dropped

    def end(self) -> None:
        self._ended = True
        self._line.wake_all()

    def end_from_anywhere(self) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
            self._loop.call_soon_threadsafe(self.end)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PathChange:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            await self._line.wait()
        return self._events.popleft()
