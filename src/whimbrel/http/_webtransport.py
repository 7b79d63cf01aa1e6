"""WebTransport: streams and datagrams for pages, many sessions on one HTTP/3 connection (draft-ietf-webtrans-http3).

A session is a tunnel (extended CONNECT) over which only its end is spoken of. Its streams are streams of the connection
that say first which session they belong to; from there on they are read and written as every other, without a layer
between. Its datagrams are those of the tunnel. Chromium 156 speaks draft 2; draft 7, which we announce too, agrees with
it in all that is used here.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from whimbrel._errors import (
    LocalProtocolError,
    RemoteProtocolError,
    StreamError,
    StreamReset,
    StreamStopped,
    WhimbrelError,
)
from whimbrel._loop import Line
from whimbrel._stream import ReceiveStream, SendStream, Stream
from whimbrel.http._capsules import capsule, read_capsule, varint
from whimbrel.http._protocol import ErrorCode, code_name
from whimbrel.http._tunnel import TunnelClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from typing_extensions import Buffer

    from whimbrel._connection import Connection
    from whimbrel.http._headers import Headers
    from whimbrel.http._session import Session
    from whimbrel.http._tunnel import Tunnel

PROTOCOL = "webtransport"
"""What CONNECT asks for."""

MAX_SESSIONS = 16
"""On one connection at once, announced to clients."""

MAX_REASON = 1024
"""Bytes of the reason that a session is closed for (§6)."""

LINGER = 1.0
"""Seconds that the peer may take to end its direction after a session was closed."""

_CLOSE_SESSION = 0x2843
_BIDIRECTIONAL = varint(0x41)
_UNIDIRECTIONAL = varint(0x54)

# The range of HTTP/3 codes that stands for applications' own, of 32 bits; each 31st is left out (§4.3).
_FIRST_CODE = 0x52E4A40FA8DB
_LAST_CODE = 0x52E5AC983162


def to_http3(code: int) -> int:
    """How an application's code is sent. Raises LocalProtocolError where it has more than 32 bits."""
    if not 0 <= code < 1 << 32:
        raise LocalProtocolError(f"{code} is no code of WebTransport: they have 32 bits")
    return _FIRST_CODE + code + code // 0x1E


def from_http3(code: int) -> int:
    """What a code that came means to the application: its own, or HTTP/3's, which are larger than 32 bits can tell."""
    if not _FIRST_CODE <= code <= _LAST_CODE or (code - 0x21) % 0x1F == 0:
        return code
    shifted = code - _FIRST_CODE
    return shifted - shifted // 0x1F


class WebTransportClosed(WhimbrelError):
    """The session is over. The connection may still stand.

    Attributes:
        code: the application's reason, 32 bits; 0: all is well.
        reason: a phrase that goes with it.
        by_peer: who closed it.
        is_clean: whether it was closed, rather than broken off.
    """

    slug = "webtransport-closed"

    def __init__(self, code: int, reason: str, *, by_peer: bool, is_clean: bool, peer: str | None = None) -> None:
        who = "the peer" if by_peer else "this end"
        how = "closed" if is_clean else "broke off"
        why = (f" with code {code}" if code else "") + (f": {reason}" if reason else "")
        super().__init__(f"{who} {how} the session{why}", peer=peer)
        self.code, self.reason, self.by_peer, self.is_clean = code, reason, by_peer, is_clean

    def again(self) -> WebTransportClosed:
        """The same, to be raised once more."""
        return WebTransportClosed(self.code, self.reason, by_peer=self.by_peer, is_clean=self.is_clean, peer=self.peer)


