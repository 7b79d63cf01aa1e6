"""Streams as raw binary files: bytes in order, in one direction or both (RFC 9000 §2).

A read or a write is one call into the core, on the caller's thread; a thread waits only when the core has nothing to
give or no room to take. A place is held for the whole of a call, so that of two readers one is turned away.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import TYPE_CHECKING, TypeVar

from whimbrel._errors import Busy
from whimbrel._stream_base import CHUNK, LINE_LIMIT, Half, ReceivingHalf, SendingHalf, drop
from whimbrel.sync._pump import late

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Buffer

    from whimbrel.sync._connection import Connection

T = TypeVar("T")


class _Handle(Half, io.RawIOBase):
    """What both directions share."""

    _connection: Connection

    def __init__(self, connection: Connection, stream: int) -> None:
        """Made by a connection only."""
        super().__init__()
        self._begin(connection, stream)
        # Who is at it: an object for each call, so that one who is interrupted gives up only his own place.
        self._reader: object = None
        self._writer: object = None

    def close(self) -> None:
        """Be done with it: what was written is finished, what is still to come is not wanted. May be called twice.

        Raises:
            Busy: another thread writes.
            ConnectionLost: the connection ended, not cleanly, before the stream was finished.
        """
        if self.closed:
            return
        try:
            self._leave(None)
        finally:
            super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.closed:
            # The peer must not take this for the good end of what we were sending.
            self._leave(error)
            super().close()
        self.close()

    def _check_open(self) -> None:
        self._connection._pump.check()
        if self.closed:
            raise ValueError(f"stream {self.id} was closed by this end")


class ReceiveStream(_Handle, ReceivingHalf):
    """The receiving end of a stream, as a raw file. One thread at a time may read.

    Iteration gives the bytes as they come, in chunks; wrap it in `io.BufferedReader` for lines. A call whose time is up
    loses nothing: what had come is there for the next.
    """

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def read(self, n: int | None = -1, /, *, timeout: float | None = None) -> bytes:
        """Read what is there, waiting only if nothing is.

        Args:
            n: bytes at most; -1: everything, to the end of the stream.
            timeout: seconds; None: as long as it takes.

        Returns:
            1 to `n` bytes; ``b""`` at the end of the stream.

        Raises:
            TimeoutError: nothing came in time, or with -1, not all.
            StreamReset: the peer gave the stream up.
            ConnectionLost: the connection ended before the stream did.
            Busy: another thread reads.
            ValueError: the stream was closed by this end.
        """
        if n is None or n < 0:
            return self._collect(-1, timeout)
        return self._reading(lambda: self._read_now(n), timeout)

    def readall(self, *, timeout: float | None = None) -> bytes:
        """Read everything, to the end of the stream. Raises as `read`."""
        return self._collect(-1, timeout)

    def readinto(self, buffer: Buffer, /, *, timeout: float | None = None) -> int:
        """Read into a writable buffer without a copy in Python.

        Returns:
            How many bytes were put in: 1 to the buffer's size; 0 at the end of the stream.

        Raises:
            TimeoutError, StreamReset, ConnectionLost, Busy, ValueError: as `read`.
        """
        view = memoryview(buffer).cast("B")
        return self._reading(lambda: self._read_into_now(view), timeout)

    def readexactly(self, n: int, *, timeout: float | None = None) -> bytes:
        """Read exactly `n` bytes.

        Raises:
            asyncio.IncompleteReadError: the stream ended before; its ``partial`` has what came.
            TimeoutError, StreamReset, ConnectionLost, Busy, ValueError: as `read`.
        """
        if n < 0:
            raise ValueError("readexactly needs a number of bytes that is not negative")
        return self._collect(n, timeout)

    def readuntil(self, separator: bytes = b"\n", *, timeout: float | None = None) -> bytes:
        """Read up to and including a separator.

        Raises:
            asyncio.IncompleteReadError: the stream ended before; its ``partial`` has what came.
            asyncio.LimitOverrunError: no separator within 64 KiB; the bytes stay, for `read` or `readexactly`.
            ValueError: the separator is empty, or the stream was closed by this end.
            TimeoutError, StreamReset, ConnectionLost, Busy: as `read`.
        """
        searched = 0

        def search() -> bytes | None:
            nonlocal searched
            found = self._search(separator, searched)
            if isinstance(found, bytes):
                return found
            searched = found
            return None

        return self._reading(search, timeout)

    def readline(self, size: int | None = -1, /, *, timeout: float | None = None) -> bytes:
        """Read one line with its newline; at the end of the stream, what there is, perhaps nothing.

        Args:
            size: bytes at most; -1: no limit but that of `readuntil`.
            timeout: seconds; None: as long as it takes.

        Raises:
            asyncio.LimitOverrunError: the line is longer than 64 KiB, where `size` is not given.
            TimeoutError, StreamReset, ConnectionLost, Busy, ValueError: as `read`.
        """
        if size is not None and size >= 0:
            return self._reading(lambda: self._cut_line(size), timeout)
        try:
            return self.readuntil(b"\n", timeout=timeout)
        except asyncio.IncompleteReadError as error:
            return error.partial

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Read all lines; where `hint` is positive, as many as hold so many bytes. Raises as `readline`."""
        lines: list[bytes] = []
        size = 0
        while (hint is None or hint <= 0 or size < hint) and (line := self.readline()):
            lines.append(line)
            size += len(line)
        return lines

    def stop(self, code: int = 0) -> None:
        """Ask the peer to send no more (STOP_SENDING, RFC 9000 §3.5), and drop what has come. Any thread may call.

        Args:
            code: the reason, in the application's code space.
        """
        self._connection._pump.check()
        with contextlib.suppress(RuntimeError):  # Another thread has read the end meanwhile.
            super().stop(code)

    def __next__(self) -> bytes:
        data = self.read(CHUNK)
        if not data:
            raise StopIteration
        return data

    def __del__(self) -> None:
        _forget(self, receive=True, send=False)

    def _leave(self, error: BaseException | None) -> None:
        self.stop()

    def _check_reader(self) -> None:
        """The place was taken for the whole of the call."""

    def _reading(
        self, attempt: Callable[[], T | None], timeout: float | None, keep: Callable[[], None] | None = None
    ) -> T:
        """Have the reader's place while something is read; wait where there is nothing yet.

        At the end, still in its place, `keep` puts back what was read for nothing.
        """
        self._check_open()
        connection, me = self._connection, object()
        try:
            with connection._lock:
                if self._reader is not None:
                    raise Busy("another thread reads this stream", peer=connection.peer)
                self._reader = me
            try:
                found = attempt()
                if found is None:
                    found = connection._pump.until(attempt, timeout, connection._readers, self.id)
            finally:
                if keep is not None:
                    keep()
        except RuntimeError as error:
            # The core says no more than that it cannot be read: another thread has just stopped it.
            if type(error) is RuntimeError and self._stopped:
                raise self._unreadable() from None
            raise
        finally:
            # No call here, so that no handler of signals can come between.
            if self._reader is me:
                self._reader = None
        if found is None:
            raise late(timeout)
        return found

    def _collect(self, n: int, timeout: float | None) -> bytes:
        """`n` bytes, or where that is negative, all to the end. Interrupted, it keeps what came."""
        chunks: list[bytes] = []

        def gather() -> bytes | None:
            if self._buffer:
                chunks.append(self._take(n if n >= 0 else len(self._buffer)))
            found = self._gather(chunks, n)
            if found is not None:
                chunks.clear()
            return found

        def keep() -> None:
            if chunks:
                self._buffer[:0] = b"".join(chunks)
                chunks.clear()

        return self._reading(gather, timeout, keep)

    def _cut_line(self, size: int) -> bytes | None:
        buffer = self._buffer
        while (found := buffer.find(b"\n", 0, size)) < 0 and len(buffer) < size:
            data = self._try_read(min(LINE_LIMIT, size - len(buffer)))
            if data is None:
                return None
            if not data:
                return self._take(len(buffer))
            buffer += data
        return self._take(found + 1 if found >= 0 else size)


