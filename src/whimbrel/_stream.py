"""Streams: bytes in order, in one direction or both (RFC 9000 §2).

A read or a write is one call into the core, on the caller's thread; a task waits only when the core has nothing to give
or no room to take. Bytes stay in the core until somebody asks for them, so that the flow-control windows bound what a
peer can make us hold; only the functions that search (`readuntil`, `readline`) and those that were interrupted keep
some here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from whimbrel._errors import Busy, ConnectionClosed, LocalProtocolError, StreamReset, StreamStopped

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

    from whimbrel._connection import Connection

# What `readuntil` may hold while it searches: asyncio.StreamReader's limit.
LINE_LIMIT = 64 * 1024
# One read of `read(-1)`, `readexactly` and iteration: large enough that Python's share of the cost vanishes.
CHUNK = 1 << 20


class _Handle:
    """What both directions share. All slots are here, since a class may have only one base with slots of its own."""

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_connection",
        "_core",
        "_ended",
        "_finished",
        "_reset",
        "_reset_by_peer",
        "_stopped",
        "_stopped_by_peer",
        "_written",
        "id",
    )

    def __init__(self, connection: Connection, stream: int) -> None:
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
        self._written = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self._connection!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        raise NotImplementedError

    def background(self) -> None:
        """Expect nothing of this stream: its silence is no reason to look for another network."""
        self._connection._pump.check()
        self._core.background(self.id)


class ReceiveStream(_Handle):
    """The receiving end of a stream, with the habits of `asyncio.StreamReader`.

    One task at a time may read. Iteration gives the bytes as they come, in chunks. Every call may be cancelled and
    loses nothing: what had come is there for the next.
    """

    __slots__ = ()

    async def read(self, n: int = -1) -> bytes:
        """Read what is there, waiting only if nothing is.

        Args:
            n: bytes at most; -1: everything, to the end of the stream.

        Returns:
            1 to `n` bytes; ``b""`` at the end of the stream.

        Raises:
            StreamReset: the peer gave the stream up.
            ConnectionLost: the connection ended before the stream did.
            Busy: another task reads.
        """
        if n < 0:
            return await self._read_all()
        if self._buffer or n == 0:
            self._check_reader()
            return self._take(n)
        data = self._try_read(n)
        while data is None:
            await self._readable()
            data = self._try_read(n)
        return data

    async def readexactly(self, n: int) -> bytes:
        """Read exactly `n` bytes.

        Raises:
            asyncio.IncompleteReadError: the stream ended before; its ``partial`` has what came.
            StreamReset, ConnectionLost, Busy: as `read`.
        """
        if n < 0:
            raise ValueError("readexactly needs a number of bytes that is not negative")
        if not self._buffer and n:
            # The whole of it is there already, more often than not.
            data = self._try_read(n)
            if data is not None and len(data) == n:
                return data
            if data == b"":
                raise asyncio.IncompleteReadError(b"", n)
            if data:
                self._buffer += data
        self._check_reader()
        if len(self._buffer) >= n:
            return self._take(n)
        return await self._gather(n)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Read up to and including a separator.

        Raises:
            asyncio.IncompleteReadError: the stream ended before; its ``partial`` has what came.
            asyncio.LimitOverrunError: no separator within 64 KiB; the bytes stay, for `read` or `readexactly`.
            ValueError: the separator is empty.
            StreamReset, ConnectionLost, Busy: as `read`.
        """
        if not separator:
            raise ValueError("the separator must have at least one byte")
        self._check_reader()
        buffer = self._buffer
        searched = 0
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
                await self._readable()
            elif data:
                buffer += data
            else:
                raise asyncio.IncompleteReadError(self._take(len(buffer)), None)

    async def readline(self) -> bytes:
        """Read one line with its newline; at the end of the stream, what there is, perhaps nothing.

        Raises:
            asyncio.LimitOverrunError: the line is longer than 64 KiB.
            StreamReset, ConnectionLost, Busy: as `read`.
        """
        try:
            return await self.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def readinto(self, buffer: Buffer) -> int:
        """Read into a writable buffer without a copy in Python.

        Returns:
            How many bytes were put in: 1 to the buffer's size; 0 at the end of the stream.

        Raises:
            StreamReset, ConnectionLost, Busy: as `read`.
        """
        view = memoryview(buffer).cast("B")
        if self._buffer or not view.nbytes:
            self._check_reader()
            data = self._take(view.nbytes)
            view[: len(data)] = data
            return len(data)
        count = self._try_read_into(view)
        while count is None:
            await self._readable()
            count = self._try_read_into(view)
        return count

    def stop(self, code: int = 0) -> None:
        """Ask the peer to send no more (STOP_SENDING, RFC 9000 §3.5), and drop what has come.

        Args:
            code: the reason, in the application's code space.
        """
        self._connection._pump.check()
        if self._ended or self._stopped or self._reset_by_peer is not None:
            return
        self._stopped = True
        self._buffer.clear()
        if self._connection._lost is None:
            self._core.stop(self.id, code)
        self._connection._wake_reader(self.id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read(CHUNK)
        if not data:
            raise StopAsyncIteration
        return data

    def __del__(self) -> None:
        _drop(self, receive=True, send=False)

    def _leave(self, error: BaseException | None) -> None:
        if error is not None:
            self.stop()

    def _check_reader(self) -> None:
        connection = self._connection
        connection._pump.check()
        if self.id in connection._readers:
            raise Busy("another task reads this stream", peer=connection.peer)

    def _try_read(self, limit: int) -> bytes | None:
        """Ask the core. None: nothing yet; b"": the end."""
        self._check_reader()
        if self._stopped or self._reset_by_peer is not None:
            raise self._unreadable()
        if self._ended:
            return b""
        try:
            data = self._core.read(self.id, limit)
        except StreamReset as error:
            self._reset_by_peer = error.code
            raise self._unreadable() from None
        if data is None:
            if self._connection._lost is not None:
                raise self._connection._error()
        elif not data:
            self._ended = True
        return data

    def _try_read_into(self, view: memoryview) -> int | None:
        self._check_reader()
        if self._stopped or self._reset_by_peer is not None:
            raise self._unreadable()
        if self._ended:
            return 0
        try:
            count = self._core.read_into(self.id, view)
        except StreamReset as error:
            self._reset_by_peer = error.code
            raise self._unreadable() from None
        if count is None:
            if self._connection._lost is not None:
                raise self._connection._error()
        elif not count:
            self._ended = True
        return count

    async def _readable(self) -> None:
        """Wait until the core says that there may be something. While we wait, the reader's place is taken."""
        connection = self._connection
        waiter: asyncio.Future[None] = connection._loop.create_future()
        connection._readers[self.id] = waiter
        try:
            await waiter
        finally:
            del connection._readers[self.id]

    async def _read_all(self) -> bytes:
        self._check_reader()
        chunks = [self._take(len(self._buffer))] if self._buffer else []
        try:
            while True:
                data = self._try_read(CHUNK)
                if data:
                    chunks.append(data)
                elif data is None:
                    await self._readable()
                else:
                    break
        except BaseException:
            self._buffer += b"".join(chunks)
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _gather(self, n: int) -> bytes:
        chunks = [self._take(len(self._buffer))] if self._buffer else []
        missing = n - sum(map(len, chunks))
        try:
            while missing:
                data = self._try_read(min(missing, CHUNK))
                if data:
                    chunks.append(data)
                    missing -= len(data)
                elif data is None:
                    await self._readable()
                else:
                    partial, chunks = b"".join(chunks), []
                    raise asyncio.IncompleteReadError(partial, n)
        except BaseException:
            self._buffer += b"".join(chunks)
            raise
        return b"".join(chunks)

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


class SendStream(_Handle):
    """The sending end of a stream. One task at a time may write."""

    __slots__ = ()

    @property
    def bytes_written(self) -> int:
        """How many bytes the connection has taken so far; right also after a `write` that was cancelled."""
        return self._written

    async def write(self, data: Buffer) -> None:
        """Send bytes; return when all of them are taken. Waiting is the back-pressure.

        A cancelled `write` has sent what `bytes_written` says, and the stream remains usable.

        Args:
            data: bytes or any buffer. It may be changed once `write` has returned.

        Raises:
            StreamStopped: the peer reads no more of this stream.
            ConnectionLost: the connection ended.
            Busy: another task writes.
            LocalProtocolError: the stream was finished or reset by this end.
        """
        if type(data) is bytes:
            size = len(data)
        else:
            data = memoryview(data).cast("B")
            size = data.nbytes
        taken = self._try_write(data)
        if taken == size:
            return
        view = memoryview(data)
        while taken < size:
            more = self._try_write(view[taken:])
            # Only what was refused altogether is announced when there is room again.
            if not more:
                await self._writable()
            taken += more

    async def finish(self) -> None:
        """Say that nothing more will follow (FIN). Does not wait, and is no receipt: only the peer's answer is one.

        Raises:
            StreamStopped: the peer reads no more of this stream.
            ConnectionLost: the connection ended.
            Busy: another task writes.
            LocalProtocolError: the stream was reset by this end.
        """
        self._check_writer()
        if not self._finished:
            self._finish()

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
        if connection._lost is None:
            self._core.reset(self.id, code)
        connection._wake_writer(self.id)
        connection._check_lingering()

    def __del__(self) -> None:
        _drop(self, receive=False, send=True)

    def _leave(self, error: BaseException | None) -> None:
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

    def _check_writer(self) -> None:
        connection = self._connection
        connection._pump.check()
        if self.id in connection._writers:
            raise Busy("another task writes to this stream", peer=connection.peer)
        if self._reset or self._stopped_by_peer is not None:
            raise self._unwritable()
        if connection._lost is not None:
            raise connection._error()

    def _try_write(self, data: Buffer) -> int:
        self._check_writer()
        if self._finished:
            raise LocalProtocolError(f"stream {self.id} was finished by this end", peer=self._connection.peer)
        try:
            taken = self._core.write(self.id, data)
        except StreamStopped as error:
            self._stopped_by_peer = error.code
            raise self._unwritable() from None
        self._written += taken
        return taken

    def _finish(self) -> None:
        connection = self._connection
        try:
            self._core.finish(self.id)
        except StreamStopped as error:
            self._stopped_by_peer = error.code
            raise self._unwritable() from None
        self._finished = True
        connection._finishing.add(self.id)

    async def _writable(self) -> None:
        connection = self._connection
        waiter: asyncio.Future[None] = connection._loop.create_future()
        connection._writers[self.id] = waiter
        try:
            await waiter
        finally:
            del connection._writers[self.id]

    def _unwritable(self) -> Exception:
        peer = self._connection.peer
        if self._stopped_by_peer is not None:
            return StreamStopped(self._stopped_by_peer, stream=self.id, peer=peer)
        return LocalProtocolError(f"stream {self.id} was reset by this end", peer=peer)


class Stream(ReceiveStream, SendStream):
    """Both directions. Leaving ``async with`` finishes it; with an exception, both directions are given up."""

    __slots__ = ()

    def _leave(self, error: BaseException | None) -> None:
        ReceiveStream._leave(self, error)
        SendStream._leave(self, error)

    def __del__(self) -> None:
        _drop(self, receive=True, send=True)


def _drop(stream: _Handle, *, receive: bool, send: bool) -> None:
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
        stream._core.reset(stream.id, 0)