class WebTransportSession:
    """One WebTransport session, at either end: made by `Client.webtransport` and `Request.accept_webtransport`.

    It is used as a `whimbrel.Connection` is. Codes of its streams are the application's, of 32 bits. When it is over,
    what is left of them raises `WebTransportClosed`. Leaving ``async with`` closes it.
    """

    def __init__(self, owner: Session, identifier: int) -> None:
        """Made by this package only, before the session is agreed on: its streams may come first."""
        self.id = identifier
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._tunnel: Tunnel
        self._arrived: deque[Stream | ReceiveStream] = deque()
        self._accepters = Line(self._loop)
        self._waiting_closed = Line(self._loop)
        self._streams: weakref.WeakSet[_Sending | _Receiving] = weakref.WeakSet()
        self._closed: WebTransportClosed | None = None
        self._reader: asyncio.Task[None] | None = None
        self._prefix = varint(identifier)

    @property
    def connection(self) -> Connection:
        """The connection that it is on, for its path and its moves."""
        return self._owner.connection

    @property
    def headers(self) -> Headers:
        """Of the answer that opened it."""
        return self._tunnel.headers

    @property
    def max_datagram_size(self) -> int:
        """The largest datagram that can be sent now, bytes."""
        return self._tunnel.max_datagram_size

    @property
    def datagrams_dropped(self) -> int:
        """How many were received and not fetched in time: at most 256 wait."""
        return self._tunnel.datagrams_dropped

    async def open_stream(self) -> Stream:
        """Open a stream in both directions; wait while the peer's limit is reached.

        Raises:
            WebTransportClosed: the session is over.
            ConnectionLost: the connection ended.
        """
        self._check()
        stream = _Bidirectional(await self.connection.open_stream())
        await self._introduce(stream, _BIDIRECTIONAL)
        return stream

    async def open_send_stream(self) -> SendStream:
        """Open a stream in our direction only. Waits, and raises, as `open_stream`."""
        self._check()
        stream = _Sending(await self.connection.open_send_stream())
        await self._introduce(stream, _UNIDIRECTIONAL)
        return stream

    async def accept_stream(self) -> Stream | ReceiveStream:
        """Wait for a stream that the peer opens.

        Raises:
            WebTransportClosed: the session is over.
            ConnectionLost: the connection ended.
        """
        while not self._arrived:
            self._check()
            await self._accepters.wait()
        stream = self._arrived.popleft()
        self._accepters.wake()
        return stream

    def streams(self) -> AsyncIterator[Stream | ReceiveStream]:
        """The streams that the peer opens. Ends quietly when the session is closed with code 0.

        Raises:
            WebTransportClosed: while iterating: it ended otherwise.
            ConnectionLost: likewise: the connection ended.
        """
        return _Streams(self)

    def send_datagram(self, data: Buffer) -> None:
        """Send an unreliable datagram. When too many wait to be sent, the oldest is dropped.

        Raises:
            DatagramTooLarge: it is larger than `max_datagram_size`.
            WebTransportClosed: the session is over.
        """
        self._check()
        self._tunnel.send_datagram(data)

    async def receive_datagram(self) -> bytes:
        """Wait for a datagram of the peer's.

        Raises:
            WebTransportClosed: the session is over.
        """
        try:
            return await self._tunnel.receive_datagram()
        except TunnelClosed:
            await self.wait_closed()
            self._check()
            raise

    async def close(self, code: int = 0, reason: str = "") -> None:
        """Close the session; its streams are given up. May be called twice.

        Args:
            code: the reason, 32 bits; 0: all is well.
            reason: a phrase of at most 1024 bytes; more of it is left out.
        """
        if self._closed is None:
            to_http3(code)  # It says so where that is none.
            phrase = reason.encode()[:MAX_REASON].decode(errors="ignore")
            self._over(WebTransportClosed(code, phrase, by_peer=False, is_clean=True, peer=self.connection.peer))
            with suppress(WhimbrelError):
                await self._tunnel.write(capsule(_CLOSE_SESSION, code.to_bytes(4, "big") + phrase.encode()))
                await self._tunnel.finish()
        if self._reader is not None:
            # Until the peer has ended its direction, or it may not have read what we said.
            await asyncio.wait({self._reader}, timeout=LINGER)
        self._tunnel.cancel(ErrorCode.H3_NO_ERROR)

    async def wait_closed(self) -> WebTransportClosed:
        """Wait until the session is over. Returns who closed it, and why."""
        while self._closed is None:
            await self._waiting_closed.wait()
        return self._closed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.abandon()

    # For this package -------------------------------------------------------------------------------------------------

    def begin(self, tunnel: Tunnel) -> None:
        """The session is agreed on."""
        self._tunnel = tunnel
        self._reader = self._owner.spawn(self._read)

    def arrived(self, stream: Stream | ReceiveStream, data: bytes) -> None:
        """The peer opened a stream, and this is what came after its introduction."""
        taken = _Bidirectional(stream) if isinstance(stream, Stream) else _Receiving(stream)
        taken._buffer += data
        if self._closed is not None:
            _give_up(taken)
            return
        self._streams.add(taken)
        self._arrived.append(taken)
        self._accepters.wake()

    def abandon(self, code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """Break the session off."""
        reason = code_name(code)
        self._over(WebTransportClosed(0, reason, by_peer=False, is_clean=False, peer=self.connection.peer))
        if self._reader is not None:
            self._reader.cancel()
            self._tunnel.cancel(code)

    # Inside -----------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if (closed := self._closed) is None:
            return
        if not closed.is_clean and self.connection._lost is not None:
            raise self._owner.failure() or self.connection._error()
        raise closed.again()

    async def _introduce(self, stream: _Sending, kind: bytes) -> None:
        try:
            self._check()  # Once more: it may have taken long.
            await stream.write(kind + self._prefix)
        except BaseException:
            _give_up(stream)
            raise
        stream._writes = [0]
        self._streams.add(stream)

    async def _read(self) -> None:
        """What the peer says of the session, until its end."""
        peer = self.connection.peer
        try:
            found = await read_capsule(self._tunnel, {_CLOSE_SESSION})
            code, reason = (0, "") if found is None else _closing(found[1])
            closed = WebTransportClosed(code, reason, by_peer=True, is_clean=True, peer=peer)
            self._over(closed)
            with suppress(WhimbrelError):
                await self._tunnel.finish()
            if found is not None and await self._tunnel.read(1):
                raise RemoteProtocolError("something follows the end of the session")
        except StreamReset as reset:
            self._over(WebTransportClosed(0, code_name(reset.code), by_peer=True, is_clean=False, peer=peer))
            self._tunnel.cancel()
        except RemoteProtocolError as error:
            self._over(WebTransportClosed(0, error.message, by_peer=True, is_clean=False, peer=peer))
            self._tunnel.cancel(ErrorCode.H3_MESSAGE_ERROR)
        except WhimbrelError as error:  # The connection is lost, or we gave the tunnel up.
            by_peer = not isinstance(error, LocalProtocolError)
            self._over(WebTransportClosed(0, error.message, by_peer=by_peer, is_clean=False, peer=peer))

    def _over(self, closed: WebTransportClosed) -> None:
        if self._closed is not None:
            return
        self._closed = closed
        self._owner.webtransports.pop(self.id, None)
        for stream in self._streams:
            stream.gone = closed
            _give_up(stream)
        self._arrived.clear()
        self._accepters.wake_all()
        self._waiting_closed.wake_all()


class _Streams:
    """Iteration over the peer's streams. A class, since a generator left half-way would need the loop to clean it."""

    def __init__(self, session: WebTransportSession) -> None:
        self._session = session

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Stream | ReceiveStream:
        try:
            return await self._session.accept_stream()
        except WebTransportClosed as closed:
            if closed.is_clean and not closed.code:
                raise StopAsyncIteration from None
            raise


def _closing(value: bytes) -> tuple[int, str]:
    if len(value) < 4 or len(value) > 4 + MAX_REASON:
        raise RemoteProtocolError("the capsule that closes the session has a wrong length")
    try:
        return int.from_bytes(value[:4], "big"), value[4:].decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("the reason that closes the session is no UTF-8") from None


def refuse(stream: Stream | ReceiveStream) -> None:
    """A stream names a session that is not here."""
    taken = _Bidirectional(stream) if isinstance(stream, Stream) else _Receiving(stream)
    _give_up(taken, ErrorCode.WT_BUFFERED_STREAM_REJECTED)


def _give_up(stream: Stream | SendStream | ReceiveStream, code: int = ErrorCode.WT_SESSION_GONE) -> None:
    # Past the translation: these codes are not the application's.
    with suppress(WhimbrelError):
        if isinstance(stream, ReceiveStream):
            ReceiveStream.stop(stream, code)
    with suppress(WhimbrelError):
        if isinstance(stream, SendStream) and not stream._finished:
            SendStream.reset(stream, code)


# Streams, with the application's codes --------------------------------------------------------------------------------


class _Receiving(ReceiveStream):
    gone: WebTransportClosed | None = None
    """Why the session is over, once it is."""

    def __init__(self, stream: ReceiveStream | SendStream) -> None:
        vars(self).update(vars(stream))  # Whatever it knew, this one knows.
        stream._ended = stream._finished = True  # It is not to be cleaned when it is dropped.

    def stop(self, code: int = 0) -> None:
        super().stop(to_http3(code))

    def _unreadable(self) -> Exception:
        if self.gone is not None:
            return self.gone.again()
        if self._reset_by_peer is None:
            return super()._unreadable()
        return _translated(StreamReset, self._reset_by_peer, self)


class _Sending(SendStream):
    gone: WebTransportClosed | None = None

    def __init__(self, stream: ReceiveStream | SendStream) -> None:
        vars(self).update(vars(stream))
        stream._ended = stream._finished = True

    def reset(self, code: int = 0) -> None:
        super().reset(to_http3(code))

    def _unwritable(self) -> Exception:
        if self.gone is not None:
            return self.gone.again()
        if self._stopped_by_peer is None:
            return super()._unwritable()
        return _translated(StreamStopped, self._stopped_by_peer, self)


class _Bidirectional(_Receiving, _Sending, Stream):
    pass


def _translated(kind: type[StreamReset | StreamStopped], code: int, stream: SendStream | ReceiveStream) -> StreamError:
    ours = from_http3(code)
    # One that is not the application's says more by its name.
    message = "" if ours != code else f"the peer gave stream {stream.id} up ({code_name(code)})"
    return kind(ours, message, stream=stream.id, peer=stream._connection.peer)
