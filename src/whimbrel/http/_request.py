"""One request at the server's end, and its answer: a stream of their own (RFC 9114 §4.1).

The handler's task reads and writes the stream itself, so that a slow client holds back its own handler and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from email.utils import formatdate
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from whimbrel._errors import (
    LocalProtocolError,
    RemoteProtocolError,
    StreamReset,
    WhimbrelError,
)
from whimbrel.http._files import FilePart, file_pieces, whole_file
from whimbrel.http._headers import Headers, HeadersLike, field_section, received, response_headers
from whimbrel.http._protocol import (
    ConnectionFailed,
    DataReceived,
    ErrorCode,
    Event,
    HeadersReceived,
    MessageEnded,
    MessageMalformed,
    RawHeaders,
    StreamIntroduced,
    code_name,
)
from whimbrel.http._response import READ_SIZE, TURN_SIZE
from whimbrel.http._tunnel import Tunnel
from whimbrel.http._webtransport import PROTOCOL, WebTransportSession

if TYPE_CHECKING:
    from whimbrel._connection import Connection
    from whimbrel._path import Address
    from whimbrel._stream import Stream
    from whimbrel.http._session import Session

Content: TypeAlias = bytes | bytearray | memoryview | AsyncIterable[bytes] | BinaryIO | FilePart
"""What an answer may carry: bytes, an asynchronous source of them, a file opened for reading in binary, or a part."""

WRITE_SIZE = 1 << 20
"""Bytes offered to the connection at once: what it does not take of them is offered, and copied, again."""

WRITE_COST = 4 << 10
"""Bytes that are written in about the time that a write takes by itself."""

_log = logging.getLogger("whimbrel")


class BodyTooShort(LocalProtocolError):
    """The content of an answer ended before the length that was announced; such as a file that somebody cut short."""

    slug = "body-too-short"


class Request(AsyncIterator[bytes]):
    """What a client asks for, and the way to answer. Iterate over it for the content that comes with it.

    An answer is one call, `respond`, or made step by step: `start`, `write`, `finish`. When the client gives the
    request up, the handler's task is cancelled. A handler that raises is answered for: status 500 where nothing was
    sent yet, else the stream is reset, so that the client does not take a piece for the whole.

    CONNECT asks for a tunnel: `accept` opens it, and every other answer refuses it. Such requests come to handlers that
    `serve` was given for them, and to no others.
    """

    method: str
    scheme: str
    authority: str
    """Host, and port where it was given; of plain CONNECT, host and port to connect to."""
    protocol: str | None
    """What is to be spoken in the tunnel that is asked for, such as ``"websocket"`` (``:protocol``, RFC 9220)."""
    target: str
    """Path and query as they came, percent-encoded; "" where there is none: plain CONNECT."""
    headers: Headers
    trailers: Headers
    """Fields after the content; empty until that has ended."""
    status: int | None
    """Of the answer, once it began."""

    def __init__(self, owner: Session, stream: Stream) -> None:
        """Made by the server only."""
        self.method = self.scheme = self.authority = self.target = ""
        self.headers = Headers()
        self.trailers = Headers()
        self.protocol = self.status = None
        self._bytes_sent = 0
        self._tunnel: Tunnel | None = None
        self._webtransport: WebTransportSession | None = None
        self._introduced: StreamIntroduced | None = None
        self._owner = owner
        self._http3 = owner.http3
        self._stream = stream
        self._chunks: deque[bytes] = deque()
        self._received = False  # The request is whole, or nothing more is wanted of it.
        self._sent = False  # So is the answer.
        self._due: int | None = None  # Bytes that are still to come by the Content-Length of the request.
        self._left: int | None = None  # Bytes that are still due by the Content-Length of the answer.
        self._framed = False  # The frame that holds all of them has begun.
        self._unsent = b""  # What a cancelled call left over.
        self._since_turn = 0
        self._continued = False  # The client need not wait any more before it sends its content.
        self._aborted = False
        self._malformed: MessageMalformed | None = None

    @property
    def path(self) -> str:
        """The target without its query, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark of the target, still encoded; "" where there is none."""
        return self.target.partition("?")[2]

    @property
    def connection(self) -> Connection:
        """The connection that it came over, for its path, its moves and its certificate."""
        return self._owner.connection

    @property
    def client(self) -> Address:
        """Where the client is now: it may move while it is answered."""
        return self._owner.connection.path.remote

    @property
    def early(self) -> bool:
        """Whether it came before the handshake was complete, and so may be a copy that somebody recorded (RFC 8470).

        Only of safe methods, such as GET: handlers of others are called when that is past.
        """
        return self._stream.early

    @property
    def id(self) -> int:
        """The number of its stream: unlike any other's on the connection."""
        return self._stream.id

    @property
    def bytes_sent(self) -> int:
        """Content of the answer that was handed to the connection so far."""
        return self._bytes_sent if self._tunnel is None else self._tunnel.bytes_written

    # The content that came --------------------------------------------------------------------------------------------

    async def __anext__(self) -> bytes:
        """The next piece of content, of whatever size it came in.

        Raises:
            StreamReset: the client gave the request up half-way.
            RemoteProtocolError: the request is malformed, such as shorter than its Content-Length.
            ConnectionLost: the connection ended before the request did.
        """
        while not self._chunks:
            if self._received:
                raise StopAsyncIteration
            await self._expected()
            await self._receive()
        return self._chunks.popleft()

    async def read(self) -> bytes:
        """All the content that has not been read yet. Raises what `__anext__` raises."""
        return b"".join([chunk async for chunk in self])

    # The answer -------------------------------------------------------------------------------------------------------

    async def respond(
        self, status: int, headers: HeadersLike = (), content: Content = b"", *, trailers: HeadersLike | None = None
    ) -> None:
        """Answer, and be done. Where it is known, ``content-length`` is added.

        Args:
            status: 200 to 999.
            headers: further fields; ``date`` is added.
            content: left out where the request is HEAD or the status has none; the headers are the same.
            trailers: fields after the content.

        Raises:
            LocalProtocolError: not what HTTP/3 can carry, or an answer was given before.
            BodyTooShort: the content ended before its length; the client must not take it for whole: let it out.
            StreamStopped: the client wants no more.
            ConnectionLost: the connection ended.
        """
        fields = Headers(headers)
        if isinstance(content, bytes | bytearray | memoryview):
            content = content if isinstance(content, bytes) else bytes(content)
        elif not isinstance(content, FilePart | AsyncIterable):
            content = whole_file(content) or _read_all(content)
        length = len(content) if isinstance(content, bytes) else None
        if isinstance(content, FilePart):
            length = content.length
        if length is not None and "content-length" not in fields and status not in _WITHOUT_CONTENT:
            fields = Headers([*fields.fields(), ("content-length", str(length))])
        head = self._head(status, fields)
        if self._is_empty:
            await self._write_last(head, trailers)
        elif isinstance(content, bytes):
            await self._write_last(head + self._frame(content), trailers)
        else:
            source = file_pieces(content) if isinstance(content, FilePart) else content
            try:
                async for piece in source:
                    await self._write(head + self._frame(piece) if head else self._frame(piece))
                    head = b""
            finally:
                # A generator that is left half-way holds what it holds until somebody says so.
                if (close := getattr(source, "aclose", None)) is not None:
                    await close()
            await self._write_last(head, trailers)

    async def inform(self, status: int, headers: HeadersLike = ()) -> None:
        """Send an interim response (RFC 9110 §15.2), such as 103 with ``link``, before the answer.

        Raises:
            LocalProtocolError: the status is none of 1xx, or the answer has begun.
            StreamStopped: the client wants no more.
            ConnectionLost: the connection ended.
        """
        if not 100 <= status <= 199 or self.status is not None:
            raise LocalProtocolError(f"{status} is no interim response, or the answer has begun")
        await self._write(self._section(response_headers(status, headers)))

    async def start(self, status: int, headers: HeadersLike = ()) -> None:
        """Begin an answer whose content is to be written by and by. Raises what `respond` raises."""
        await self._write(self._head(status, Headers(headers)))

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send content. Waiting is the back-pressure: returns when the connection has taken all of it.

        A cancelled call loses nothing: what was not taken yet is sent with what is written next.

        Raises:
            LocalProtocolError: more than Content-Length said, or no answer has begun.
            StreamStopped: the client wants no more.
            ConnectionLost: the connection ended.
        """
        if self.status is None or self._sent:
            raise LocalProtocolError("content comes after start() and before finish()")
        if len(data) and not self._is_empty:
            await self._write(self._frame(data if isinstance(data, bytes) else bytes(data)))

    async def finish(self, trailers: HeadersLike | None = None) -> None:
        """End the answer. Raises what `respond` raises."""
        if self.status is None or self._sent:
            raise LocalProtocolError("finish() comes once, after start()")
        await self._write_last(b"", trailers)

    async def accept(self, headers: HeadersLike = ()) -> Tunnel:
        """Open the tunnel that CONNECT asks for: status 200, and whatever follows belongs to the tunnel.

        The handler's task is no longer cancelled when the client gives up: reads and writes of the tunnel say so, and
        `whimbrel.SendStream.on_stopped`. When the handler returns, the tunnel is closed.

        Args:
            headers: further fields of the answer.

        Raises:
            LocalProtocolError: not what HTTP/3 can carry; or the request is not CONNECT, or answered already.
            StreamStopped: the client wants no tunnel any more.
            ConnectionLost: the connection ended.
        """
        if self.method != "CONNECT":
            raise LocalProtocolError(f"{self.method} asks for no tunnel: only CONNECT can be accepted")
        fields = Headers(headers)
        if "content-length" in fields:
            raise LocalProtocolError("a tunnel has no Content-Length (RFC 9110 §9.3.6)")
        await self._write(self._head(200, fields))
        self._stream.on_stopped(None)
        self._tunnel = Tunnel(
            self._owner,
            self._stream,
            200,
            fields,
            self.protocol,
            received=self._chunks,
            # TCP has no datagrams; of other protocols we cannot know.
            datagrams=None if self.protocol is None else self._owner.datagrams.expect(self.id),
        )
        self._stream = self._tunnel
        self._received = self._sent = True
        return self._tunnel

    async def accept_webtransport(self, headers: HeadersLike = ()) -> WebTransportSession:
        """Open the WebTransport session that is asked for (`protocol` is ``"webtransport"``). When the handler returns,
        the session is closed.

        Args:
            headers: further fields of the answer.

        Raises:
            LocalProtocolError, StreamStopped, ConnectionLost: as `accept`.
        """
        if self.protocol != PROTOCOL:
            raise LocalProtocolError("this is no request for a WebTransport session")
        fields = Headers(headers).fields()
        if "sec-webtransport-http3-draft02" in self.headers:  # Draft 2 §3.3; those after it name no draft.
            fields.append(("sec-webtransport-http3-draft", "draft02"))
        # What the client takes, datagrams above all, is known only then.
        await self._owner.peer_extensions()
        session = self._owner.webtransports[self.id] = WebTransportSession(self._owner, self.id)
        try:
            session.begin(await self.accept(fields))
        except BaseException:
            session.abandon()
            raise
        self._webtransport = session
        return session

    def abort(self, code: int = ErrorCode.H3_INTERNAL_ERROR) -> None:
        """Give the answer up half-way: the client sees a stream that was reset, and the connection lives.

        Args:
            code: why (RFC 9114 §8.1).
        """
        if self._tunnel is not None:
            self._aborted = self._aborted or not self._tunnel.is_over
            if self._webtransport is not None:
                self._webtransport.abandon(code)
            self._tunnel.cancel(code)
            return
        self._stream.on_stopped(None)
        if not self._received:
            with suppress(WhimbrelError):
                self._stream.stop(code)
        if not self._sent:
            with suppress(WhimbrelError):
                self._stream.reset(code)
        if not (self._received and self._sent):
            self._http3.abandon(self._stream.id)
            self._owner.control_ready()
        self._chunks.clear()
        self._aborted = self._aborted or not self._sent
        self._received = self._sent = True

    def on_given_up(self, call: Callable[[], object]) -> None:
        """Have a function called on the loop when the client gives the request up; the handler goes on then.

        Args:
            call: called once, at most.
        """
        self._stream.on_stopped(call)

    # For the server ---------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """The handler has returned: end what it left open. Raises what `respond` raises."""
        if self._webtransport is not None:
            await self._webtransport.close()
        elif self._tunnel is not None:
            await self._tunnel.close()
        elif not self._sent:
            await self.finish()

    @property
    def is_aborted(self) -> bool:
        """Whether the answer was given up."""
        return self._aborted

    async def receive_head(self) -> StreamIntroduced | None:
        """Wait for the header section. Raises what `__anext__` raises where what comes is no request.

        Returns:
            None; or what the stream says of itself where it is one of WebTransport's, and no request at all.
        """
        try:
            while not self.method and self._introduced is None:
                await self._receive()
            return self._introduced
        except RemoteProtocolError:
            if self._malformed is not None and self._malformed.code == ErrorCode.H3_EXCESSIVE_LOAD:
                # RFC 6585 §5. What is wrong with the others, they are told by a code alone (RFC 9114 §4.1.2).
                await self.respond(431, _PLAIN_TEXT, b"The request's header section is too large.\n")
                self.end_reading()
            raise

    def end_reading(self) -> None:
        """The answer is whole: what the client still sends is of no use (RFC 9114 §4.1)."""
        if not self._received:
            self.abort(ErrorCode.H3_NO_ERROR)

    # Inside -----------------------------------------------------------------------------------------------------------

    @property
    def _is_empty(self) -> bool:
        return self.method == "HEAD" or self.status in _WITHOUT_CONTENT

    def _head(self, status: int, headers: Headers) -> bytes:
        if self.status is not None:
            raise LocalProtocolError(f"this request was answered before, with status {self.status}")
        if status < 200:
            raise LocalProtocolError(f"{status} is an interim response: see inform()")
        if "date" not in headers:
            headers = Headers([*headers.fields(), ("date", formatdate(usegmt=True))])
        section = response_headers(status, headers)
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise LocalProtocolError(f"{length!r} is no Content-Length")
        self.status = status
        if length is not None and not self._is_empty:
            self._left = int(length)
        return self._section(section)

    def _section(self, section: RawHeaders) -> bytes:
        data = self._http3.headers(self._stream.id, section)
        self._owner.control_ready()
        return data

    def _frame(self, data: bytes) -> bytes:
        """Content as it is written. Where the whole length is known, one frame holds it all, and is not copied."""
        self._bytes_sent += len(data)
        if self._left is None:
            return self._http3.data_frame(self._stream.id, len(data)) + data if data else b""
        whole, self._left = self._left, self._left - len(data)
        if self._left < 0:
            raise LocalProtocolError("there is more content than Content-Length said")
        if self._framed or not data:
            return data
        self._framed = True
        return self._http3.data_frame(self._stream.id, whole) + data

    async def _write(self, data: bytes) -> None:
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        before = self._stream.bytes_written
        try:
            for start in range(0, len(data), WRITE_SIZE):
                await self._stream.write(data if len(data) <= WRITE_SIZE else data[start : start + WRITE_SIZE])
        except asyncio.CancelledError:
            # Half a frame is none, and whoever cancelled this call may go on.
            self._unsent = data[self._stream.bytes_written - before :]
            raise
        # A write that need not wait gives the loop's other tasks no turn; a small one takes its time, too.
        self._since_turn += max(len(data), WRITE_COST)
        if self._since_turn >= TURN_SIZE:
            self._since_turn = 0
            await asyncio.sleep(0)

    async def _write_last(self, data: bytes, trailers: HeadersLike | None) -> None:
        if self._left:
            raise BodyTooShort(f"the content ended {self._left} bytes before its Content-Length")
        if trailers is not None and not self._is_empty and (section := field_section(trailers)):
            data += self._section(section)
        await self._write(data)
        await self._stream.finish()
        self._sent = True
        self._stream.on_stopped(None)
        self._http3.end(self._stream.id)

    async def _expected(self) -> None:
        # RFC 9110 §10.1.1: the client waits to be told that its content is wanted.
        if not self._continued and self.status is None and self.headers.get("expect", "").lower() == "100-continue":
            await self.inform(100)
        self._continued = True

    async def _receive(self) -> None:
        if self._since_turn >= TURN_SIZE:
            self._since_turn = 0
            await asyncio.sleep(0)
        try:
            data = await self._stream.read(READ_SIZE)
        except StreamReset as reset:
            self._apply(self._http3.reset_received(self._stream.id, reset.code))
            text = f"the client gave the request up ({code_name(reset.code)})"
            raise StreamReset(reset.code, text, stream=self._stream.id) from None
        self._since_turn += len(data)
        events = self._http3.receive(self._stream.id, data, ended=not data)
        self._owner.control_ready()
        self._apply(events)

    def _apply(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case DataReceived(pieces=pieces):
                    self._take(pieces)
                case HeadersReceived(headers=headers) if not self.method:
                    self._asked(headers)
                case HeadersReceived(headers=headers):
                    self.trailers = received(headers)
                case MessageEnded():
                    self._received = True
                case MessageMalformed():
                    self._reject(event)
                case StreamIntroduced():
                    self._introduced = event
                case ConnectionFailed():
                    self._owner.connection_failed(event)
                    self.abort(event.code)
                    failure = self._owner.failure()
                    assert failure is not None, "the connection has just been told"
                    raise failure
                case _:
                    raise AssertionError(f"{event} has nothing to do with a request")

    def _take(self, pieces: list[bytes]) -> None:
        self._chunks.extend(pieces)
        if self._due is not None:
            self._due -= sum(map(len, pieces))
            if self._due < 0:
                # The HTTP layer looks at the end of the message only; until then a disk may be full.
                reason = "there is more content than Content-Length said"
                self._reject(MessageMalformed(self._stream.id, ErrorCode.H3_MESSAGE_ERROR, reason))

    def _asked(self, headers: RawHeaders) -> None:
        fields = {name: value.decode("latin-1") for name, value in headers if name.startswith(b":")}
        self.scheme = fields.get(b":scheme", "https")
        self.authority = fields[b":authority"]
        self.protocol = fields.get(b":protocol")
        self.target = fields.get(b":path", "")
        self.headers = received(headers)
        self.method = fields[b":method"]
        if "content-length" in self.headers and self.method != "CONNECT":
            self._due = int(self.headers.get_all("content-length")[0])

    def _reject(self, event: MessageMalformed) -> None:
        self._malformed = event
        if event.code != ErrorCode.H3_EXCESSIVE_LOAD or self.method:
            self.abort(event.code)
        raise RemoteProtocolError(f"the request is malformed: {event.reason} ({code_name(event.code)})")


_PLAIN_TEXT = {"content-type": "text/plain; charset=utf-8"}
_WITHOUT_CONTENT = frozenset({204, 304})


async def _read_all(file: BinaryIO) -> AsyncIterator[bytes]:
    # In a thread: it may be a pipe.
    while piece := await asyncio.to_thread(file.read, READ_SIZE):
        yield piece
