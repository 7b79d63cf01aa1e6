"""HTTP/3 by aioquic's sans-IO `H3Connection`. The only file that knows of it.

aioquic expects its own QUIC connection below; `_Transport` has as much of that face as `H3Connection` looks at.
Private names of aioquic are used in this file alone, which is why its version is pinned to a minor release:
`tests/unit/test_http_aioquic.py` notices when one of them changes. Each use says what it is for.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pylsqpack
from aioquic.buffer import encode_uint_var
from aioquic.h3 import connection as h3_connection
from aioquic.h3 import events as h3_events
from aioquic.h3.connection import H3Connection, H3Stream, HeadersState, MessageError, ProtocolError, Setting
from aioquic.quic import events as quic_events

from whimbrel.http._headers import request_problem
from whimbrel.http._protocol import (
    NOTHING_MORE,
    ConnectionFailed,
    DatagramReceived,
    DataReceived,
    ErrorCode,
    Event,
    Extensions,
    GoAway,
    HeadersReceived,
    MessageEnded,
    MessageMalformed,
    RawHeaders,
    StreamIntroduced,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioquic.quic.connection import QuicConnection

MAX_FIELD_SECTION = 64 << 10
"""Bytes of a header section, encoded, or decoded as RFC 9114 §4.2.2 counts. Common servers take 8 to 64 KiB."""


class AioquicHttp3:
    """An `whimbrel.http._protocol.Http3` for either end.

    Args:
        control_streams: three unidirectional streams that we opened: control, QPACK encoder, QPACK decoder.
        is_client: whether this end asks, or answers.
        peer_takes_datagrams: whether the peer's transport parameters say so. Asked when its settings come.
        extensions: what to announce.
    """

    def __init__(
        self,
        control_streams: Sequence[int],
        *,
        is_client: bool = True,
        peer_takes_datagrams: Callable[[], bool] = lambda: False,
        extensions: Extensions = NOTHING_MORE,
    ) -> None:
        self._transport = _Transport(control_streams, peer_takes_datagrams, is_client=is_client)
        self._h3 = _Connection(self._transport, extensions)
        self._goaway: dict[int, _GoAwayReader] = {}
        self._last_goaway: int | None = None
        self._is_client = is_client
        self._control_stream = control_streams[0]
        self._peer_unidirectional = _SERVER_UNIDIRECTIONAL if is_client else _CLIENT_UNIDIRECTIONAL

    def peer_extensions(self) -> Extensions | None:
        settings = self._h3.received_settings
        if settings is None:
            return None
        return Extensions(
            extended_connect=settings.get(Setting.ENABLE_CONNECT_PROTOCOL) == 1,
            datagrams=settings.get(Setting.H3_DATAGRAM) == 1,
            # Draft 2 has no number: no limit then but that of the streams.
            webtransport_sessions=settings.get(_WT_MAX_SESSIONS, 0)
            or (_ANY_NUMBER if settings.get(Setting.ENABLE_WEBTRANSPORT) == 1 else 0),
        )

    def receive(self, stream: int, data: bytes, *, ended: bool = False) -> list[Event]:
        events: list[Event] = []
        if data:
            events += self._handle(quic_events.StreamDataReceived(data=data, end_stream=False, stream_id=stream))
            if stream & 3 == self._peer_unidirectional and not self._transport.failure:
                events += self._read_goaway(stream, data)
        if ended:
            # By itself, so that what the headers say about the content is known when its length is checked.
            events += self._handle(quic_events.StreamDataReceived(data=b"", end_stream=True, stream_id=stream))
            self._goaway.pop(stream, None)
            self._h3.without_content.discard(stream)
            self._h3.tunnels.discard(stream)
            if stream in self._h3.qpack_streams() and not self._transport.failure:
                # RFC 9204 §4.2. H3Connection looks at the control stream alone.
                code = ErrorCode.H3_CLOSED_CRITICAL_STREAM
                events.append(self._transport.fail(code, "a QPACK stream was closed"))
        return events

    def datagram_received(self, data: bytes) -> list[Event]:
        return self._handle(quic_events.DatagramFrameReceived(data=data))

    def datagram_prefix(self, stream: int) -> bytes:
        return encode_uint_var(stream // 4)

    def reset_received(self, stream: int, code: int) -> list[Event]:
        self._goaway.pop(stream, None)
        self._h3.tunnels.discard(stream)
        return self._handle(quic_events.StreamReset(error_code=code, stream_id=stream))

    def stop_received(self, stream: int, code: int) -> list[Event]:
        return self._handle(quic_events.StopSendingReceived(error_code=code, stream_id=stream))

    def headers(self, stream: int, headers: RawHeaders, *, end: bool = False) -> bytes:
        self._h3.send_headers(stream, headers, end_stream=end)
        return self._transport.take_message()

    def data_frame(self, stream: int, length: int) -> bytes:
        # H3Connection checks that content comes after a header section: an empty frame asks it, and is not sent.
        self._h3.send_data(stream, b"", end_stream=False)
        self._transport.take_message()
        return b"\x00" + encode_uint_var(length)

    def end(self, stream: int) -> None:
        # As if the peer had asked for no more: H3Connection then takes our half for ended.
        self._handle(quic_events.StopSendingReceived(error_code=ErrorCode.H3_NO_ERROR, stream_id=stream))

    def go_away(self, stream: int) -> None:
        frame = h3_connection.encode_frame(h3_connection.FrameType.GOAWAY, encode_uint_var(stream))
        self._transport.send_stream_data(self._control_stream, frame)

    def padding(self, length: int) -> bytes:
        return h3_connection.encode_frame(_RESERVED_FRAME, bytes(length))

    def expect_no_content(self, stream: int) -> None:
        self._h3.without_content.add(stream)

    def tunnel(self, stream: int) -> None:
        self._h3.tunnels.add(stream)

    def abandon(self, stream: int) -> None:
        # As if the peer had ended both halves: H3Connection then forgets the stream and cancels what its decoder held
        # for it (RFC 9204 §4.4.2). It has no other way to be told.
        self._handle(quic_events.StreamReset(error_code=ErrorCode.H3_REQUEST_CANCELLED, stream_id=stream))
        self._handle(quic_events.StopSendingReceived(error_code=ErrorCode.H3_REQUEST_CANCELLED, stream_id=stream))
        self._h3.without_content.discard(stream)
        self._h3.tunnels.discard(stream)

    def take_control(self) -> list[tuple[int, bytes]]:
        return self._transport.take_control()

    def _handle(self, event: quic_events.QuicEvent) -> list[Event]:
        if self._transport.failure:
            return []
        events = self._translate(self._h3.handle_event(event))
        events += self._h3.take_found()
        events += self._transport.take_incomplete()
        if self._transport.failure:
            events.append(self._transport.failure)
        return events

    def _translate(self, h3_received: list[h3_events.H3Event]) -> list[Event]:
        events: list[Event] = []
        pieces: list[bytes] = []
        for event in h3_received:
            if isinstance(event, h3_events.DataReceived):  # Thousands in a download: they come first, and cost least.
                if event.data:
                    if not pieces:
                        events.append(DataReceived(event.stream_id, pieces))
                    pieces.append(event.data)
            elif isinstance(event, h3_events.HeadersReceived):
                if event.stream_id in self._h3.tunnels:
                    # RFC 9114 §4.4: a tunnel has no trailers. That the connection failed is added by the caller.
                    self._transport.fail(ErrorCode.H3_FRAME_UNEXPECTED, "HEADERS within a tunnel")
                    break
                if dict(event.headers).get(b":status") == b"304":
                    self.expect_no_content(event.stream_id)
                if not self._is_client and (problem := self._request_problem(event)):
                    events.append(problem)
                    break
                events.append(HeadersReceived(event.stream_id, event.headers))
                pieces = []
            elif isinstance(event, h3_events.DatagramReceived):
                if event.stream_id > _LAST_STREAM:
                    self._transport.fail(ErrorCode.H3_DATAGRAM_ERROR, "a datagram is about a stream that cannot be")
                else:
                    events.append(DatagramReceived(event.stream_id, event.data))
                continue
            else:
                continue  # Pushes are refused: nothing else can come.
            if event.stream_ended:
                events.append(MessageEnded(event.stream_id))
        return events

    def _read_goaway(self, stream: int, data: bytes) -> list[Event]:
        try:
            identifiers = self._goaway.setdefault(stream, _GoAwayReader()).read(data)
        except ValueError as error:
            return [self._transport.fail(ErrorCode.H3_FRAME_ERROR, str(error))]
        events: list[Event] = []
        for identifier in identifiers:
            # RFC 9114 §5.2: a request's stream, where a server says it, and never more than was said before.
            if (self._is_client and identifier & 3) or (
                self._last_goaway is not None and identifier > self._last_goaway
            ):
                return [*events, self._transport.fail(ErrorCode.H3_ID_ERROR, f"GOAWAY names stream {identifier}")]
            self._last_goaway = identifier
            events.append(GoAway(identifier))
        return events

    def _request_problem(self, event: h3_events.HeadersReceived) -> MessageMalformed | None:
        """What H3Connection lets through as a request, and RFC 9114 does not."""
        stream = event.stream_id
        if not any(name.startswith(b":") for name, _ in event.headers):
            return None  # Trailers: they were checked to have none.
        # RFC 9114 §4.2.2: what a field costs, decoded. The table's entries make a section swell to the hundredfold.
        if sum(len(name) + len(value) + 32 for name, value in event.headers) > MAX_FIELD_SECTION:
            return MessageMalformed(stream, ErrorCode.H3_EXCESSIVE_LOAD, "its header section is too large")
        reason = request_problem(event.headers)
        return MessageMalformed(stream, ErrorCode.H3_MESSAGE_ERROR, reason) if reason else None


_RESERVED_FRAME = 0x21  # RFC 9114 §7.2.8
_LAST_STREAM = (1 << 62) - 1  # RFC 9000 §2.1
_WT_MAX_SESSIONS = 0xC671706A  # draft-ietf-webtrans-http3-07 §8.2; H3Connection knows draft 2's ENABLE_WEBTRANSPORT.
_ANY_NUMBER = 1 << 60

# The low two bits of a unidirectional stream's id, by who opened it (RFC 9000 §2.1).
_CLIENT_UNIDIRECTIONAL = 2
_SERVER_UNIDIRECTIONAL = 3


class _Transport:
    """As much of aioquic's QuicConnection as its H3Connection looks at."""

    def __init__(
        self, control_streams: Sequence[int], peer_takes_datagrams: Callable[[], bool], *, is_client: bool
    ) -> None:
        self.configuration = SimpleNamespace(is_client=is_client)
        self.failure: ConnectionFailed | None = None
        self._quic_logger = None
        self._peer_takes_datagrams = peer_takes_datagrams
        self._unused = list(control_streams)
        self._control_streams = frozenset(control_streams)
        self._control: list[tuple[int, bytes]] = []
        self._message: list[bytes] = []
        self._incomplete: list[Event] = []

    @property
    def _remote_max_datagram_frame_size(self) -> int | None:
        # H3Connection asks only whether there is any, since H3_DATAGRAM may not be set without (RFC 9297 §2.1.1).
        return 1 if self._peer_takes_datagrams() else None

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        assert is_unidirectional, "requests' streams are opened by the client, not by the HTTP layer"
        return self._unused.pop(0)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        if stream_id not in self._control_streams:
            self._message.append(data)
        elif data:
            self._control.append((stream_id, data))

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        # A server's H3Connection does so where a request ended before its header section did.
        self._incomplete.append(MessageMalformed(stream_id, error_code, "it ended before it began"))

    def close(self, error_code: int, reason_phrase: str = "") -> None:
        self.fail(error_code, reason_phrase)

    def fail(self, code: int, reason: str) -> ConnectionFailed:
        self.failure = ConnectionFailed(int(code), reason or ErrorCode(code).name)
        return self.failure

    def take_message(self) -> bytes:
        message, self._message = self._message, []
        return b"".join(message)

    def take_incomplete(self) -> list[Event]:
        incomplete, self._incomplete = self._incomplete, []
        return incomplete

    def take_control(self) -> list[tuple[int, bytes]]:
        control, self._control = self._control, []
        return control


