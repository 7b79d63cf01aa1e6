"""The two halves of a stream, as far as nobody waits: the part that the asyncio face and the blocking one share.

Each half knows how far it is, asks the core, and says in the library's own exceptions why it cannot go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar

from whimbrel._errors import ConnectionClosed, LocalProtocolError, StreamReset, StreamStopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel._connection_base import ConnectionBase

A = TypeVar("A")
T = TypeVar("T")

# What `readuntil` may hold while it searches: asyncio.StreamReader's limit.
LINE_LIMIT = 64 * 1024
# One read of `read(-1)`, `readexactly` and iteration: large enough that Python's share of the cost vanishes.
CHUNK = 1 << 20
# Less than this does not fill a packet, and had better share one with what follows: it is twice as fast then.
SMALL = 1200
# What is no `bytes` object is copied before the core takes it, or a part of it: so not all of it at once.
OFFER = 256 << 10
MOST_WRITES = 64
"""Whose counts are kept one by one."""


class Half(ABC):
    """What both halves share. Without slots, since the blocking face joins it to a base of another layout."""

    def _begin(self, connection: ConnectionBase, stream: int) -> None:
        self.id = stream
        self._connection = connection
        self._core = connection._core
        self._buffer = bytearray()
        self._ended = False  # the peer's FIN was read
        self._stopped = False  # we want no more
        self._reset_by_peer: int | None = None  # the code; the engine says it once, we say it to whoever asks again
        self._finished = False  # our FIN was sent
        self._reset = False  # we gave up
        self._stopped_by_peer: int | None = None  # the code, likewise
        self._writes = [0]
        """What each write had taken; those of long ago in one sum."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self._connection!r}>"

    @abstractmethod
    def _leave(self, error: BaseException | None) -> None:
        """The block that it was used in has ended, so or so."""

    def background(self) -> None:
        """Expect nothing of this stream: its silence is no reason to look for another network."""
        self._connection._pump.check()
        self._core.background(self.id)


class ReceivingHalf(Half):
    """The receiving half: what was read and not asked for yet, and how it ends."""

    @property
    def early(self) -> bool:
        """Whether the peer opened this stream before the handshake was complete (0-RTT).

        Then somebody on the way may have recorded it and sent it once more (RFC 9001 §9.2). What must not happen twice
        waits for `Connection.wait_handshake` first, which a replay does not survive.
        """
        return self._core.is_early_stream(self.id)

    def stop(self, code: int = 0) -> None:
        """Ask the peer to send no more (STOP_SENDING, RFC 9000 §3.5), and drop what has come.

        Args:
            code: the reason, in the application's code space.
        """
        self._connection._pump.check()
        if self._ended or self._stopped or self._reset_by_peer is not None:
            return
        self._stopped = True
        self._buffer = bytearray()  # Another thread may be at the old one.
        if self._connection._lost is None:
            self._core.stop(self.id, code)
        self._connection._wake_reader(self.id)

    def _leave_receiving(self, error: BaseException | None) -> None:
        if error is not None:
            self.stop()

    @abstractmethod
    def _check_reader(self) -> None:
        """Turn away who may not read now."""

    def _read_now(self, n: int) -> bytes | None:
        """What is there, `n` bytes at most. None: wait, and ask again."""
        if self._buffer or n == 0:
            self._check_reader()
            return self._take(n)
        return self._try_read(n)

    def _read_into_now(self, view: memoryview) -> int | None:
        """The same into a buffer of bytes; how many were put in."""
        if self._buffer or not view.nbytes:
            self._check_reader()
            data = self._take(view.nbytes)
            view[: len(data)] = data
            return len(data)
        return self._try_read_into(view)

    def _gather(self, chunks: list[bytes], n: int) -> bytes | None:
        """Add what is there until it is `n` bytes, or where that is negative, all to the end.

        None: wait, and call again with the same list. Where the stream ends before, the list is empty afterwards.
        """
        missing = n - sum(map(len, chunks))
        while missing:
            data = self._try_read(min(missing, CHUNK) if n >= 0 else CHUNK)
            if data is None:
                return None
            if not data:
                if n < 0:
                    break
                partial = b"".join(chunks)
                chunks.clear()
                raise asyncio.IncompleteReadError(partial, n)
            chunks.append(data)
            missing -= len(data)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _search(self, separator: bytes, searched: int) -> bytes | int:
        """Read up to and including a separator.

        Args:
            separator: what to look for.
            searched: how many bytes were searched before.

        Returns:
            What ends with the separator; or how many bytes were searched: wait, and call again.
        """
        if not separator:
            raise ValueError("the separator must have at least one byte")
        self._check_reader()
        buffer = self._buffer
        while True:
            found = buffer.find(separator, searched)
            if found > LINE_LIMIT or (found < 0 and len(buffer) >= LINE_LIMIT + len(separator)):
                message = f"no separator in the first {LINE_LIMIT} bytes of stream {self.id}"
                raise asyncio.LimitOverrunError(message, max(found, LINE_LIMIT))
            if found >= 0:
                return self._take(found + len(separator))
            # The separator may begin in what was searched and end in what comes.
            searched = max(0, len(buffer) - len(separator) + 1)
            data = self._try_read(LINE_LIMIT + len(separator) - len(buffer))
            if data is None:
                return searched
            if not data:
                raise asyncio.IncompleteReadError(self._take(len(buffer)), None)
            buffer += data

    def _try_read(self, limit: int) -> bytes | None:
        """Ask the core. None: nothing yet; b"": the end."""
        return self._ask(self._core.read, limit, b"")

    def _try_read_into(self, view: memoryview) -> int | None:
        return self._ask(self._core.read_into, view, 0)

    def _ask(self, read: Callable[[int, A], T | None], argument: A, end: T) -> T | None:
        self._check_reader()
        if self._stopped or self._reset_by_peer is not None:
            raise self._unreadable()
        if self._ended:
            return end
        lost = self._connection._lost  # Before we look: nothing comes after that, but another thread may just bring it.
        try:
            found = read(self.id, argument)
        except StreamReset as error:
            self._reset_by_peer = error.code
            raise self._unreadable() from None
        if found is None:
            if lost is not None:
                raise self._connection._error()
        elif not found:
            self._ended = True
        return found

    def _take(self, n: int) -> bytes:
        buffer = self._buffer
        if n >= len(buffer):
            data = bytes(buffer)
            buffer.clear()
        else:
            data = bytes(memoryview(buffer)[:n])
            del buffer[:n]
        return data

    def _unreadable(self) -> Exception:
        peer = self._connection.peer
        if self._reset_by_peer is not None:
            return StreamReset(self._reset_by_peer, stream=self.id, peer=peer)
        return LocalProtocolError(f"stream {self.id} was stopped by this end", peer=peer)


