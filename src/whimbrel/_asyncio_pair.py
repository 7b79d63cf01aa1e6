"""A stream as asyncio's reader and writer, for code that was written for these.

Both are asyncio's own; what is here is the transport between them and the stream. It has no task: when the core has
nothing to give, or no room, the place in which a task would wait is taken by a future that calls back.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

from whimbrel._errors import StreamReset, StreamStopped, WhimbrelError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from typing_extensions import Buffer

    from whimbrel._stream import Stream

PIECE = 64 << 10
"""Bytes handed to the reader in one turn of the loop: other tasks have theirs in between."""
HIGH_WATER = 64 << 10
"""Bytes held here, beside those that the connection has taken, before `drain` waits: asyncio's number."""


class PairReset(StreamReset, ConnectionResetError):
    """The peer gave the stream up; a ConnectionResetError as well, since that is what code for TCP looks for."""


class PairStopped(StreamStopped, BrokenPipeError):
    """The peer reads no more of the stream; a BrokenPipeError as well, likewise."""


def as_asyncio(stream: Stream, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """See `Stream.as_asyncio`."""
    stream._check_reader()
    loop = stream._connection._loop
    reader = asyncio.StreamReader(limit, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = StreamTransport(stream, protocol)
    protocol.connection_made(transport)
    transport.resume_reading()
    return reader, _Writer(transport, protocol, reader, loop)


class StreamTransport(asyncio.Transport):
    """Carries what a protocol says on a stream of its own.

    That the peer has read enough is told by `drain`, and what it says itself still comes. That it gave up sending ends
    both directions, as a reset does in TCP.
    """

    def __init__(self, stream: Stream, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.broken: WhimbrelError | None = None
        """Why nothing can be written any more."""
        self._stream = stream
        self._connection = stream._connection
        self._loop = self._connection._loop
        self._protocol: asyncio.BaseProtocol = protocol
        self._unsent: deque[memoryview] = deque()
        self._size = 0
        self._low, self._high = HIGH_WATER // 4, HIGH_WATER
        self._pulling: asyncio.Handle | None = None
        self._read_place = _Place(self._loop, self._connection._readers, stream.id, self._pull)
        self._write_place = _Place(self._loop, self._connection._writers, stream.id, self._flush)
        self._reading = False
        self._read_all = False  # to the end, whichever
        self._writing_paused = False
        self._eof = stream._finished
        self._closing = False
        self._over = False

    # Reading ----------------------------------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        """Whether what comes is handed on."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Hand on nothing for now: then the flow-control windows hold the peer back."""
        self._reading = False
        if self._pulling is not None:
            self._pulling.cancel()
            self._pulling = None
        self._read_place.leave()

    def resume_reading(self) -> None:
        """Hand on what comes."""
        if not (self._reading or self._read_all or self._closing):
            self._reading = True
            self._pulling = self._loop.call_soon(self._pull)

    def _pull(self) -> None:
        self._pulling = None
        protocol = self._protocol
        assert isinstance(protocol, asyncio.Protocol)
        try:
            data = self._stream._read_now(PIECE)
        except WhimbrelError as error:
            self._reading, self._read_all = False, True
            if isinstance(error, StreamReset):
                self._reset()
            self._finish_over(_told(error))
            return
        if data is None:
            self._read_place.take()
        elif data:
            protocol.data_received(data)
            if self._reading and self._pulling is None:  # It may have been paused, and resumed.
                self._pulling = self._loop.call_soon(self._pull)
        else:
            self._reading, self._read_all = False, True
            if not protocol.eof_received():
                self.close()

    # Writing ----------------------------------------------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """Send bytes, sooner or later. What can be sent no more is dropped: `drain` says why."""
        if self._eof:
            raise RuntimeError("write() comes before write_eof()")
        if self._closing or self.broken is not None:
            return
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        if not self._unsent:
            view = view[self._offer(view) :]
        if view.nbytes and self.broken is None:
            self._unsent.append(view)
            self._size += view.nbytes
            if self._size > self._high and not self._writing_paused:
                self._writing_paused = True
                self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Say, after what was written, that nothing more will follow (FIN)."""
        self._eof = True
        if not self._unsent and not self._closing:
            self._finish()

    def get_write_buffer_size(self) -> int:
        """Bytes that the connection has not taken yet."""
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Bytes: `drain` waits from above the second until there are no more than the first."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's transports have it."""
        high = (HIGH_WATER if low is None else 4 * low) if high is None else high
        low = high // 4 if low is None else low
        if not 0 <= low <= high:
            raise ValueError(f"these limits are not in order: 0 <= low ({low}) <= high ({high})")
        self._low, self._high = low, high

    def _offer(self, view: memoryview) -> int:
        """How much is taken of it. Where it is not all, `_flush` will be called."""
        try:
            taken = self._stream._offer(view, 0)
        except WhimbrelError as error:
            self._break(error)
            return 0
        if taken < view.nbytes:
            self._write_place.take()
        return taken

    def _flush(self) -> None:
        while self._unsent:
            view = self._unsent.popleft()
            taken = self._offer(view)
            if self.broken is not None:
                return
            self._size -= taken
            if taken < view.nbytes:
                self._unsent.appendleft(view[taken:])
                break
        self._let_write()
        if not self._unsent:
            if self._closing:
                self._end()
            elif self._eof:
                self._finish()

    def _finish(self) -> None:
        try:
            self._stream._check_writer()
            if not self._stream._finished:
                self._stream._finish()
        except WhimbrelError as error:
            self._break(error)

    def _break(self, error: WhimbrelError) -> None:
        """Nothing is taken any more. What the peer says may still come."""
        self.broken = _told(error)
        self._forget_unsent()
        self._let_write()
        if self._closing:
            self._finish_over(self.broken)

    def _forget_unsent(self) -> None:
        self._write_place.leave()
        self._unsent.clear()
        self._size = 0

    def _let_write(self) -> None:
        if self._writing_paused and self._size <= self._low:
            self._writing_paused = False
            self._protocol.resume_writing()

    # The end ----------------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Whether it is closed, or will be when all was sent."""
        return self._closing

    def close(self) -> None:
        """Send what was written, then FIN; the peer is told that nothing more is read."""
        if self._closing:
            return
        self._stop()
        if not self._unsent:
            self._end()

    def abort(self) -> None:
        """Give both directions up: the peer must not take what it has for the whole."""
        self._stop()
        self._reset()
        self._finish_over(None)

    def _reset(self) -> None:
        if not self._stream._finished:
            self._stream.reset()

    def _stop(self) -> None:
        self.pause_reading()
        self._closing = True
        self._stream.stop()

    def _end(self) -> None:
        try:
            self._stream._leave_sending(None)
        except WhimbrelError as error:
            self._finish_over(_told(error))
        else:
            self._finish_over(None)

    def _finish_over(self, error: WhimbrelError | None) -> None:
        """It is over: tell the protocol, once."""
        self._closing = True
        self.broken = self.broken or error
        self._forget_unsent()
        if not self._over:
            self._over = True
            self._loop.call_soon(self._protocol.connection_lost, error)

    # About it ---------------------------------------------------------------------------------------------------------

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told what comes."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another one told."""
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peername`` and ``sockname``, which change when an end moves; ``whimbrel_path``, ``whimbrel_stream``,
        ``whimbrel_connection``.
        """
        match name:
            case "peername":
                return self._connection.path.remote
            case "sockname":
                return self._connection.path.local
            case "whimbrel_path":
                return self._connection.path
            case "whimbrel_stream":
                return self._stream
            case "whimbrel_connection":
                return self._connection
            case _:
                return super().get_extra_info(name, default)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self._stream!r}{', closing' if self._closing else ''}>"


class _Writer(asyncio.StreamWriter):
    """asyncio's, which knows that one direction may be over without the other, and what half a message is."""

    _pair_transport: StreamTransport

    def __init__(
        self,
        transport: StreamTransport,
        protocol: asyncio.StreamReaderProtocol,
        reader: asyncio.StreamReader,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(transport, protocol, reader, loop)
        self._pair_transport = transport

    async def drain(self) -> None:
        """Wait until there is room for more.

        Raises:
            StreamStopped: the peer reads no more; a BrokenPipeError as well.
            StreamReset: the peer gave the stream up; a ConnectionResetError as well.
            ConnectionLost: the connection ended.
        """
        await super().drain()
        if self._pair_transport.broken is not None:
            raise self._pair_transport.broken

    def __del__(self) -> None:
        transport = self._pair_transport
        if transport.is_closing() or transport._connection._pump.is_forked:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        if not transport._loop.is_closed():
            # asyncio's own would close it, and that looks like a good end.
            transport.abort()


class _Place:
    """That of a task which waits for a stream, taken by nobody: a function is called when the task would go on.

    Args:
        loop: of the connection.
        places: of all streams, in this direction.
        stream: whose place it is.
        call: what to call.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        places: MutableMapping[int, asyncio.Future[None]],
        stream: int,
        call: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._places = places
        self._stream = stream
        self._call = call
        self._waiter: asyncio.Future[None] | None = None

    def take(self) -> None:
        """Wait."""
        self._waiter = self._places[self._stream] = self._loop.create_future()
        self._waiter.add_done_callback(self._woken)

    def leave(self) -> None:
        """Wait no more."""
        if self._waiter is not None:
            self._waiter = None
            del self._places[self._stream]

    def _woken(self, waiter: asyncio.Future[None]) -> None:
        if waiter is self._waiter:
            self.leave()
            self._call()


def _told(error: WhimbrelError) -> WhimbrelError:
    """The same as code for TCP knows it, too."""
    match error:
        case StreamReset():
            return PairReset(error.code, error.message, stream=error.stream, peer=error.peer)
        case StreamStopped():
            return PairStopped(error.code, error.message, stream=error.stream, peer=error.peer)
        case _:
            return error