class SendStream(_Handle, SendingHalf):
    """The sending end of a stream, as a raw file. One thread at a time may write."""

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def write(self, data: Buffer, /, *, timeout: float | None = None) -> int:
        """Send bytes; return when all of them are taken. Waiting is the back-pressure.

        A `write` that was interrupted has sent what `bytes_written` says, and the stream remains usable.

        Args:
            data: bytes or any buffer. It may be changed once `write` has returned.
            timeout: seconds; None: as long as it takes.

        Returns:
            How many bytes that was.

        Raises:
            TimeoutError: not all was taken in time.
            StreamStopped: the peer reads no more of this stream.
            ConnectionLost: the connection ended.
            Busy: another thread writes.
            LocalProtocolError: the stream was finished or reset by this end.
            ValueError: the stream was closed by this end.
        """
        view = memoryview(data).cast("B")
        taken = 0

        def put() -> int | None:
            nonlocal taken
            if type(data) is bytes and not taken:
                taken = self._try_write(data)
                if taken == len(data):
                    return taken
            taken = self._offer(view, taken)
            return taken if taken == view.nbytes else None

        return self._writing(put, timeout)

    def finish(self) -> None:
        """Say that nothing more will follow (FIN). Does not wait, and is no receipt: only the peer's answer is one.

        Raises:
            StreamStopped: the peer reads no more of this stream.
            ConnectionLost: the connection ended.
            Busy: another thread writes.
            LocalProtocolError: the stream was reset by this end.
            ValueError: the stream was closed by this end.
        """

        def finish() -> bool:
            self._check_writer()
            if not self._finished:
                self._finish()
            return True

        self._writing(finish, None)

    def reset(self, code: int = 0) -> None:
        """Give the stream up (RESET_STREAM, RFC 9000 §3.1): what was not delivered is dropped. Any thread may call.

        Args:
            code: the reason, in the application's code space.
        """
        self._connection._pump.check()
        with contextlib.suppress(RuntimeError):  # The peer has stopped it, or had it all, meanwhile.
            super().reset(code)

    def __del__(self) -> None:
        _forget(self, receive=False, send=True)

    def _leave(self, error: BaseException | None) -> None:
        self._leave_writing(error)

    def _leave_writing(self, error: BaseException | None) -> None:
        if error is not None:
            self._leave_sending(error)
            return

        def leave() -> bool:
            self._leave_sending(None)
            return True

        self._writing(leave, None)

    def _check_writer(self) -> None:
        if self._reset or self._stopped_by_peer is not None:
            raise self._unwritable()
        if self._connection._lost is not None:
            raise self._connection._error()

    def _writing(self, attempt: Callable[[], T | None], timeout: float | None) -> T:
        """Have the writer's place while something is written; wait where there is no room."""
        self._check_open()
        connection, me = self._connection, object()
        try:
            with connection._lock:
                if self._writer is not None:
                    raise Busy("another thread writes to this stream", peer=connection.peer)
                self._writer = me
            found = attempt()
            if found is None:
                found = connection._pump.until(attempt, timeout, connection._writers, self.id)
        except RuntimeError as error:
            if type(error) is RuntimeError and self._reset:
                raise self._unwritable() from None
            raise
        finally:
            # No call here, so that no handler of signals can come between.
            if self._writer is me:
                self._writer = None
        if found is None:
            raise late(timeout)
        return found


class Stream(ReceiveStream, SendStream):
    """Both directions. Closing it finishes what was sent; leaving ``with`` by an exception gives up both directions."""

    def __del__(self) -> None:
        _forget(self, receive=True, send=True)

    def _leave(self, error: BaseException | None) -> None:
        try:
            self._leave_writing(error)
        finally:
            self.stop()


def _forget(stream: _Handle, *, receive: bool, send: bool) -> None:
    """The last reference is gone. Must not close as a file's finalizer does: half of something would look whole."""
    with contextlib.suppress(RuntimeError):  # It ended meanwhile.
        drop(stream, receive=receive, send=send)
