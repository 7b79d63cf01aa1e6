"""Connection: streams, datagrams, the path in use, and the end of it all.

A connection decides nothing about its path: that is the driver's part, which tells it what happened. It holds who waits
for what, and turns the core's news into wake-ups.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Self, TypeVar

from whimbrel import _core
from whimbrel._connection_base import ConnectionBase, ConnectionStats, PathQueue
from whimbrel._errors import ConnectionLost, NoAnswer
from whimbrel._loop import Line, Pump
from whimbrel._lost import Lost
from whimbrel._stream import ReceiveStream, SendStream, Stream

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from whimbrel._events import PathChange, PathProbed
    from whimbrel._path import Path

__all__ = ["Connection", "ConnectionStats"]

T = TypeVar("T")


class Connection(ConnectionBase):
    """One QUIC connection; made by `connect` or by a server. An async context manager: leaving it closes.

    Attributes:
        alpn: the application protocol agreed on. While the handshake of a connection that sends early is not complete,
            that of the session which it resumes, as is `peer_certificate`.
        peer_certificate: the peer's certificate, DER; None where it showed none. A resumed session goes on with the one
            that was verified when it began.
        session_reused: whether the handshake resumed an earlier session (RFC 8446 §2.2), as
            ``ssl.SSLSocket.session_reused`` has it.
        early_data_accepted: whether the server took what the client sent before the handshake was complete (0-RTT).
            None: the client sent nothing so, or the server has not answered yet.
        is_client: whether this end opened it.
        peer: who is at the other end, as ``host:port``.
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
        name: str = "",
    ) -> None:
        """Made by this package only; see `ConnectionBase`."""
        self._loop = pump.loop
        self._readers: dict[int, asyncio.Future[None]] = {}
        self._writers: dict[int, asyncio.Future[None]] = {}
        line = functools.partial(Line, pump.loop)
        super().__init__(
            pump, core, line, is_client=is_client, peer=peer, interface=interface, released=released, name=name
        )

    # The path ---------------------------------------------------------------------------------------------------------

    def path_changes(self) -> AsyncIterator[PathChange]:
        """What happens to the path from now on. Each caller has its own; it ends with the connection.

        At most 64 events wait to be fetched; then the oldest is dropped, and counted in `ConnectionStats`.
        """
        self._pump.check()
        watcher = _PathChanges(self)
        self._watch(watcher)
        return watcher

    async def migrate(self, *, interface: str | None = None, timeout: float | None = None) -> Path:
        """Move the connection to another network path and return that path.

        The server is asked over the new network first; until it answers, data keeps flowing on the old path. The move
        uses a connection ID never used elsewhere, so that an observer cannot link the two (RFC 9000 §9.5). A cancelled
        call stops asking, and the connection stays where it is.

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
        self._path = await self._answer(moving, functools.partial(attachment.cancel_move, moving), timeout)
        return self._path

    async def probe(self, *, interface: str | None = None, timeout: float | None = None) -> PathProbed:
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
        return await self._answer(asking, functools.partial(attachment.cancel_probe, asking), timeout)

    async def wait_handshake(self) -> None:
        """Wait until the handshake is complete.

        It is, unless this connection sends or takes early data (0-RTT). To a server it proves that the client is there
        now: what came early is no replay then (RFC 8470 §3). To a client it says whether what it sent early was taken;
        if not, it is being sent again, and ``early_data_accepted`` is False.

        Raises:
            ConnectFailed: the handshake failed; see `connect`.
            ConnectionLost: the connection ended before.
        """
        self._pump.check()
        while not self._is_shaken():
            await self._shaking_hands.wait()

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

    async def _handshake(self, *, early: bool) -> Lost | None:
        """Wait until data may flow; None when they may, else why not. For `connect` and `serve`.

        Args:
            early: early data are enough.
        """
        while self._lost is None and not self._may_begin(early=early):
            await self._dialling.wait()
        # A client may say everything at once and go. What it sent is there to be read, and somebody should.
        return None if self._established and not self.is_client else self._lost

    async def _answer(
        self, future: concurrent.futures.Future[T], cancel: Callable[[], None], timeout: float | None
    ) -> T:
        """What whoever looks after the path says; where nobody waits for it any more, it is cancelled."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(future, loop=self._loop)
        except asyncio.CancelledError:
            cancel()
            raise
        except TimeoutError:
            cancel()
            raise NoAnswer(f"no answer within {timeout:g} s", peer=self.peer, path=self._path) from None
        except ConnectionLost:
            await self.wait_closed()  # The news of it, with the reason, may still be on the way to this loop.
            raise self._error() from None

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

    def _wake_reader(self, stream: int) -> None:
        waiter = self._readers.get(stream)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake_writer(self, stream: int) -> None:
        waiter = self._writers.get(stream)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake_streams(self) -> None:
        for waiter in (*self._readers.values(), *self._writers.values()):
            if not waiter.done():
                waiter.set_result(None)


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


class _PathChanges(PathQueue):
    """One task's queue of path changes."""

    _line: Line

    def __init__(self, connection: Connection) -> None:
        self._loop = connection._loop
        super().__init__(Line(self._loop), ended=connection._lost is not None)

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
