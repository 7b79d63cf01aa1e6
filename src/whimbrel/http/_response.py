"""One request and its response: a stream of their own (RFC 9114 §4.1).

The task that reads the response reads the stream, so a slow reader holds back the server and nobody else. Content goes
up in a task beside it: servers may answer, and even finish, before they have read it all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from whimbrel._errors import (
    ConnectionLost,
    LocalProtocolError,
    RemoteProtocolError,
    StreamError,
    StreamReset,
    StreamStopped,
    WhimbrelError,
)
from whimbrel.http._headers import Headers, received
from whimbrel.http._protocol import (
    ConnectionFailed,
    DataReceived,
    ErrorCode,
    Event,
    HeadersReceived,
    MessageEnded,
    MessageMalformed,
    RawHeaders,
    code_name,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from whimbrel._stream import Stream
    from whimbrel.http._client import Client

READ_SIZE = 256 << 10
"""Bytes asked of the stream at once: large enough that the cost of asking vanishes."""
FRAME_SIZE = 256 << 10
"""Content bytes in a DATA frame that we send: what is copied at once, to have the frame's head before it."""

TURN_SIZE = 512 << 10
"""Bytes read before the loop's other tasks have a turn, some 2 ms at 2 Gbit/s: a read that need not wait gives none."""

_log = logging.getLogger("whimbrel")


class RequestRejected(StreamError):
    """The server did no work on the request (RFC 9114 §4.1.1, §5.2): it may be sent again, on another connection."""

    slug = "request-rejected"
    default = "the server rejected the request on {stream} unread"
    advice = "send it again on a new connection"


