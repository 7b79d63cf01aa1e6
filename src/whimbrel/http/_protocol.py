"""What an HTTP/3 layer must offer (RFC 9114), without I/O. Names and values; the work is done in `_aioquic`.

Bytes of streams go in by `receive`, what they mean comes out as events; what is to be written comes out as bytes. Who
reads and writes the streams, and when, is decided by `_session` and what stands on it. Replacing the layer means
another class like `Http3`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeAlias

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]
"""Field names in lower case and values, in order; pseudo-header fields such as ``:status`` first (RFC 9114 §4.3)."""


class ErrorCode(IntEnum):
    """Why a stream or a connection is ended (RFC 9114 §8.1, RFC 9204 §6, RFC 9297 §5.2, WebTransport §9.5)."""

    H3_DATAGRAM_ERROR = 0x33
    H3_NO_ERROR = 0x100
    H3_GENERAL_PROTOCOL_ERROR = 0x101
    H3_INTERNAL_ERROR = 0x102
    H3_STREAM_CREATION_ERROR = 0x103
    H3_CLOSED_CRITICAL_STREAM = 0x104
    H3_FRAME_UNEXPECTED = 0x105
    H3_FRAME_ERROR = 0x106
    H3_EXCESSIVE_LOAD = 0x107
    H3_ID_ERROR = 0x108
    H3_SETTINGS_ERROR = 0x109
    H3_MISSING_SETTINGS = 0x10A
    H3_REQUEST_REJECTED = 0x10B
    H3_REQUEST_CANCELLED = 0x10C
    H3_REQUEST_INCOMPLETE = 0x10D
    H3_MESSAGE_ERROR = 0x10E
    H3_CONNECT_ERROR = 0x10F
    H3_VERSION_FALLBACK = 0x110
    QPACK_DECOMPRESSION_FAILED = 0x200
    QPACK_ENCODER_STREAM_ERROR = 0x201
    QPACK_DECODER_STREAM_ERROR = 0x202
    WT_SESSION_GONE = 0x170D7B68
    WT_BUFFERED_STREAM_REJECTED = 0x3994BD84


def code_name(code: int) -> str:
    """``H3_REQUEST_CANCELLED`` for 0x10c; the number itself for one that nobody has named."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"0x{code:x}"


@dataclass(frozen=True, slots=True)
class HeadersReceived:
    """A header or trailer section is complete, interim responses included (RFC 9114 §4.1)."""

    stream: int
    headers: RawHeaders


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Some of a message's content: what one call of `Http3.receive` brought, in the pieces that need no copy."""

    stream: int
    pieces: list[bytes]


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """The message is whole: its length is what its header section said."""

    stream: int


@dataclass(frozen=True, slots=True)
class MessageMalformed:
    """The peer broke a rule about one message: end its stream with ``code`` (RFC 9114 §4.1.2)."""

    stream: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer starts no work on streams from ``stream`` on, and none on new ones (RFC 9114 §5.2)."""

    stream: int


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The peer broke a rule of the connection: close it with ``code`` (RFC 9114 §8)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class DatagramReceived:
    """A datagram about the request on a stream (RFC 9297 §2.1)."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamIntroduced:
    """A stream says that it belongs to a WebTransport session, and is none of ours any more: forget it."""

    stream: int
    session: int
    data: bytes
    """What came after that."""


Event = (
    HeadersReceived
    | DataReceived
    | MessageEnded
    | MessageMalformed
    | GoAway
    | ConnectionFailed
    | DatagramReceived
    | StreamIntroduced
)


@dataclass(frozen=True, slots=True)
class Extensions:
    """What an end of a connection announces beyond RFC 9114, in its SETTINGS."""

    extended_connect: bool = False
    """A server takes CONNECT with ``:protocol`` (RFC 9220)."""
    datagrams: bool = False
    """HTTP datagrams are understood (RFC 9297 §2.1.1)."""
    webtransport_sessions: int = 0
    """How many WebTransport sessions there may be at once; 0: it is not understood."""


NOTHING_MORE = Extensions()
"""Nothing beyond RFC 9114."""


class Http3(Protocol):
    """One end of an HTTP/3 connection."""

    def peer_extensions(self) -> Extensions | None:
        """What the peer announced; None: its SETTINGS have not come yet."""
        ...

    def receive(self, stream: int, data: bytes, *, ended: bool = False) -> list[Event]:
        """Bytes that the peer sent on a stream, in order; ``ended``: they are the last ones."""
        ...

    def datagram_received(self, data: bytes) -> list[Event]:
        """The peer sent a datagram (RFC 9221)."""
        ...

    def datagram_prefix(self, stream: int) -> bytes:
        """What comes first in a datagram about a stream (RFC 9297 §2.1)."""
        ...

    def reset_received(self, stream: int, code: int) -> list[Event]:
        """The peer will send no more on a stream, and what it sent is not whole (RESET_STREAM)."""
        ...

    def stop_received(self, stream: int, code: int) -> list[Event]:
        """The peer reads no more of a stream (STOP_SENDING)."""
        ...

    def headers(self, stream: int, headers: RawHeaders, *, end: bool = False) -> bytes:
        """What to write on a stream to send a header or trailer section; ``end``: nothing follows it."""
        ...

    def data_frame(self, stream: int, length: int) -> bytes:
        """What to write before ``length`` bytes of content, which the caller then writes by itself, uncopied."""
        ...

    def end(self, stream: int) -> None:
        """Nothing more is sent on this stream; the caller ends it."""
        ...

    def go_away(self, stream: int) -> None:
        """Tell the peer that requests from ``stream`` on are not looked at (RFC 9114 §5.2); never more than before."""
        ...

    def padding(self, length: int) -> bytes:
        """A frame of a reserved type, which whoever gets it ignores (RFC 9114 §7.2.8), with ``length`` bytes in it."""
        ...

    def expect_no_content(self, stream: int) -> None:
        """The response on this stream has no content, whatever Content-Length it gives (RFC 9110 §8.6)."""
        ...

    def tunnel(self, stream: int) -> None:
        """CONNECT was accepted on this stream: nothing but DATA may follow, of any length (RFC 9114 §4.4)."""
        ...

    def abandon(self, stream: int) -> None:
        """Nothing more is sent or wanted on this stream: forget it, and tell the peer's header compression."""
        ...

    def take_control(self) -> list[tuple[int, bytes]]:
        """What to write now on the streams given to the constructor, in order, as (stream, bytes)."""
        ...
