"""Connection: streams, datagrams, the path in use, and the end of it all, for threads."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Self, TypeVar, cast

from whimbrel import _core
from whimbrel._connection_base import ConnectionBase, PathQueue
from whimbrel._errors import ConnectionLost, NoAnswer
from whimbrel.sync._pump import Line, Pump, Waiter
from whimbrel.sync._stream import ReceiveStream, SendStream, Stream

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from whimbrel._events import PathChange, PathProbed
    from whimbrel._path import Path

S = TypeVar("S", bound="SendStream")
T = TypeVar("T")


class Connection(ConnectionBase):
    """One QUIC connection; made by `connect` or by a server. Any thread may use it; leaving ``with`` closes it.

    It has the attributes of `whimbrel.Connection`.
    """

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
        *,
        is_client: bool,
        peer: str,
        interface: str | None,
        released: Callable[[], None],
        greeted: Callable[[Connection], None] | None = None,
        name: str = "",
    ) -> None:
        """Made by this package only; see `ConnectionBase`. `greeted` is called once data may flow."""
        # For what is looked at and then changed. Nothing else is asked for under it but what the core says.
        self._lock = threading.RLock()
        self._readers: dict[int, Waiter] = {}
        self._writers: dict[int, Waiter] = {}
        self._greeted = greeted
        line = functools.partial(Line, pump)
        super().__init__(
            pump, core, line, is_client=is_client, peer=peer, interface=interface, released=released, name=name
        )

    # The path ---------------------------------------------------------------------------------------------------------

    def path_changes(self, *, timeout: float | None = None) -> Iterator[PathChange]:
        """What happens to the path from now on. Each caller has its own; it ends with the connection.

        At most 64 events wait to be fetched; then the oldest is dropped, and counted in `ConnectionStats`.

        Args:
            timeout: seconds that each step waits at most; then it raises TimeoutError, and may be taken again.
        """
        self._pump.check()
        watcher = _PathChanges(self, timeout)
        with self._lock:
            self._watch(watcher)
        return watcher

    def migrate(self, *, interface: str | None = None, timeout: float | None = None) -> Path:
        """Move the connection to another network path and return that path.

        The server is asked over the new network first; until it answers, data keeps flowing on the old path. The move
        uses a connection ID never used elsewhere, so that an observer cannot link the two (RFC 9000 §9.5).

        Args:
            interface: its name, such as ``"wlan0"``. By default the preferred one: the kernel's choice, unless
                ``Migration.prefer`` names another.
            timeout: seconds; by default three probes at the best RTT known.

        Raises:
            MigrationDisabled: the server sent ``disable_active_migration`` (§18.2), or this connection was opened with
                ``migration=None``, or this is the server's end, which may not move (§9).
            NoRoute: no network leads to the peer over that interface.
            NoAnswer: nothing came back over the new network in time; the old path stays in use.
            ConnectionIdsExhausted: the server left us no spare connection ID.
            ConnectionLost: the connection ended.
        """
        attachment = self._steered()
        moving = attachment.request_move(interface)
        self._path = self._answer(moving, lambda: attachment.cancel_move(moving), timeout)
        return self._path

    def probe(self, *, interface: str | None = None, timeout: float | None = None) -> PathProbed:
        """Ask the server over another network, and stay on this one.

        One version-negotiation probe, repeated twice at most, from a socket of its own and with connection IDs that are
        nobody's, so that it can be linked to nothing (RFC 9000 §6.1). No path is validated by it: an answer says that
        packets get there and back, and how long they take. A few servers answer no such probes. Works where `migrate`
        is forbidden by the server, and tells nothing to `path_changes`.

        Args:
            interface: its name, such as ``"wlan0"``; the one in use may be asked as well. By default the preferred one.
            timeout: seconds; by default three probes at the best RTT known, which takes little more than a second.

        Returns:
            The interface, and the seconds between the probe and its answer.

        Raises:
            MigrationDisabled: this connection was opened with ``migration=None``, or this is the server's end.
            NoRoute: no network leads to the peer over that interface.
            NoAnswer: nothing came back over it in time.
            MigrationError: that interface is being asked already.
            ConnectionLost: the connection ended.
        """
        attachment = self._steered()
        asking = attachment.request_probe(interface)
        return self._answer(asking, lambda: attachment.cancel_probe(asking), timeout)

    def wait_handshake(self, *, timeout: float | None = None) -> None:
        """Wait until the handshake is complete.

        It is, unless this connection sends or takes early data (0-RTT). To a server it proves that the client is there
        now: what came early is no replay then (RFC 8470 §3). To a client it says whether what it sent early was taken;
        if not, it is being sent again, and ``early_data_accepted`` is False.

        Raises:
            TimeoutError: it took longer.
            ConnectFailed: the handshake failed; see `connect`.
            ConnectionLost: the connection ended before.
        """
        self._pump.check()
        self._shaking_hands.until(self._is_shaken, timeout)

    # Streams and datagrams --------------------------------------------------------------------------------------------

    def open_stream(self, *, timeout: float | None = None) -> Stream:
        """Open a stream in both directions; wait while the peer's limit is reached (RFC 9000 §4.6).

        The peer learns of it with the first bytes.

        Raises:
            TimeoutError: the limit stood for so long.
            ConnectionLost: the connection ended.
        """
        return self._open(0, lambda stream: Stream(self, stream), timeout)

    def open_send_stream(self, *, timeout: float | None = None) -> SendStream:
        """Open a stream in our direction only; wait while the peer's limit is reached.

        Raises:
            TimeoutError: the limit stood for so long.
            ConnectionLost: the connection ended.
        """
        return self._open(1, lambda stream: SendStream(self, stream), timeout)

    def accept_stream(self, *, timeout: float | None = None) -> Stream | ReceiveStream:
        """Wait for a stream that the peer opens.

        Raises:
            TimeoutError: it opened none in time.
            ConnectionLost: the connection ended.
        """
        self._pump.check()
        return self._accepters.until(self._accept, timeout)

    def streams(self, *, timeout: float | None = None) -> Iterator[Stream | ReceiveStream]:
        """The streams that the peer opens. Ends quietly when the connection ends cleanly.

        Args:
            timeout: seconds that each step waits at most; then it raises TimeoutError, and may be taken again.

        Raises:
            ConnectionLost: while iterating: the connection ended otherwise.
        """
        self._pump.check()
        return _Streams(self, timeout)

    def receive_datagram(self, *, timeout: float | None = None) -> bytes:
        """Wait for a datagram of the peer's.

        Raises:
            TimeoutError: none came in time.
            ConnectionLost: the connection ended.
        """
        self._pump.check()
        return self._datagram_readers.until(self._take_datagram, timeout)

    # The end ----------------------------------------------------------------------------------------------------------

    def close(self, code: int = 0, reason: str = "", *, linger: float = 3.0) -> None:
        """Close the connection (CONNECTION_CLOSE, RFC 9000 §10.2). May be called twice, and while others wait for it.

        Finished streams are first given time to be acknowledged. Interrupted meanwhile, it closes without waiting.

        Args:
            code: the reason, in the application's code space; 0: all is well.
            reason: a phrase for the peer's log.
            linger: seconds to wait for acknowledgements, at most.
        """
        self._pump.check()
        with self._lock:
            first, self._closing = not self._closing, True
        if first and self._lost is None:
            try:
                if self._finishing and linger > 0:
                    self._pump.until(self._is_acknowledged, linger, self._lingering.waiters, object())
            finally:
                self._close_now(code, reason)
        self.wait_closed()

    def wait_closed(self, *, timeout: float | None = None) -> None:
        """Wait until the connection has ended, whoever ended it and why.

        Raises:
            TimeoutError: it still stands.
        """
        self._pump.check()
        self._waiting_closed.until(lambda: self._lost, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            # The peer must not take this for the good end of what we were doing.
            self._pump.check()
            self._close_now(1, "")

    def _handshake(self, *, early: bool) -> bool:
        """Go on with the handshake; whether it is over, well or not, or, if that is enough, early data may flow.

        For `connect`, which has it for itself still.
        """
        self._pump.turn(0.0)
        return self._lost is not None or self._may_begin(early=early)

    def _answer(self, future: concurrent.futures.Future[T], cancel: Callable[[], None], timeout: float | None) -> T:
        """What whoever looks after the path says; where nobody waits for it any more, it is cancelled."""
        decided = Line(self._pump)
        future.add_done_callback(lambda _: decided.wake_all())
        try:
            return decided.until(lambda: future.result() if future.done() else None, timeout)
        except TimeoutError:
            raise NoAnswer(f"no answer within {timeout:g} s", peer=self.peer, path=self._path) from None
        except ConnectionLost:
            self.wait_closed()  # The news of it, with the reason, may still be in the core.
            raise self._error() from None
        finally:
            if not future.done():
                cancel()

    def _farewell(self) -> None:
        """The interpreter ends."""
        super()._farewell()
        self._wake_all()

    # News from below, and small parts ---------------------------------------------------------------------------------

    def _connected(self) -> None:
        super()._connected()
        self._greet()

    def _early_news(self) -> None:
        super()._early_news()
        if not self._established and self._may_begin(early=True):
            self._greet()

    def _greet(self) -> None:
        greeted, self._greeted = self._greeted, None
        if greeted is not None:
            greeted(self)

    def _open(self, kind: int, make: Callable[[int], S], timeout: float | None) -> S:
        self._pump.check()

        def attempt() -> S | None:
            if self._lost is not None:
                raise self._error()
            stream = self._core.open_stream(kind == 1)
            return None if stream is None else make(stream)

        return self._openers[kind].until(attempt, timeout)

    def _accept(self) -> Stream | ReceiveStream | None:
        # What came before the peer closed is still ours to read; after our own close() nothing is.
        lost = self._lost
        if lost is None or lost[0] != "local":
            stream = self._core.accept_stream(False)
            if stream is not None:
                return Stream(self, stream)
            stream = self._core.accept_stream(True)
            if stream is not None:
                return ReceiveStream(self, stream)
        if lost is not None:
            raise self._error()
        return None

    def _take_datagram(self) -> bytes | None:
        lost = self._lost  # Before we look: nothing comes after that.
        data = self._core.receive_datagram()
        if data is None and lost is not None:
            raise self._error()
        return data

    def _is_acknowledged(self) -> bool | None:
        return True if self._lost is not None or not self._finishing else None

    def _wake_reader(self, stream: int) -> None:
        waiter = self._readers.get(stream)
        if waiter is not None:
            waiter.wake()

    def _wake_writer(self, stream: int) -> None:
        waiter = self._writers.get(stream)
        if waiter is not None:
            waiter.wake()

    def _wake_streams(self) -> None:
        for waiters in (self._readers, self._writers):
            for waiter in waiters.copy().values():
                waiter.wake()


class _Streams:
    """Iteration over the peer's streams. A class, since a generator is over once a time limit has gone through it."""

    def __init__(self, connection: Connection, timeout: float | None) -> None:
        self._connection = connection
        self._timeout = timeout

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Stream | ReceiveStream:
        try:
            return self._connection.accept_stream(timeout=self._timeout)
        except ConnectionLost:
            if self._connection._is_clean():
                raise StopIteration from None
            raise


class _PathChanges(PathQueue):
    """One caller's queue of path changes."""

    _line: Line

    def __init__(self, connection: Connection, timeout: float | None) -> None:
        self._pump = connection._pump
        self._timeout = timeout
        super().__init__(Line(self._pump), ended=connection._lost is not None)

    def end_from_anywhere(self) -> None:
        """No more will come."""
        self.end()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PathChange:
        self._pump.check()
        return cast("PathChange", self._line.until(self._next, self._timeout))

    def _next(self) -> PathChange | None:
        ended = self._ended  # Before we look: nothing comes after that.
        with contextlib.suppress(IndexError):
            return self._events.popleft()
        if ended:
            raise StopIteration
        return None