class _Connection(H3Connection):
    """H3Connection, with what we need otherwise."""

    def __init__(self, transport: _Transport, extensions: Extensions) -> None:
        self.without_content: set[int] = set()
        self.tunnels: set[int] = set()
        self._extensions = extensions
        self._found: list[Event] = []  # What H3Connection has no events for.
        super().__init__(cast("QuicConnection", transport))

    def qpack_streams(self) -> tuple[int | None, int | None]:
        """Those of the peer, as soon as they are known."""
        return self._peer_encoder_stream_id, self._peer_decoder_stream_id

    def take_found(self) -> list[Event]:
        found, self._found = self._found, []
        return found

    def _init_connection(self) -> None:
        # No dynamic table for what the peer sends: with one, 64 KiB of header section could stand for 256 MB of
        # fields, and a response would wait for packets of another stream, which is worst just after a move. It costs
        # some hundred bytes a response.
        self._max_table_capacity = 0
        self._blocked_streams = 0
        self._decoder = pylsqpack.Decoder(0, 0)
        # Nor for what we send, whatever the peer allows, and for the same reason.
        self._encoder = cast("pylsqpack.Encoder", _StaticEncoder())
        # No MAX_PUSH_ID is sent, so a server that pushes breaks the protocol (RFC 9114 §7.2.7): nobody would take it.
        self._max_push_id = None
        super()._init_connection()

    def _get_local_settings(self) -> dict[int, int]:
        settings = {**super()._get_local_settings(), Setting.MAX_FIELD_SECTION_SIZE: MAX_FIELD_SECTION}
        # H3Connection announces extended CONNECT whoever it is, and whatever is served.
        if not self._extensions.extended_connect:
            del settings[Setting.ENABLE_CONNECT_PROTOCOL]
        if self._extensions.datagrams:
            settings[Setting.H3_DATAGRAM] = 1
        if self._extensions.webtransport_sessions:
            settings[Setting.ENABLE_WEBTRANSPORT] = 1
            settings[_WT_MAX_SESSIONS] = self._extensions.webtransport_sessions
        return settings

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> RawHeaders:
        headers = super()._decode_headers(stream_id, frame_data)
        # RFC 9114 §4.3.1: a request may name its authority in Host alone; H3Connection insists on the pseudo-header.
        if not self._is_client and headers and headers[0][0].startswith(b":") and b":authority" not in dict(headers):
            host = dict(headers).get(b"host")
            if host:
                headers.insert(1, (b":authority", host))
        return headers

    def _check_content_length(self, stream: H3Stream) -> None:
        # A response that opens a tunnel has no content, whatever length it tells (RFC 9110 §9.3.6).
        if stream.stream_id in self.tunnels:
            return
        # A response to HEAD, and a 304, tell the length of what they do not carry (RFC 9110 §8.6).
        if stream.stream_id not in self.without_content or stream.content_length:
            super()._check_content_length(stream)

    def _receive_request_or_push_data(
        self, stream: H3Stream, data: bytes, stream_ended: bool
    ) -> list[h3_events.H3Event]:
        try:
            events = super()._receive_request_or_push_data(stream, data, stream_ended)
        except MessageError as error:
            # H3Connection would end the connection; RFC 9114 §4.1.2 asks for the end of this stream alone.
            return self._reject(stream, ErrorCode.H3_MESSAGE_ERROR, error.reason_phrase)
        if stream.session_id is not None:
            return self._introduced(stream, stream.session_id, events)
        # Whatever is not content is held until it is whole, so its size must be bounded here.
        if len(stream.buffer) > MAX_FIELD_SECTION:
            return self._reject(stream, ErrorCode.H3_EXCESSIVE_LOAD, "its header section is too large")
        return events

    def _receive_stream_data_uni(self, stream: H3Stream, data: bytes, stream_ended: bool) -> list[h3_events.H3Event]:
        events = super()._receive_stream_data_uni(stream, data, stream_ended)
        if stream.session_id is not None:
            return self._introduced(stream, stream.session_id, events)
        if len(stream.buffer) > MAX_FIELD_SECTION:
            raise _ExcessiveLoad("its settings are too large")
        return events

    def _reject(self, stream: H3Stream, code: ErrorCode, reason: str) -> list[h3_events.H3Event]:
        stream.buffer = b""
        self._found.append(MessageMalformed(stream.stream_id, code, reason))
        return []

    def _introduced(self, stream: H3Stream, session: int, events: list[h3_events.H3Event]) -> list[h3_events.H3Event]:
        if not self._extensions.webtransport_sessions:
            return self._reject(stream, ErrorCode.H3_FRAME_UNEXPECTED, "WebTransport was not announced")
        if stream.headers_recv_state != HeadersState.INITIAL or stream.headers_send_state != HeadersState.INITIAL:
            raise _FrameError("a request turns into a stream of WebTransport")
        if session & 3:
            raise _IdError(f"stream {session} cannot be a WebTransport session")
        # H3Connection tells of it only with its first bytes, which may be long in coming.
        data = b"".join(e.data for e in events if isinstance(e, h3_events.WebTransportStreamDataReceived))
        self._found.append(StreamIntroduced(stream.stream_id, session, data))
        self._stream.pop(stream.stream_id, None)
        return []


