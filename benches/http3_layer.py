"""What the HTTP/3 layer costs: CPU for a 60 MB body, apart from QUIC. Run: python benches/http3_layer.py

Three ways for the bytes of a response to become its content: aioquic's H3Connection behind our adaptor, as used; the
same without our adaptor; and a bare loop over the frames, which is what a layer of our own over pylsqpack would do.
Servers choose the size of DATA frames: Caddy's is 32 KiB, aioquic's is what the application wrote at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

from aioquic.buffer import encode_uint_var
from aioquic.h3 import events as h3_events
from aioquic.h3.connection import FrameType, H3Connection
from aioquic.quic.events import StreamDataReceived

from whimbrel.http._aioquic import AioquicHttp3
from whimbrel.http._protocol import DataReceived
from whimbrel.http._response import FRAME_SIZE

BODY = 60_000_000
REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"example.org"), (b":path", b"/")]
ROUNDS = 5


def main() -> None:
    print(f"milliseconds of CPU for {BODY / 1e6:.0f} MB, median of {ROUNDS}")
    print(f"{'DATA frame':>12}{'read size':>12}{'adaptor':>10}{'H3Connection':>14}{'bare loop':>11}")
    for frame in (4 << 10, 16 << 10, 32 << 10, 256 << 10, BODY):
        for size in (64 << 10, 256 << 10):
            reads = list(pieces(response(frame), size))
            costs = [measure(way, reads) for way in (with_adaptor, with_h3_connection, with_bare_loop)]
            print(f"{frame:>12}{size:>12}{costs[0]:>10.1f}{costs[1]:>14.1f}{costs[2]:>11.1f}")
    print(f"upload in DATA frames of {FRAME_SIZE}: {measure(upload, [bytes(FRAME_SIZE)] * (BODY // FRAME_SIZE)):.1f}")


def response(frame: int) -> bytes:
    peer = H3Connection(cast("Any", Peer(is_client=False)))
    peer.send_headers(0, [(b":status", b"200"), (b"content-length", str(BODY).encode())])
    parts = list(cast("Any", peer)._quic.sent)
    for start in range(0, BODY, frame):
        length = min(frame, BODY - start)
        parts += [encode_uint_var(FrameType.DATA), encode_uint_var(length), bytes(length)]
    return b"".join(parts)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def measure(way: Callable[[list[bytes]], int], reads: list[bytes]) -> float:
    costs = []
    for _ in range(ROUNDS):
        before = time.process_time()
        assert way(reads) >= BODY // FRAME_SIZE * FRAME_SIZE
        costs.append(time.process_time() - before)
    return statistics.median(costs) * 1000


def with_adaptor(reads: list[bytes]) -> int:
    http3 = AioquicHttp3([2, 6, 10])
    http3.headers(0, REQUEST, end=True)
    events = (event for data in reads for event in http3.receive(0, data))
    return sum(len(piece) for event in events if isinstance(event, DataReceived) for piece in event.pieces)


def with_h3_connection(reads: list[bytes]) -> int:
    peer = H3Connection(cast("Any", Peer(is_client=True)))
    peer.send_headers(0, REQUEST, end_stream=True)
    received = (StreamDataReceived(data=data, end_stream=False, stream_id=0) for data in reads)
    events = (event for one in received for event in peer.handle_event(one))
    return sum(len(event.data) for event in events if isinstance(event, h3_events.DataReceived))


def with_bare_loop(reads: list[bytes]) -> int:
    total = left = 0
    kind = -1
    rest = b""
    for read in reads:
        data, position = rest + read, 0
        rest = b""
        while position < len(data):
            if not left:
                header = frame_header(data, position)
                if header is None:
                    rest = data[position:]
                    break
                kind, left, position = header
                continue
            content = data[position : position + left] if position or left < len(data) else data
            left -= len(content)
            position += len(content)
            total += len(content) if kind == FrameType.DATA else 0
    return total


def frame_header(data: bytes, position: int) -> tuple[int, int, int] | None:
    values = []
    for _ in range(2):
        if position >= len(data):
            return None
        length = 1 << (data[position] >> 6)
        encoded = data[position : position + length]
        if len(encoded) < length:
            return None
        values.append(int.from_bytes(encoded, "big") & ((1 << (8 * length - 2)) - 1))
        position += length
    return values[0], values[1], position


def upload(frames: list[bytes]) -> int:
    http3 = AioquicHttp3([2, 6, 10])
    http3.headers(0, REQUEST)
    return sum(len(http3.data_frame(0, len(frame)) + frame) for frame in frames)


class Peer:
    """The QUIC connection that H3Connection wants below it."""

    _quic_logger = None
    _remote_max_datagram_frame_size = None

    def __init__(self, *, is_client: bool) -> None:
        self.configuration = SimpleNamespace(is_client=is_client)
        self.sent: list[bytes] = []
        self._streams = iter(range(2 if is_client else 3, 1 << 20, 4))

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        assert is_unidirectional
        return next(self._streams)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        if stream_id == 0:
            self.sent.append(data)


if __name__ == "__main__":
    main()