class SendingHalf(Half):
    """The sending half: how much was taken, and how it ends."""

    def pad_moves(self, frame: bytes) -> None:
        """Have these bytes written here at each move, between two writes, so that the new path begins with enough."""
        self._connection._pump.check()
        self._core.pad_moves(self.id, frame)

    @property
    def bytes_written(self) -> int:
        """How many bytes the connection has taken so far; right also after a `write` that was cancelled."""
        return sum(self._writes)

    def reset(self, code: int = 0) -> None:
        """Give the stream up (RESET_STREAM, RFC 9000 §3.1): what was not delivered is dropped.

        Args:
            code: the reason, in the application's code space.
        """
        connection = self._connection
        connection._pump.check()
        if self._reset or self._stopped_by_peer is not None:
            return
        self._reset = True
        connection._finishing.discard(self.id)
        connection._on_stopped.pop(self.id, None)
        if connection._lost is None:
            self._core.reset(self.id, code)
        connection._wake_writer(self.id)
        connection._check_lingering()

    def _leave_sending(self, error: BaseException | None) -> None:
        if error is not None:
            if not self._finished:
                self.reset()
            return
        if self._finished or self._reset or self._stopped_by_peer is not None:
            return
        try:
            self._check_writer()
            self._finish()
        except StreamStopped:
            pass  # The peer has read all it wanted: for a block that ended well, that is no failure.
        except ConnectionClosed:
            if not self._connection._is_clean():
                raise

    @abstractmethod
    def _check_writer(self) -> None:
        """Turn away who may not write now."""

    def _try_write(self, data: bytes | memoryview) -> int:
        self._check_writer()
        if self._finished:
            raise LocalProtocolError(f"stream {self.id} was finished by this end", peer=self._connection.peer)
        try:
            later = len(data) < SMALL and self._connection._pump.gather()
            # A Ctrl-C may come as soon as the core returns, before a statement could keep what it says: `extend` can.
            self._writes.extend(map(self._core.write, (self.id,), (data,), (later,)))
        except StreamStopped as error:
            self._give_up(error.code)
            raise self._unwritable() from None
        taken = self._writes[-1]
        if len(self._writes) > MOST_WRITES:
            self._writes = [sum(self._writes)]
        return taken

    def _offer(self, view: memoryview, taken: int) -> int:
        """Have the rest of a buffer taken. Returns how much of it is, in the end: where it is not all, wait."""
        if not view.nbytes:
            self._try_write(view)  # It may say that nothing can be written any more.
        while taken < view.nbytes:
            more = self._try_write(view[taken : taken + OFFER])
            # Only what was refused altogether is announced when there is room again.
            if not more:
                break
            taken += more
        return taken

    def _finish(self) -> None:
        finishing = self._connection._finishing
        finishing.add(self.id)  # Before, since on another thread the acknowledgement may come at once.
        try:
            self._core.finish(self.id, self._connection._pump.gather())
        except BaseException as error:
            finishing.discard(self.id)
            if not isinstance(error, StreamStopped):
                raise
            self._give_up(error.code)
            raise self._unwritable() from None
        self._finished = True

    def _give_up(self, code: int) -> None:
        """The peer wants no more. Only once it is told that none comes, it may open another stream instead."""
        self._stopped_by_peer = code
        # RFC 9000 §3.5: a reset is due, with the same code.
        with contextlib.suppress(RuntimeError):
            self._core.reset(self.id, code)

    def _unwritable(self) -> Exception:
        peer = self._connection.peer
        if self._stopped_by_peer is not None:
            return StreamStopped(self._stopped_by_peer, stream=self.id, peer=peer)
        return LocalProtocolError(f"stream {self.id} was reset by this end", peer=peer)


def drop(stream: Half, *, receive: bool, send: bool) -> None:
    """The last reference is gone: tell the peer, or it would wait for ever, and the engine hold what it sent.

    Nobody can read on, so that part ends quietly; a sender who says neither that it is done nor that it gives up left
    the peer with a piece.
    """
    connection = getattr(stream, "_connection", None)
    if connection is None or connection._lost is not None or connection._pump.is_forked:
        return
    if receive and not (stream._ended or stream._stopped or stream._reset_by_peer is not None):
        stream._core.stop(stream.id, 0)
    if send and not (stream._finished or stream._reset or stream._stopped_by_peer is not None):
        connection._on_stopped.pop(stream.id, None)
        stream._core.reset(stream.id, 0)
