"""What a radio does to frames, with the time as an argument. On real packet sockets: tests/lab/."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, cast

import pytest

from whimbrel.testing import _air
from whimbrel.testing._air import RECORD, Capture, Direction, Ring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Arrivals:
    """Stands in for the memory shared with the kernel."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, bytes]] = []

    def take(self, limit: int) -> list[tuple[float, bytes]]:
        taken, self.frames = self.frames[:limit], self.frames[limit:]
        return taken


class Bench:
    """One direction of a radio: 100 ms, 1000 bytes per second."""

    def __init__(self, path: Path, *, captured_on_entry: bool) -> None:
        self.arrivals = Arrivals()
        self.file = path.open("wb")
        self.path = path
        self.capture = Capture(self.file.fileno())
        way_out, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.far.setblocking(False)
        way_out.setblocking(False)
        self.way_out = way_out
        ring = cast("Ring", self.arrivals)
        self.way = Direction(ring, way_out, self.capture, captured_on_entry=captured_on_entry)
        self.way.delay, self.way.rate = 0.1, 1000.0

    def arrive(self, at: float, *frames: bytes, now: float | None = None) -> None:
        self.arrivals.frames += [(at, frame) for frame in frames]
        self.way.accept(at if now is None else now, 0.0, 256)

    def delivered(self, now: float) -> list[bytes]:
        self.way.deliver(now)
        frames = []
        while True:
            try:
                frames.append(self.far.recv(2048))
            except BlockingIOError:
                return frames

    def captured(self) -> list[tuple[float, int]]:
        self.capture.flush()
        data = self.path.read_bytes()[len(_air.FILE_HEAD) :]
        records = []
        while data:
            seconds, nanoseconds, size, length = RECORD.unpack_from(data)
            records.append((seconds + nanoseconds * 1e-9, length))
            data = data[RECORD.size + size :]
        return records

    def close(self) -> None:
        self.file.close()
        self.far.close()
        self.way_out.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "capture", captured_on_entry=True)
    yield bench
    bench.close()


def test_a_frame_takes_its_length_and_the_delay(bench: Bench) -> None:
    bench.arrive(5.0, b"a" * 20)
    assert bench.delivered(5.119) == []
    assert bench.delivered(5.121) == [b"a" * 20]
    assert (bench.way.frames, bench.way.bytes) == (1, 6)


def test_frames_wait_for_those_before_them(bench: Bench) -> None:
    bench.arrive(5.0, b"a" * 20, b"b" * 20)
    assert bench.delivered(5.121) == [b"a" * 20]
    assert bench.delivered(5.141) == [b"b" * 20]


def test_a_frame_that_would_wait_too_long_is_dropped(bench: Bench) -> None:
    bench.arrive(5.0, *[b"a" * 20] * 10)
    assert len(bench.delivered(9.0)) == 3  # They began to be sent after 0, 20 and 40 ms; the next after 60.
    assert bench.way.overflowed == 7


def test_the_time_of_arrival_counts_when_the_process_comes_late(bench: Bench) -> None:
    bench.arrive(5.0, b"a" * 20, now=5.119)
    assert bench.delivered(5.121) == [b"a" * 20]


def test_a_clock_that_somebody_set_does_not_stop_the_radio(bench: Bench) -> None:
    bench.arrive(9999.0, b"a" * 20, now=5.0)
    bench.arrive(-9999.0, b"b" * 20, now=5.3)
    assert bench.delivered(5.5) == [b"a" * 20, b"b" * 20]


def test_silence_loses_what_is_under_way_and_what_comes(bench: Bench) -> None:
    ways = (bench.way, bench.way)
    bench.arrive(5.0, b"a" * 20)
    _air.change(ways, {"silent": True})
    bench.arrive(5.01, b"b" * 20)
    assert bench.delivered(9.0) == []
    assert bench.way.lost == 2
    _air.change(ways, {"silent": False})
    bench.arrive(9.0, b"c" * 20)
    assert bench.delivered(9.2) == [b"c" * 20]


def test_what_the_device_sends_is_captured_even_if_it_is_lost(bench: Bench) -> None:
    bench.way.loss = 1.0
    bench.arrive(5.5, b"a" * 200)
    assert bench.delivered(9.0) == []
    assert bench.captured() == [(5.5, 200)]


def test_what_comes_to_the_device_is_captured_when_it_arrives(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "capture", captured_on_entry=False)
    bench.arrive(5.0, b"a" * 20)
    assert bench.captured() == []
    bench.delivered(5.25)
    assert bench.captured() == [(5.25, 20)]
    bench.arrive(6.0, b"b" * 20)
    bench.far.close()
    bench.way.deliver(7.0)  # The interface at the other end is down.
    assert bench.captured() == [(5.25, 20)]
    assert bench.way.lost == 1
    bench.close()
