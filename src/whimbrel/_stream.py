"""Streams: bytes in order, in one direction or both (RFC 9000 §2).

A read or a write is one call into the core, on the caller's thread; a task waits only when the core has nothing to give
or no room to take. Bytes stay in the core until somebody asks for them, so that the flow-control windows bound what a
peer can make us hold; only the functions that search (`readuntil`, `readline`) and those that were interrupted keep
some here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from whimbrel._errors import Busy, StreamStopped
from whimbrel._stream_base import CHUNK, LINE_LIMIT, Half, ReceivingHalf, SendingHalf, drop

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Buffer

    from whimbrel._connection import Connection


class _Handle(Half):
    """What both directions share."""

    _connection: Connection

    def __init__(self, connection: Connection, stream: int) -> None:
        """Made by a connection only."""
        self._begin(connection, stream)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)


class ReceiveStream(_Handle, ReceivingHalf):
    """The receiving end of a stream, with the habits of `asyncio.StreamReader`.

    One task at a time may read. Iteration gives the bytes as they come, in chunks. Every call may be cancelled and
    loses nothing: what had come is there for the next.
    """

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
            return await self._collect(-1)
        while (data := self._read_now(n)) is None:
            await self._readable()
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
        return await self._collect(n)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Read up to and including a separator.

        Raises:
            asyncio.IncompleteReadError: the stream ended before; its ``partial`` has what came.
            asyncio.LimitOverrunError: no separator within 64 KiB; the bytes stay, for `read` or `readexactly`.
            ValueError: the separator is empty.
            StreamReset, ConnectionLost, Busy: as `read`.
        """
        found = self._search(separator, 0)
        while isinstance(found, int):
            await self._readable()
            found = self._search(separator, found)
        return found

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
        while (count := self._read_into_now(view)) is None:
            await self._readable()
        return count

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read(CHUNK)
        if not data:
            raise StopAsyncIteration
        return data

    def __del__(self) -> None:
        drop(self, receive=True, send=False)

    def _leave(self, error: BaseException | None) -> None:
        self._leave_receiving(error)

    def _check_reader(self) -> None:
        connection = self._connection
        connection._pump.check()
        if self.id in connection._readers:
            raise Busy("another task reads this stream", peer=connection.peer)

    async def _readable(self) -> None:
        """Wait until the core says that there may be something. While we wait, the reader's place is taken."""
        connection = self._connection
        waiter: asyncio.Future[None] = connection._loop.create_future()
        connection._readers[self.id] = waiter
        try:
            await waiter
        finally:
            del connection._readers[self.id]

    async def _collect(self, n: int) -> bytes:
        """`n` bytes, or where that is negative, all to the end. Interrupted, it keeps what came."""
        self._check_reader()
        chunks = [self._take(len(self._buffer))] if self._buffer else []
        try:
            while (data := self._gather(chunks, n)) is None:
                await self._readable()
        except BaseException:
            self._buffer += b"".join(chunks)
            raise
        return data


class SendStream(_Handle, SendingHalf):
    """The sending end of a stream. One task at a time may write."""

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
            taken = self._try_write(data)
            if taken == len(data):
                return
        else:
            taken = 0
        view = memoryview(data).cast("B")
        while (taken := self._offer(view, taken)) < view.nbytes:
            await self._writable()

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

    def on_stopped(self, call: Callable[[], object] | None) -> None:
        """Have a function called, once, when the peer wants no more of this stream (STOP_SENDING, RFC 9000 §3.5).

        For those who work on what they will send, and would not notice by writing.

        Args:
            call: called on the loop; None: nothing is to be called any more.
        """
        connection = self._connection
        if call is None:
            connection._on_stopped.pop(self.id, None)
            return
        connection._on_stopped[self.id] = call
        try:
            self._try_write(b"")  # The news may have come before we asked for it.
        except StreamStopped:
            if connection._on_stopped.pop(self.id, None) is not None:
                connection._loop.call_soon(call)

    def __del__(self) -> None:
        drop(self, receive=False, send=True)

    def _leave(self, error: BaseException | None) -> None:
        self._leave_sending(error)

    def _check_writer(self) -> None:
        connection = self._connection
        connection._pump.check()
        if self.id in connection._writers:
            raise Busy("another task writes to this stream", peer=connection.peer)
        if self._reset or self._stopped_by_peer is not None:
            raise self._unwritable()
        if connection._lost is not None:
            raise connection._error()

    async def _writable(self) -> None:
        connection = self._connection
        waiter: asyncio.Future[None] = connection._loop.create_future()
        connection._writers[self.id] = waiter
        try:
            await waiter
        finally:
            del connection._writers[self.id]


class Stream(ReceiveStream, SendStream):
    """Both directions. Leaving ``async with`` finishes it; with an exception, both directions are given up."""

    def as_asyncio(self, *, limit: int = LINE_LIMIT) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """This stream as asyncio's reader and writer, for code that was written for these.

        They are asyncio's own, over a transport of ours: ``drain``, ``write_eof``, ``readuntil``, ``wait_closed`` and
        back-pressure, both ways, are as ever. ``get_extra_info`` knows ``peername``, ``sockname``, ``whimbrel_path``,
        ``whimbrel_stream`` and ``whimbrel_connection``. From now on the stream belongs to the pair.

        ``writer.close()`` sends what was written and then FIN, and tells the peer that nothing more is read; to know
        that it was sent, await ``writer.wait_closed()`` before the connection is closed. A writer that is dropped
        unclosed gives a ResourceWarning, and the stream is reset: half of something must not look whole.

        Args:
            limit: bytes in the longest line; with twice as many unread, the peer is held back.

        Raises:
            Busy: a task reads this stream.
        """
        from whimbrel._asyncio_pair import as_asyncio

        return as_asyncio(self, limit)

    def _leave(self, error: BaseException | None) -> None:
        self._leave_receiving(error)
        self._leave_sending(error)

    def __del__(self) -> None:
        drop(self, receive=True, send=True)
