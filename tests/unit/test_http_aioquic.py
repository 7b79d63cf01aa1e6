"""The adaptor between our HTTP/3 client and aioquic: its private names, and what it adds."""

from __future__ import annotations

import inspect
import itertools

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3 import connection as h3_connection
from aioquic.h3.connection import FrameType, H3Connection, H3Stream, Setting, encode_frame, encode_settings

from whimbrel.http._aioquic import AioquicHttp3, _GoAwayReader
from whimbrel.http._protocol import (
    DataReceived,
    ErrorCode,
    Event,
    Extensions,
    GoAway,
    HeadersReceived,
    MessageEnded,
    StreamIntroduced,
)

CONTROL = 3
REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/")]


def http3() -> AioquicHttp3:
    return AioquicHttp3([2, 6, 10])


def settings(values: dict[int, int]) -> bytes:
    """How a control stream begins."""
    return b"\x00" + encode_frame(FrameType.SETTINGS, encode_settings(values))


def control_stream(*frames: bytes) -> bytes:
    return settings({0x21: 1}) + b"".join(frames)


def goaway(stream: int) -> bytes:
    return encode_frame(FrameType.GOAWAY, encode_uint_var(stream))


def test_the_private_names_that_the_adaptor_uses_still_exist() -> None:
    """When a new aioquic fails here, read its changes before widening the range in pyproject.toml."""
    for name in (
        "_init_connection",
        "_get_local_settings",
        "_check_content_length",
        "_receive_request_or_push_data",
        "_receive_stream_data_uni",
        "_decode_headers",
    ):
        assert callable(getattr(H3Connection, name))
    source = inspect.getsource(h3_connection)
    for name in (
        "_max_table_capacity",
        "_blocked_streams",
        "_decoder",
        "_max_push_id",
        "_remote_max_datagram_frame_size",
        "_peer_encoder_stream_id",
        "_peer_decoder_stream_id",
        "_stream",
    ):
        assert f".{name}" in source
    names = {"buffer", "content_length", "stream_id", "session_id", "headers_recv_state", "headers_send_state"}
    assert vars(H3Stream(0)).keys() >= names


def test_the_first_bytes_are_settings_on_the_control_stream() -> None:
    written = dict.fromkeys([2, 6, 10], b"")
    for stream, data in http3().take_control():
        written[stream] += data
    assert written[2][:2] == b"\x00\x04"  # The stream's type, SETTINGS.
    assert (written[6], written[10]) == (b"\x02", b"\x03")


def test_no_dynamic_table_is_offered() -> None:
    layer = http3()
    sent = layer._h3.sent_settings
    assert sent is not None
    assert sent[Setting.QPACK_MAX_TABLE_CAPACITY] == 0
    assert sent[Setting.QPACK_BLOCKED_STREAMS] == 0
    # A server that uses one all the same: Set Dynamic Table Capacity, 4096 (RFC 9204 §4.3.1).
    (failed,) = layer.receive(7, b"\x02\x3f\xe1\x1f")
    assert failed.code == ErrorCode.QPACK_ENCODER_STREAM_ERROR  # type: ignore[union-attr]


def test_a_peer_may_set_h3_datagram_where_its_transport_takes_datagrams() -> None:
    """As Chromium does in every connection (RFC 9297 §2.1.1)."""
    both = settings({Setting.H3_DATAGRAM: 1})
    assert AioquicHttp3([2, 6, 10], peer_takes_datagrams=lambda: True).receive(CONTROL, both) == []
    (failed,) = AioquicHttp3([2, 6, 10], peer_takes_datagrams=lambda: False).receive(CONTROL, both)
    assert failed.code == ErrorCode.H3_SETTINGS_ERROR  # type: ignore[union-attr]


def test_no_dynamic_table_is_used() -> None:
    """Whatever the peer allows: an answer must not wait for packets of another stream."""
    server = AioquicHttp3([3, 7, 11], is_client=False)
    server.take_control()
    server.receive(2, settings({Setting.QPACK_MAX_TABLE_CAPACITY: 4096, Setting.QPACK_BLOCKED_STREAMS: 16}))
    sent = [server.headers(stream, [(b":status", b"200"), (b"x", b"y" * 100)]) for stream in (0, 4, 8)]
    assert len(set(sent)) == 1
    assert server.take_control() == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_size_of_reads_does_not_matter(size: int) -> None:
    server = AioquicServer()
    wire = server.response(b"x" * 300)
    layer = http3()
    layer.headers(0, REQUEST, end=True)
    events: list[Event] = []
    for start in range(0, len(wire), size):
        events += layer.receive(0, wire[start : start + size])
    events += layer.receive(0, b"", ended=True)
    assert isinstance(events[0], HeadersReceived)
    assert (
        b"".join(piece for event in events if isinstance(event, DataReceived) for piece in event.pieces) == b"x" * 300
    )
    assert events[-1] == MessageEnded(0)


