"""Tunnels: streams that CONNECT opens, for other protocols to speak over (RFC 9114 §4.4, RFC 9220).

A tunnel is a `whimbrel.Stream` of which the HTTP layer keeps the frames: everything that a stream can do, it can, and
each direction ends by itself. What is the same at both ends is here; who asks for tunnels, and who accepts them, is in
`_client` and `_request`.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from whimbrel._errors import (
    ConnectionLost,
    DatagramTooLarge,
    LocalProtocolError,
    RemoteProtocolError,
    StreamError,
    StreamReset,
    WhimbrelError,
)
from whimbrel._stream import Stream
from whimbrel.http._headers import Headers
from whimbrel.http._protocol import (
    ConnectionFailed,
    DataReceived,
    ErrorCode,
    Event,
    MessageEnded,
    MessageMalformed,
    code_name,
)
from whimbrel.http._response import FRAME_SIZE, READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

    from whimbrel.http._datagrams import DatagramQueue
    from whimbrel.http._session import Session


class TunnelRefused(StreamError):
    """The server opened no tunnel. The connection still stands.

    Attributes:
        status: of its answer; 0: it was not asked, since it did not announce extended CONNECT (RFC 9220 §3).
        headers: of its answer.
        body: of its answer, the first 4 KiB.
    """

    slug = "tunnel-refused"

    def __init__(self, status: int, headers: Headers, body: bytes, message: str, *, peer: str) -> None:
        super().__init__(ErrorCode.H3_CONNECT_ERROR, message, peer=peer)
        self.args = (status, message)
        self.status = status
        self.headers = headers
        self.body = body


class TunnelClosed(StreamError):
    """The tunnel is over, so no datagrams come any more.

    Attributes:
        code: what the peer reset it with; else H3_NO_ERROR.
    """

    slug = "tunnel-closed"
    default = "the tunnel on {stream} is over"


class Tunnel(Stream):
    """A stream within an HTTP/3 connection: made by `Client.tunnel`, or by `Request.accept` at the server's end.

    It reads, writes and iterates as every `whimbrel.Stream`. `finish` ends our direction only, and the end of what
    comes is the end of theirs only. Leaving ``async with`` is `close`; with an exception, both directions are given up.
    """

    status: int
    """Of the answer that opened it: 200, mostly."""
    headers: Headers
    """Of that answer."""
    protocol: str | None
    """What is spoken in it (``:protocol``), such as ``"websocket"``; None: what the target speaks (plain CONNECT)."""

    def __init__(
        self,
        owner: Session,
        stream: Stream,
        status: int,
        headers: Headers,
        protocol: str | None,
        *,
        received: Iterable[bytes] = (),
        datagrams: DatagramQueue | None = None,
        over: Callable[[], None] = lambda: None,
    ) -> None:
        """Made by this package only.

        Args:
            owner: the end of the connection that it belongs to.
            stream: where CONNECT was asked and answered; not to be used any more.
            status: see above, as for the next two.
            headers: likewise.
            protocol: likewise.
            received: content that came with the question or the answer.
            datagrams: those about the stream. None: what is spoken has none, such as TCP.
            over: called when both directions have ended.
        """
        vars(self).update(vars(stream))  # Whatever it knew, the tunnel knows.
        self._writes = [0]
        stream._ended = stream._finished = True  # It is not to be cleaned when it is dropped.
        self.status, self.headers, self.protocol = status, headers, protocol
        self._owner = owner
        self._http3 = owner.http3
        self._chunks = deque(received)
        self._start = 0  # What of the first chunk has been read.
        self._head = b""  # Of a frame that has begun, what the connection has not taken yet.
        self._due = 0  # Bytes that the frame still lacks.
        self._datagrams = datagrams
        self._over = over
        self._http3.tunnel(stream.id)

    @property
    def is_over(self) -> bool:
        """Whether both directions have ended, so or so."""
        received = self._ended or self._stopped or self._reset_by_peer is not None
        sent = self._finished or self._reset or self._stopped_by_peer is not None
        return received and sent

    # Datagrams --------------------------------------------------------------------------------------------------------

    @property
    def max_datagram_size(self) -> int:
        """The largest datagram that can be sent now, bytes; 0 where the peer or the protocol has none."""
        extensions = self._http3.peer_extensions()
        if self._datagrams is None or extensions is None or not extensions.datagrams:
            return 0
        return max(0, self._connection.max_datagram_size - len(self._http3.datagram_prefix(self.id)))

    @property
    def datagrams_dropped(self) -> int:
        """How many were received and not fetched in time: at most 256 wait."""
        return 0 if self._datagrams is None else self._datagrams.dropped

    def send_datagram(self, data: Buffer) -> None:
        """Send an unreliable datagram along with the tunnel (RFC 9297). When too many wait, the oldest is dropped.

        Raises:
            DatagramTooLarge: it is larger than `max_datagram_size`.
            LocalProtocolError: the tunnel is over.
            ConnectionLost: the connection ended.
        """
        connection, view = self._connection, memoryview(data).cast("B")
        if self.is_over and connection._lost is None:
            raise LocalProtocolError("the tunnel is over, so it has no datagrams any more", peer=connection.peer)
        if view.nbytes > (limit := self.max_datagram_size) and connection._lost is None:
            text = (
                f"a datagram of {view.nbytes} bytes is larger than {limit}" if limit else "this tunnel has no datagrams"
            )
            raise DatagramTooLarge(text, peer=connection.peer)
        connection.send_datagram(b"".join((self._http3.datagram_prefix(self.id), view)))

    async def receive_datagram(self) -> bytes:
        """Wait for a datagram of the peer's. Somebody reads the tunnel meanwhile, or its end is not noticed.

        Raises:
            TunnelClosed: the tunnel is over.
            LocalProtocolError: what is spoken has no datagrams.
            ConnectionLost: the connection ended.
        """
        if self._datagrams is None:
            raise LocalProtocolError("plain CONNECT has no datagrams", peer=self._connection.peer)
        data = await self._datagrams.get()
        if data is not None:
            return data
        if self._connection._lost is not None:
            raise self._owner.failure() or self._connection._error()
        code = self._reset_by_peer if self._reset_by_peer is not None else ErrorCode.H3_NO_ERROR
        raise TunnelClosed(code, stream=self.id, peer=self._connection.peer)

    # Giving up --------------------------------------------------------------------------------------------------------

    def reset(self, code: int | None = None) -> None:
        """Give our direction up (RESET_STREAM): what was not delivered is dropped.

        Args:
            code: the reason, see `ErrorCode`; by default H3_CONNECT_ERROR at a server that was asked for a plain
                tunnel, as if a TCP connection had failed there; else H3_REQUEST_CANCELLED.
        """
        super().reset(self._default_code if code is None else code)
        self._http3.end(self.id)
        self._check_over()

    def stop(self, code: int | None = None) -> None:
        """Ask the peer to send no more (STOP_SENDING), and drop what has come.

        Args:
            code: as for `reset`.
        """
        if self._ended:
            self._chunks.clear()
            return
        super().stop(self._default_code if code is None else code)
        self._chunks.clear()
        self._http3.reset_received(self.id, ErrorCode.H3_REQUEST_CANCELLED)
        self._owner.control_ready()
        self._check_over()

    def cancel(self, code: int | None = None) -> None:
        """Give both directions up: `reset` and `stop`. What has ended well stays so."""
        with suppress(WhimbrelError):
            self.stop(code)
        if not self._finished:
            with suppress(WhimbrelError):
                self.reset(code)

    async def close(self) -> None:
        """Be done with it: `finish`, and want no more of what comes. May be called twice.

        Whoever needs to know that the peer has everything reads to the end first.

        Raises:
            ConnectionLost: the connection ended.
            LocalProtocolError: as `finish`.
        """
        self._leave(None)

    # Stream's own parts, with frames ----------------------------------------------------------------------------------

    @property
    def _default_code(self) -> int:
        # RFC 9114 §4.4, RFC 9220 §3: the one that stands for a TCP connection that failed, and the one for all others.
        is_proxy = self.protocol is None and not self._connection.is_client
        return ErrorCode.H3_CONNECT_ERROR if is_proxy else ErrorCode.H3_REQUEST_CANCELLED

    def _leave(self, error: BaseException | None) -> None:
        if error is not None:
            self.cancel()
            return
        try:
            self._leave_sending(None)
        except BaseException:
            self.cancel()
            raise
        self.stop(ErrorCode.H3_NO_ERROR)

    def _try_read(self, limit: int) -> bytes | None:
        self._check_reader()
        while not self._chunks:
            data = self._read_raw()
            if data is None:
                return None
            if not data and not self._chunks:
                return b""
        return self._take_chunk(limit)

    def _try_read_into(self, view: memoryview) -> int | None:
        data = self._try_read(view.nbytes)
        if data is None:
            return None
        view[: len(data)] = data
        return len(data)

    def _take_chunk(self, limit: int) -> bytes:
        chunk, start = self._chunks[0], self._start
        if len(chunk) - start > limit:
            self._start += limit
            return chunk[start : self._start]
        self._start = 0
        self._chunks.popleft()
        return chunk[start:] if start else chunk

    def _read_raw(self) -> bytes | None:
        """Take from the stream what is there, and have the HTTP layer look at it."""
        if self._ended:
            return b""
        try:
            data = super()._try_read(READ_SIZE)
        except StreamReset as reset:
            self._http3.reset_received(self.id, reset.code)
            self._owner.control_ready()
            self._check_over()
            text = f"the peer reset the tunnel ({code_name(reset.code)})"
            raise StreamReset(reset.code, text, stream=self.id, peer=reset.peer) from None
        except ConnectionLost as lost:
            # Where we closed it ourselves, what the peer did says more.
            raise self._owner.failure() or lost from None
        if data is not None:
            events = self._http3.receive(self.id, data, ended=not data)
            self._owner.control_ready()
            for event in events:
                self._apply(event)
            if not data:
                self._check_over()
        return data

    def _apply(self, event: Event) -> None:
        match event:
            case DataReceived(pieces=pieces):
                self._chunks.extend(pieces)
            case MessageEnded():
                pass  # The stream says it, too.
            case MessageMalformed(code=code, reason=reason):
                self.cancel(code)
                raise RemoteProtocolError(f"the tunnel is malformed: {reason} ({code_name(code)})")
            case ConnectionFailed():
                self._owner.connection_failed(event)
                self.cancel(event.code)
                failure = self._owner.failure()
                assert failure is not None, "the owner has just been told"
                raise failure
            case _:
                raise AssertionError(f"{event} has nothing to do with a tunnel")

    def _try_write(self, data: bytes | memoryview) -> int:
        if not len(data) or self._finished:
            return super()._try_write(b"")  # It may say that nothing can be written any more.
        if not self._due and not self._head:
            self._check_writer()
            self._due = min(len(data), FRAME_SIZE)
            self._head = self._http3.data_frame(self.id, self._due)
        # What a cancelled write left of its frame, this one fills.
        piece = data if len(data) <= self._due else memoryview(data)[: self._due]
        taken = self._write_raw(piece)
        self._due -= taken
        return taken

    def _write_raw(self, piece: bytes | memoryview) -> int:
        while True:
            head = self._head
            try:
                both = super()._try_write(b"".join((head, piece)) if head else piece)
            except ConnectionLost as lost:
                raise self._owner.failure() or lost from None
            self._head = head[both:]
            framing = min(both, len(head))
            self._writes.append(-framing)
            # Only what was refused altogether is announced when there is room again.
            if both > framing or not both:
                return both - framing

    def _finish(self) -> None:
        if self._due:
            raise LocalProtocolError(
                f"{self._due} bytes of a cancelled write are still due: write them, or reset the tunnel",
                peer=self._connection.peer,
            )
        self._http3.end(self.id)
        super()._finish()
        self._check_over()

    def _give_up(self, code: int) -> None:
        super()._give_up(code)
        self._http3.stop_received(self.id, code)
        self._check_over()

    def _check_over(self) -> None:
        if self.is_over:
            self._owner.datagrams.forget(self.id)
            self._over()