class Response(AsyncIterator[bytes]):
    """The answer to one request. Iterate over it for its content, as it comes; leave it by ``async with`` or `close`.

    Cancelling whoever reads it cancels the request: the server is told to stop (H3_REQUEST_CANCELLED).
    """

    status: int
    """Such as 200; never an interim one (1xx)."""
    headers: Headers
    trailers: Headers
    """Fields after the content; empty until that has ended."""

    def __init__(self, owner: Client, stream: Stream, method: str) -> None:
        self.status = 0
        self.headers = Headers()
        self.trailers = Headers()
        self._owner = owner
        self._http3 = owner.http3
        self._stream = stream
        self._chunks: deque[bytes] = deque()
        self._ended = False  # The response is whole, or nothing more is wanted of it.
        self._sent = False  # So is the request.
        self._closed = False
        self._rejected = False
        self._since_turn = 0
        self._upload: asyncio.Task[None] | None = None
        if method == "HEAD":
            self._http3.expect_no_content(stream.id)

    @property
    def id(self) -> int:
        """The number of its stream."""
        return self._stream.id

    async def __anext__(self) -> bytes:
        """The next piece of content, of whatever size it came in.

        Raises:
            StreamReset: the server gave the response up half-way.
            RemoteProtocolError: the response is malformed, such as shorter than its Content-Length.
            ConnectionLost: the connection ended before the response did.
        """
        while not self._chunks:
            if self._ended:
                raise StopAsyncIteration
            await self._receive()
        return self._chunks.popleft()

    async def read(self) -> bytes:
        """All the content that has not been read yet. Raises what `__anext__` raises."""
        return b"".join([chunk async for chunk in self])

    async def close(self) -> None:
        """Be done with it. What has not come yet is cancelled; afterwards the response is at its end."""
        upload = self._upload
        self._cancel(ErrorCode.H3_REQUEST_CANCELLED)
        if upload is not None:
            with suppress(asyncio.CancelledError, Exception):
                await upload

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # For the client ---------------------------------------------------------------------------------------------------

    async def _send_head(self, headers: RawHeaders) -> None:
        """A header section that leaves our direction open."""
        head = self._http3.headers(self._stream.id, headers)
        self._owner.control_ready()
        try:
            await self._stream.write(head)
        except StreamStopped as stopped:
            self._stopped(stopped.code)
        except ConnectionLost as lost:
            raise self._lost_error(lost) from None

    def _hand_over(self) -> tuple[Stream, deque[bytes]]:
        """The stream, and what of its content has come: somebody else's from now on."""
        self._done()
        return self._stream, self._chunks

    async def _send(
        self, headers: RawHeaders, content: AsyncIterator[bytes | memoryview] | None, trailers: RawHeaders | None
    ) -> None:
        end = content is None and trailers is None
        head = self._http3.headers(self._stream.id, headers, end=end)
        self._owner.control_ready()
        try:
            await self._stream.write(head)
            if end:
                await self._stream.finish()
                self._sent = True
        except StreamStopped as stopped:
            self._stopped(stopped.code)
        except ConnectionLost as lost:
            raise self._lost_error(lost) from None
        if not self._sent:
            self._upload = asyncio.create_task(self._send_content(content, trailers), name="whimbrel-upload")
            self._upload.add_done_callback(self._uploaded)

    async def _receive_headers(self) -> None:
        while not self.status:
            await self._receive()

    def _reject(self) -> None:
        """The server said in GOAWAY that it will not look at this request."""
        self._rejected = True
        # Stopping the stream wakes whoever reads it.
        self._cancel(ErrorCode.H3_REQUEST_CANCELLED)

    def _cancel(self, code: int) -> None:
        if self._closed:
            return
        if self._upload is not None:
            self._upload.cancel()
        self._chunks.clear()
        if not self._ended:
            with suppress(WhimbrelError):
                self._stream.stop(code)
        if not self._sent:
            with suppress(WhimbrelError):
                self._stream.reset(code)
        if not (self._ended and self._sent):
            self._http3.abandon(self._stream.id)
            self._owner.control_ready()
        self._ended = True
        self._done()

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _send_content(
        self, content: AsyncIterator[bytes | memoryview] | None, trailers: RawHeaders | None
    ) -> None:
        stream, http3 = self._stream, self._http3
        try:
            if content is not None:
                async for piece in content:
                    for start in range(0, len(piece), FRAME_SIZE):
                        part = piece[start : start + FRAME_SIZE]
                        await stream.write(http3.data_frame(stream.id, len(part)) + part)
            if trailers is None:
                http3.end(stream.id)
            else:
                await stream.write(http3.headers(stream.id, trailers, end=True))
                self._owner.control_ready()
            await stream.finish()
            self._sent = True
        except StreamStopped as stopped:
            self._stopped(stopped.code)

    def _uploaded(self, upload: asyncio.Task[None]) -> None:
        if not upload.cancelled() and (error := upload.exception()) is not None:
            _log.debug("an upload ended early: %r", error)
        # The response was there first, and whoever read it need not close it.
        if self._ended and self._sent:
            self._done()

    def _stopped(self, code: int) -> None:
        # RFC 9114 §4.1: servers may answer without the rest, be it no more than the FIN. Whether all is
        # well, the response tells.
        _log.debug("the server wants no more of the request on stream %d: %s", self._stream.id, code_name(code))
        self._http3.stop_received(self._stream.id, code)
        self._sent = True

    async def _receive(self) -> None:
        try:
            if self._since_turn >= TURN_SIZE:
                self._since_turn = 0
                await asyncio.sleep(0)
            data = await self._read()
        except StreamReset as reset:
            self._http3.reset_received(self._stream.id, reset.code)
            self._cancel(ErrorCode.H3_REQUEST_CANCELLED)
            raise self._reset_error(reset.code) from None
        except LocalProtocolError:
            if not self._rejected:
                raise  # It was closed while another task read.
            raise RequestRejected(ErrorCode.H3_REQUEST_REJECTED, stream=self._stream.id) from None
        except ConnectionLost as lost:
            self._cancel(ErrorCode.H3_REQUEST_CANCELLED)
            raise self._lost_error(lost) from None
        except BaseException:
            self._cancel(ErrorCode.H3_REQUEST_CANCELLED)
            raise
        self._since_turn += len(data)
        for event in self._http3.receive(self._stream.id, data, ended=not data):
            self._apply(event)
        self._owner.control_ready()

    async def _read(self) -> bytes:
        """Reads from the stream; while content goes up, what goes wrong there ends the reading too."""
        upload = self._upload
        if upload is None:
            return await self._stream.read(READ_SIZE)
        if upload.done():
            upload.result()
            return await self._stream.read(READ_SIZE)
        reading = asyncio.ensure_future(self._stream.read(READ_SIZE))
        try:
            await asyncio.wait({reading, upload}, return_when=asyncio.FIRST_COMPLETED)
            if upload.done() and not reading.done():
                upload.result()
            return await reading
        finally:
            reading.cancel()

    def _apply(self, event: Event) -> None:
        match event:
            case DataReceived(pieces=pieces):
                self._chunks.extend(pieces)
            case HeadersReceived(headers=headers) if not self.status:
                status = int(dict(headers)[b":status"])
                # RFC 9110 §15.2: interim responses may be ignored; the real one follows.
                if status >= 200:
                    self.status, self.headers = status, received(headers)
            case HeadersReceived(headers=headers):
                self.trailers = received(headers)
            case MessageEnded() if not self.status:
                self._malformed(ErrorCode.H3_MESSAGE_ERROR, "it ended before it began")
            case MessageEnded():
                self._ended = True
                if self._upload is None or self._upload.done():
                    self._done()
            case MessageMalformed(code=code, reason=reason):
                self._malformed(code, reason)
            case ConnectionFailed():
                self._owner.connection_failed(event)
                self._cancel(event.code)
                failure = self._owner.failure()
                assert failure is not None, "the client has just been told"
                raise failure
            case _:
                raise AssertionError(f"{event} has nothing to do with a request")

    def _malformed(self, code: int, reason: str) -> None:
        self._cancel(code)
        raise RemoteProtocolError(f"the response is malformed: {reason} ({code_name(code)})")

    def _reset_error(self, code: int) -> StreamError:
        # RFC 9114 §4.1.1: this one code promises that nothing was done.
        if code == ErrorCode.H3_REQUEST_REJECTED:
            return RequestRejected(code, stream=self._stream.id)
        return StreamReset(code, f"the server gave the response up ({code_name(code)})", stream=self._stream.id)

    def _lost_error(self, lost: ConnectionLost) -> WhimbrelError:
        # Where we closed it ourselves, what the server did says more.
        return self._owner.failure() or lost

    def _done(self) -> None:
        if not self._closed:
            self._closed = True
            self._owner.stream_done(self._stream.id)