@pytest.mark.parametrize(("stream", "kind"), [(0, 0x41), (2, 0x54)])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_stream_of_webtransport_is_known_before_its_first_byte(stream: int, kind: int, size: int) -> None:
    layer = AioquicHttp3([3, 7, 11], is_client=False, extensions=Extensions(webtransport_sessions=1))
    wire = encode_uint_var(kind) + encode_uint_var(400)
    events = [e for i in range(0, len(wire), size) for e in layer.receive(stream, wire[i : i + size])]
    assert events == [StreamIntroduced(stream, 400, b"")]
    assert stream not in layer._h3._stream


@pytest.mark.parametrize(("stream", "kind"), [(0, 0x41), (2, 0x54)])
def test_what_follows_the_introduction_of_a_stream_is_handed_on(stream: int, kind: int) -> None:
    layer = AioquicHttp3([3, 7, 11], is_client=False, extensions=Extensions(webtransport_sessions=1))
    wire = encode_uint_var(kind) + encode_uint_var(0) + b"\x00\x01hello"
    assert layer.receive(stream, wire) == [StreamIntroduced(stream, 0, b"\x00\x01hello")]


def test_large_content_passes_through_uncopied() -> None:
    server = AioquicServer()
    wire = server.response(b"x" * 1_000_000)
    layer = http3()
    layer.headers(0, REQUEST, end=True)
    layer.receive(0, wire[:500_000])
    inner = wire[500_000:700_000]
    (event,) = layer.receive(0, inner)
    assert isinstance(event, DataReceived)
    (piece,) = event.pieces
    assert piece is inner


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_goaway_is_found_however_it_is_cut(size: int) -> None:
    greased = encode_frame(0x21, bytes(50))
    wire = control_stream(goaway(8000), greased, goaway(4))
    layer = http3()
    events = [e for i in range(0, len(wire), size) for e in layer.receive(CONTROL, wire[i : i + size])]
    assert events == [GoAway(8000), GoAway(4)]


def test_other_streams_have_no_goaway() -> None:
    layer = http3()
    grease = encode_uint_var(0x21) + goaway(0)
    assert layer.receive(CONTROL, grease) == []
    assert layer.receive(CONTROL, b"", ended=True) == []
    assert not layer._goaway


@pytest.mark.parametrize("payload", [b"", b"\x40", b"\x00\x00", bytes(9)])
def test_a_goaway_that_is_no_number_is_malformed(payload: bytes) -> None:
    with pytest.raises(ValueError, match="GOAWAY"):
        _GoAwayReader().read(b"\x00" + encode_frame(FrameType.GOAWAY, payload))


def test_nothing_is_taken_after_a_failure() -> None:
    layer = http3()
    layer.headers(0, REQUEST, end=True)
    assert layer.receive(0, b"\x00\x01x")
    assert layer.receive(0, b"\x00\x01x") == []
    assert layer.stop_received(2, 0) == []


def test_random_bytes_raise_nothing() -> None:
    """Hostile bytes end the connection with a code; they never raise."""
    for first, second in itertools.product(range(256), range(0, 256, 5)):
        for stream in (0, CONTROL):
            layer = http3()
            layer.headers(0, REQUEST, end=True)
            layer.receive(stream, bytes([first, second]) * 20, ended=True)


class AioquicServer:
    """Makes responses."""

    _quic_logger = None
    _remote_max_datagram_frame_size = None

    class configuration:  # noqa: N801
        is_client = False

    def __init__(self) -> None:
        self.sent = b""
        self._streams = iter(range(3, 100, 4))
        self.h3 = H3Connection(self)  # type: ignore[arg-type]

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        return next(self._streams)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        if stream_id == 0:
            self.sent += data

    def response(self, content: bytes) -> bytes:
        self.h3.send_headers(0, [(b":status", b"200"), (b"content-length", str(len(content)).encode())])
        self.h3.send_data(0, content, end_stream=True)
        return self.sent


def test_padding_is_a_frame_that_is_ignored() -> None:
    client = AioquicHttp3([2, 6, 10])
    server = AioquicHttp3([3, 7, 11], is_client=False)
    for stream, data in client.take_control():
        assert server.receive(stream, data) == []
    padding = client.padding(780)
    assert 780 < len(padding) <= 784
    assert server.receive(2, padding) == []
    assert server.receive(2, goaway(0)) == [GoAway(0)]
