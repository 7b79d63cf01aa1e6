"""What a connection knows and does without waiting: the part that the asyncio face and the blocking one share.

It turns the core's news into wake-ups, and keeps what is known of the path and of the end. How somebody waits, and is
woken, is left to the face: see `Line` and the abstract methods.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
import weakref
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from whimbrel import _core
from whimbrel._errors import (
    ConnectionLost,
    DatagramTooLarge,
    MigrationDisabled,
    StreamStopped,
    WhimbrelError,
    address_text,
)
from whimbrel._events import PathChange, PathMigrated, PathProbed, Reason
from whimbrel._lost import Lost, connect_error, is_clean, is_refusal, lost_error
from whimbrel._path import Path
from whimbrel._path_stats import Ledger, PathStats
from whimbrel._peer_parameters import PeerParameters

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

logger = logging.getLogger("whimbrel")

# What one caller of `path_changes` may leave unread. A flapping network makes tens of changes a minute.
PATH_CHANGES = 64
# Of an object whose construction failed: nothing is to be cleaned.
_UNBORN: Lost = ("unborn", 0, "", False)


class Attachment(Protocol):
    """What the driver gives for a connection that it looks after."""

    def request_move(self, interface: str | None) -> concurrent.futures.Future[Path]:
        """Ask for a move; the future fails with a `MigrationError`, or, once the connection is over, ConnectionLost."""

    def cancel_move(self, moving: concurrent.futures.Future[Path]) -> None:
        """Forget the move that was asked for."""

    def request_probe(self, interface: str | None) -> concurrent.futures.Future[PathProbed]:
        """Ask the server over an interface; the future fails as that of `request_move`."""

    def cancel_probe(self, asking: concurrent.futures.Future[PathProbed]) -> None:
        """Forget that question."""

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
    spare_connection_ids: int
    """Of the peer's, still unused: each move takes one (RFC 9000 §9.5). At most four are kept."""
    path_changes_dropped: int
    """Events that no caller of `Connection.path_changes` fetched in time."""
    paths: tuple[PathStats, ...]
    """The same for each path by itself, oldest first, the active one last; of those that were left, the last 32. With
    unconnected sockets the kernel moves the packets, and all count for one."""


class Line(Protocol):
    """Those who wait for the same thing."""

    def wake(self) -> None:
        """There is some of it: for one at least."""

    def wake_all(self) -> None:
        """It is over."""


class Pump(Protocol):
    """What moves a connection's packets."""

    endpoint: _core.Endpoint
    is_forked: bool

    def check(self) -> None:
        """Turn away who may not use it (RuntimeError)."""

    def now(self) -> float:
        """The time on the clock of `time.monotonic`."""

    def gather(self) -> bool:
        """Whether a small write should wait for others that come at once, to leave with them; then it will leave."""

    def add(self, number: int, target: ConnectionBase) -> None:
        """Tell `target` what happens to a connection."""


class PathQueue(ABC):
    """One caller's queue of path changes."""

    def __init__(self, line: Line, *, ended: bool) -> None:
        self._events: deque[PathChange] = deque(maxlen=PATH_CHANGES)
        self._line = line
        # Events stay readable when the connection is gone, and waiting must not keep it alive.
        self._ended = ended

    def put(self, event: PathChange) -> int:
        """Add an event; returns how many were dropped for it."""
        dropped = int(len(self._events) == PATH_CHANGES)
        self._events.append(event)
        self._line.wake()
        return dropped

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._line.wake_all()

    @abstractmethod
    def end_from_anywhere(self) -> None:
        """`end`, for the garbage collector, which runs on any thread."""


