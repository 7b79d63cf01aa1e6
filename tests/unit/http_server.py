"""An HTTP/3 server in memory: aioquic's, below a connection that is two queues for each stream. Nothing waits.

What the client writes reaches the server at once, and the server's handler answers at once, so a test decides what
comes when. Where the real thing is wanted, `tests/interop` has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.events import StreamDataReceived, StreamReset

from whimbrel import _errors
from whimbrel._stream import ReceiveStream, SendStream, Stream

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from whimbrel._connection import Connection

Handler = Callable[["MemoryServer", H3Event], None]


class MemoryServer:
    """The other end. ``requests``, ``resets`` and ``stops`` record what the client did; ``stopped``: what we did."""

    def __init__(self, handler: Handler | None = None) -> None:
        self.configuration = SimpleNamespace(is_client=False)
        self._quic_logger = None
        self._remote_max_datagram_frame_size = 65536
        self.handler = handler or (lambda *_: None)
        self.requests: dict[int, dict[bytes, bytes]] = {}
        self.content: dict[int, bytearray] = {}
        self.trailers: dict[int, list[tuple[bytes, bytes]]] = {}
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.stopped: dict[int, int] = {}
        self.closed: tuple[int, str] | None = None
        self.connection = MemoryConnection(self)
        self._next_stream = 3
        self.h3 = H3Connection(cast("object", self))  # type: ignore[arg-type]

    @property
    def as_connection(self) -> Connection:
        return cast("Connection", self.connection)

    def respond(self, stream: int, status: int, content: bytes = b"", *fields: tuple[bytes, bytes]) -> None:
        headers = [(b":status", str(status).encode()), *fields]
        self.h3.send_headers(stream, headers, end_stream=not content)
        if content:
            self.h3.send_data(stream, content, end_stream=True)

    # What H3Connection wants of the QUIC connection below it --------------------------------------------------------

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        assert is_unidirectional
        stream, self._next_stream = self._next_stream, self._next_stream + 4
        return stream

    def send_stream_data(self, stream: int, data: bytes, end: bool = False) -> None:
        self.connection.incoming(stream).feed(data, end)

    def reset_stream(self, stream: int, code: int) -> None:
        self.connection.incoming(stream).reset(code)

    def close(self, error_code: int, reason_phrase: str = "") -> None:
        raise AssertionError(f"the client broke the protocol: {error_code:#x} {reason_phrase}")

    # What the client's writes do --------------------------------------------------------------------------------------

    def received(self, stream: int, data: bytes, end: bool) -> None:
        event = StreamDataReceived(data=data, end_stream=end, stream_id=stream)
        for h3_event in self.h3.handle_event(event):
            match h3_event:
                case HeadersReceived() if h3_event.stream_id in self.requests:
                    self.trailers[stream] = h3_event.headers
                case HeadersReceived():
                    self.requests[stream] = dict(h3_event.headers)
                    self.content[stream] = bytearray()
                case DataReceived():
                    self.content[stream] += h3_event.data
            self.handler(self, h3_event)


class MemoryConnection:
    """As much of a `whimbrel.Connection` as the HTTP client uses."""

    peer = "memory:443"

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.max_requests = 1 << 20
        self.lost: _errors.WhimbrelError | None = None
        self._streams: dict[int, Incoming] = {}
        self._accepted: asyncio.Queue[Stream | ReceiveStream] = asyncio.Queue()
        self._next = {False: 0, True: 2}

    def incoming(self, stream: int) -> Incoming:
        if stream not in self._streams:
            self._streams[stream] = Incoming(self)
            if stream & 1:
                kind = MemoryReceiveStream if stream & 2 else MemoryStream
                self._accepted.put_nowait(kind(self, stream))
        return self._streams[stream]

    async def open_stream(self) -> Stream:
        return MemoryStream(self, self._take_id(False))

    async def open_send_stream(self) -> SendStream:
        return MemorySendStream(self, self._take_id(True))

    async def accept_stream(self) -> Stream | ReceiveStream:
        return await self._accepted.get()

    async def receive_datagram(self) -> bytes:
        never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        return await never

    async def close(self, code: int = 0, reason: str = "", *, linger: float = 3.0) -> None:
        if self.server.closed is None:
            self.server.closed = (code, reason)
        self.lose(_errors.ConnectionClosed(code, reason))

    def lose(self, error: _errors.WhimbrelError) -> None:
        self.lost = self.lost or error
        for incoming in self._streams.values():
            incoming.wake.set()

    def _take_id(self, unidirectional: bool) -> int:
        stream = self._next[unidirectional]
        self._next[unidirectional] += 4
        self._streams[stream] = Incoming(self)
        return stream


class Incoming:
    """Bytes on their way to the client."""

    def __init__(self, connection: MemoryConnection) -> None:
        self.connection = connection
        self.data = bytearray()
        self.ended = False
        self.error: _errors.WhimbrelError | None = None
        self.wake = asyncio.Event()

    def feed(self, data: bytes, end: bool) -> None:
        self.data += data
        self.ended |= end
        self.wake.set()

    def reset(self, code: int) -> None:
        self.error = _errors.StreamReset(code)
        self.wake.set()

    async def read(self, n: int) -> bytes:
        while True:
            if self.error:
                raise self.error
            if self.data or self.ended:
                data = bytes(self.data[:n])
                del self.data[:n]
                return data
            if self.connection.lost:
                raise self.connection.lost
            self.wake.clear()
            await self.wake.wait()


class _MemoryHandle:
    id: int

    def __init__(self, connection: MemoryConnection, stream: int) -> None:
        self.id = stream
        self.memory = connection
        self.is_background = False

    def background(self) -> None:
        self.is_background = True

    def pad_moves(self, frame: bytes) -> None:
        pass

    async def read(self, n: int = -1) -> bytes:
        return await self.memory.incoming(self.id).read(n)

    def stop(self, code: int = 0) -> None:
        self.memory.server.stops[self.id] = code
        self.memory.incoming(self.id).error = _errors.LocalProtocolError("stopped")
        self.memory.incoming(self.id).wake.set()

    async def write(self, data: Buffer) -> None:
        self._deliver(bytes(data), False)

    async def finish(self) -> None:
        self._deliver(b"", True)

    def reset(self, code: int = 0) -> None:
        if self.id not in self.memory.server.resets:
            self.memory.server.resets[self.id] = code
            self.memory.server.h3.handle_event(StreamReset(error_code=code, stream_id=self.id))

    def _deliver(self, data: bytes, end: bool) -> None:
        if self.memory.lost:
            raise self.memory.lost
        if self.id in self.memory.server.stopped:
            raise _errors.StreamStopped(self.memory.server.stopped[self.id])
        self.memory.server.received(self.id, data, end)


class MemoryReceiveStream(_MemoryHandle, ReceiveStream):
    pass


class MemorySendStream(_MemoryHandle, SendStream):
    pass


class MemoryStream(_MemoryHandle, Stream):
    pass