class _StaticEncoder:
    """As much of pylsqpack's Encoder as H3Connection uses, without a dynamic table."""

    def __init__(self) -> None:
        self._encoder = pylsqpack.Encoder()
        self.encode = self._encoder.encode
        self.feed_decoder = self._encoder.feed_decoder

    def apply_settings(self, *, max_table_capacity: int, blocked_streams: int) -> bytes:
        return self._encoder.apply_settings(max_table_capacity=0, blocked_streams=0)


class _ExcessiveLoad(ProtocolError):
    """What H3Connection catches to end the connection; it has none for this code."""

    error_code = h3_connection.ErrorCode.H3_EXCESSIVE_LOAD


class _FrameError(ProtocolError):
    error_code = h3_connection.ErrorCode.H3_FRAME_ERROR


class _IdError(ProtocolError):
    error_code = h3_connection.ErrorCode.H3_ID_ERROR


class _GoAwayReader:
    """Finds GOAWAY on one of the peer's unidirectional streams; H3Connection checks the others and skips this one."""

    def __init__(self) -> None:
        self._buffer = b""
        self._skip = 0
        self._is_control: bool | None = None

    def read(self, data: bytes) -> list[int]:
        """Returns the identifiers that came, in order. Raises ValueError where a GOAWAY frame is malformed."""
        found: list[int] = []
        if self._is_control is False:
            return found
        self._buffer += data
        while self._buffer:
            if self._skip:
                skipped = min(self._skip, len(self._buffer))
                self._skip -= skipped
                self._buffer = self._buffer[skipped:]
                continue
            if self._is_control is None:
                if not (first := _varint(self._buffer)):
                    break
                self._is_control = first[0] == _CONTROL_STREAM
                self._buffer = self._buffer[first[1] :] if self._is_control else b""
                continue
            frame = _varints(self._buffer, 2)
            if frame is None:
                break
            (kind, length), start = frame
            if kind != _GOAWAY_FRAME:
                self._skip, self._buffer = length, self._buffer[start:]
                continue
            if length > 8:
                raise ValueError("GOAWAY is too long")
            payload = self._buffer[start : start + length]
            if len(payload) < length:
                break
            identifier = _varint(payload)
            if identifier is None or identifier[1] != length:
                raise ValueError("GOAWAY does not hold one number")
            found.append(identifier[0])
            self._buffer = self._buffer[start + length :]
        return found


_CONTROL_STREAM = 0x00  # RFC 9114 §6.2.1
_GOAWAY_FRAME = 0x07  # RFC 9114 §7.2.6


def _varints(data: bytes, count: int) -> tuple[list[int], int] | None:
    values: list[int] = []
    start = 0
    for _ in range(count):
        value = _varint(data[start : start + 8])
        if value is None:
            return None
        values.append(value[0])
        start += value[1]
    return values, start


def _varint(data: bytes) -> tuple[int, int] | None:
    """The variable-length integer that ``data`` begins with and its length, if it is all there (RFC 9000 §16)."""
    if not data:
        return None
    length = 1 << (data[0] >> 6)
    if len(data) < length:
        return None
    return int.from_bytes(data[:length], "big") & ((1 << (8 * length - 2)) - 1), length