class ConnectionBase(ABC):
    """One QUIC connection, as far as nobody waits. Its attributes are described at `whimbrel.Connection`."""

    _pump: Pump
    _openers: tuple[Line, Line]
    _accepters: Line
    _datagram_readers: Line
    _dialling: Line
    _shaking_hands: Line
    _lingering: Line
    _waiting_closed: Line

    def __init__(
        self,
        pump: Pump,
        core: _core.Connection,
        line: Callable[[], Line],
        *,
        is_client: bool,
        peer: str,
        interface: str | None,
        released: Callable[[], None],
        name: str = "",
    ) -> None:
        """Made by this package only.

        Args:
            pump: moves its packets.
            core: the engine's part.
            line: makes a place to wait.
            is_client: whether this end opened it.
            peer: for messages.
            interface: the one that packets leave by, where it is known.
            released: called once, when nothing more can come of it; must not refer to this object.
            name: the name that a server's certificate has to hold.
        """
        self.is_client = is_client
        self.peer = peer
        self.alpn = ""
        self.peer_certificate: bytes | None = None
        self.session_reused = False
        self.early_data_accepted: bool | None = None
        self._name = name
        self._pump = pump
        self._core = core
        self._interface = interface
        self._released = released
        self._attachment: Attachment | None = None
        self._lost: Lost | None = None
        self._fatal: ConnectionLost | None = None  # what the driver ended it with
        self._closing = False
        self._established = False
        self._confirmed = False  # the peer's handshake is complete as well
        self._finishing: set[int] = set()  # finished streams that are not acknowledged
        self._on_stopped: dict[int, Callable[[], object]] = {}
        self._openers = (line(), line())
        self._accepters = line()
        self._datagram_readers = line()
        self._dialling = line()
        self._shaking_hands = line()
        self._lingering = line()
        self._waiting_closed = line()
        # Replaced as a whole, never changed: another thread may be going through it.
        self._watchers: tuple[weakref.ref[PathQueue], ...] = ()
        self._dropped_changes = 0
        self._ledger = Ledger()
        self._since = pump.now()
        self._path = Path(("", 0), core.remote_address(), interface, False, 0.0, 0, self._since)
        pump.add(core.number, self)

    @property
    def path(self) -> Path:
        """The path in use, as it is now: a value that does not change under you."""
        if self._lost is None:
            self._pump.check()
            with contextlib.suppress(RuntimeError):  # An engine that let go already: it is as it was last seen.
                self._path = self._attachment.path() if self._attachment is not None else self._core_path()
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
            spare_connection_ids=self._core.facts().spare_ids,
            path_changes_dropped=self._dropped_changes,
            paths=self._ledger.accounts(self._path if self._lost is not None else self.path, now),
        )

    @property
    def peer_parameters(self) -> PeerParameters | None:
        """What the peer has said of moving, once the handshake is complete; None before, and when all is over."""
        self._pump.check()
        encoded = self._core.peer_parameters() if self._established and self._lost is None else None
        return None if encoded is None else PeerParameters.read(encoded)

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
        for watcher in self._watching():
            watcher.end_from_anywhere()
        self._released()
        self._pump.endpoint.forget(self._core.number)

    # News from below --------------------------------------------------------------------------------------------------

    def _hear(self, kind: int, value: int) -> None:
        """What the core says; called by the pump."""
        if kind == _core.READABLE:
            self._wake_reader(value)
        elif kind == _core.WRITABLE:
            self._wake_writer(value)
        elif kind == _core.FINISHED:
            self._finishing.discard(value)
            self._on_stopped.pop(value, None)
            self._check_lingering()
        elif kind == _core.STOPPED:
            self._wake_writer(value)
            if value in self._finishing:
                self._unfinish(value)
            if (call := self._on_stopped.pop(value, None)) is not None:
                call()
        elif kind == _core.OPENED:
            self._accepters.wake()
            self._early_news()
        elif kind == _core.AVAILABLE:
            self._openers[value].wake()
        elif kind == _core.DATAGRAM:
            self._datagram_readers.wake()
            self._early_news()
        elif kind == _core.CONNECTED:
            self._connected()
        elif kind == _core.CONFIRMED:
            self._confirmed = True
            self._dialling.wake_all()
        elif kind == _core.LOST:
            self._end(self._core.lost() or ("local", 0, "", False))
        elif kind == _core.MOVED:
            self._peer_moved(value)

    def _report(self, event: PathChange | ConnectionLost) -> None:
        """What the driver says: a change of the path, or what it ended the connection with."""
        if self._lost is not None:
            return
        if not isinstance(event, ConnectionLost):
            self._tell(event)
            return
        self._fatal = event
        self._close_now(0, "")

    def _farewell(self) -> None:
        """The interpreter ends."""
        if self._lost is None:
            self._lost = ("local", 0, "", False)
            self._core.close(0, b"")

    def _unfinish(self, stream: int) -> None:
        """The peer wants no more of a stream that is finished: drop what it has not taken, and say so (§3.5).

        Of streams that are not finished, whoever writes is told, and gives them up.
        """
        self._finishing.discard(stream)
        self._check_lingering()
        with contextlib.suppress(RuntimeError):  # It was reset meanwhile.
            try:
                self._core.finish(stream)
            except StreamStopped as stopped:
                self._core.reset(stream, stopped.code)

    def _connected(self) -> None:
        self._established = True
        self._confirmed = self._confirmed or not self.is_client
        self._take_note()
        self._since = self._pump.now()
        self._path = self._core_path()
        self._dialling.wake_all()
        self._shaking_hands.wake_all()

    def _early_news(self) -> None:
        """Something came that a handler may begin with, if early data are taken."""
        if not self._established:
            self._dialling.wake_all()

    def _may_begin(self, *, early: bool) -> bool:
        """Whether data may flow: the handshake is complete, or, if that is enough, early data may."""
        if early and self._core.is_early():
            self._take_note()
            return True
        return self._established and not (self._lost is None and self._core.awaits_verdict())

    def _take_note(self) -> None:
        """Of what the handshake has brought, or that of the session which is resumed."""
        core = self._core
        self.alpn = (core.alpn() or b"").decode("ascii", "replace")
        self.peer_certificate = core.peer_certificate()
        self.session_reused = core.is_resumed()
        self.early_data_accepted = core.early_data_accepted()

    def _is_shaken(self) -> bool | None:
        """Whether the handshake is complete; None: not yet.

        Raises:
            ConnectFailed: it failed.
            ConnectionLost: the connection ended before.
        """
        if not self._established and self._lost is not None:
            raise self._error()
        return self._established or None

    def _attach(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def _peer_moved(self, how: int) -> None:
        silence, linkable, returned = (how >> 2) / 1e6, bool(how & 2), bool(how & 1)
        old, since = self._path, self._pump.now()
        # As it was then: where nobody looked for a while, it has been proven meanwhile.
        new = replace(self._core_path(), since=since, validated=returned)
        if new.remote == old.remote:
            return  # Of two moves at once the first was told with the outcome of both.
        reason: Reason = "rolled-back" if returned else "rebinding" if new.remote[0] == old.remote[0] else "peer"
        self._since, self._path = since, new
        self.peer = address_text(new.remote)
        logger.info("%s moved to %s (%s)", address_text(old.remote), self.peer, reason)
        self._tell(PathMigrated(old, new, reason, silence, linkable))

    def _tell(self, event: PathChange) -> None:
        if isinstance(event, PathMigrated):
            self._ledger.leave(event.old, self._core.stats())
            self._path = event.new
        for watcher in self._watching():
            self._dropped_changes += watcher.put(event)

    def _close_now(self, code: int, reason: str) -> None:
        if self._lost is None:
            self._core.close(code, reason.encode())
            self._end(("local", code, reason, False))

    def _end(self, lost: Lost) -> None:
        """It is over: wake all who wait, and give everything back."""
        if self._lost is not None:
            return
        with contextlib.suppress(RuntimeError):  # Of the loop's thread no more, at the very end.
            self._path = self.path
        self._lost = lost
        if self._attachment is not None:
            self._attachment.detach()
        self._wake_all()
        self._released()

    def _wake_all(self) -> None:
        """It is over, for all who wait."""
        self._wake_streams()
        for line in (
            *self._openers,
            self._accepters,
            self._datagram_readers,
            self._dialling,
            self._shaking_hands,
            self._lingering,
            self._waiting_closed,
        ):
            line.wake_all()
        for watcher in self._watching():
            watcher.end()

    def _steered(self) -> Attachment:
        """Who may be asked to move this connection, or to look at its other paths."""
        self._pump.check()
        if self._lost is not None:
            raise self._error()
        if self._attachment is None:
            raise MigrationDisabled(
                "migration=None keeps it on its path" if self.is_client else "only the client may move",
                peer=self.peer,
                path=self._path,
            )
        return self._attachment

    def _watch(self, watcher: PathQueue) -> None:
        self._watchers = (*(known for known in self._watchers if known() is not None), weakref.ref(watcher))

    def _watching(self) -> Iterable[PathQueue]:
        return [watcher for reference in self._watchers if (watcher := reference()) is not None]

    @abstractmethod
    def _wake_reader(self, stream: int) -> None:
        """There may be something to read."""

    @abstractmethod
    def _wake_writer(self, stream: int) -> None:
        """There may be room to write."""

    @abstractmethod
    def _wake_streams(self) -> None:
        """Whoever reads or writes has to look again."""

    def _core_path(self) -> Path:
        core = self._core
        stats = core.stats()
        return Path(
            local=core.local_address(),
            remote=core.remote_address(),
            interface=self._interface,
            validated=core.is_validated(),
            rtt=stats.rtt,
            mtu=stats.mtu,
            since=self._since,
        )

    def _check_lingering(self) -> None:
        if not self._finishing:
            self._lingering.wake_all()

    def _is_clean(self) -> bool:
        return self._lost is not None and self._fatal is None and is_clean(self._lost, self.alpn)

    def _error(self) -> WhimbrelError:
        """A new exception for each who asks, so that their tracebacks stay apart."""
        if self._fatal is not None:
            return type(self._fatal)(*self._fatal.args, peer=self.peer, path=self._path)
        assert self._lost is not None, "asked for the reason of an end that has not come"
        if self.is_client and self._is_failed_handshake(self._lost):
            return connect_error(self._lost, peer=self.peer, name=self._name, path=self._path)
        return lost_error(self._lost, peer=self.peer, path=self._path)

    def _is_failed_handshake(self, lost: Lost) -> bool:
        if self._established:
            # Ours was complete, and the server's was not: in TLS 1.3 it looks at our certificate only then.
            return not self._confirmed and is_refusal(lost)
        return lost[0] not in ("local", "application")
