"""The air between a device and its base station: delay, rate and loss, as a program of its own.

It runs in a process of its own, so that it does not share an interpreter with the program under test, and imports
nothing of whimbrel, so that it starts at once. Standard input is a SEQPACKET socket. The first message brings three
descriptors (a packet socket for each end, and the file for the capture) and the ends' names; each later one brings
settings to change, perhaps none. Every message is answered with the counters, once the capture is flushed. The end of
that socket is the end of the program.

The capture is a pcap file with nanoseconds on the clock of `time.monotonic`, of the first bytes of each frame: those
from the device when they leave it, arriving or not; those to the device when they arrive.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from contextlib import suppress

SNAPSHOT = 112
"""Bytes captured of each frame: Ethernet, IPv6, UDP, and 50 bytes of the payload: two connection IDs of 20."""
RECORD = struct.Struct("<IIII")
"""Head of a record: seconds, nanoseconds, bytes captured, bytes in the frame."""
FILE_HEAD = struct.pack("<IHHiIII", 0xA1B2_3C4D, 2, 4, 0, 0, SNAPSHOT, 1)
"""Head of the file: nanosecond pcap, version 2.4, Ethernet."""


class Ring:
    """Frames that arrive at one end, read from memory shared with the kernel (PACKET_MMAP, TPACKET_V2).

    A system call for each frame would cost as much as all else. The kernel's time of arrival comes with it: when this
    process had to wait for a processor, the frame's delay is still counted from when it came.
    """

    FRAME, COUNT, BLOCK = 2048, 2048, 1 << 16  # At 200 Mbit/s of full frames: room for 0.1 s without a processor.
    HEAD = struct.Struct("=IIIHHII")  # tpacket2_hdr: status, len, snaplen, mac, net, sec, nsec
    SOL_PACKET, RX_RING, VERSION, QDISC_BYPASS, IGNORE_OUTGOING = 263, 5, 10, 20, 23
    ETH_P_ALL = 3

    def __init__(self, end: socket.socket, interface: str) -> None:
        size = self.FRAME * self.COUNT
        end.setsockopt(self.SOL_PACKET, self.VERSION, 1)
        end.setsockopt(self.SOL_PACKET, self.IGNORE_OUTGOING, 1)
        end.setsockopt(self.SOL_PACKET, self.QDISC_BYPASS, 1)
        request = struct.pack("=IIII", self.BLOCK, size // self.BLOCK, self.FRAME, self.COUNT)
        end.setsockopt(self.SOL_PACKET, self.RX_RING, request)
        end.setblocking(False)
        self.memory = mmap.mmap(end.fileno(), size)
        self.words = memoryview(self.memory).cast("I")
        self.next = 0
        end.bind((interface, self.ETH_P_ALL))

    def take(self, limit: int) -> list[tuple[float, bytes]]:
        """Return what has arrived, oldest first: seconds on the wall clock, frame."""
        memory, words, unpack, position = self.memory, self.words, self.HEAD.unpack_from, self.next
        frames: list[tuple[float, bytes]] = []
        while len(frames) < limit and words[position >> 2] & 1:
            _status, length, captured, start, _network, seconds, nanoseconds = unpack(memory, position)
            if captured == length:  # Else longer than any frame may be: an offload was left on.
                start += position
                frames.append((seconds + nanoseconds * 1e-9, memory[start : start + length]))
            words[position >> 2] = 0
            position = (position + self.FRAME) % (self.FRAME * self.COUNT)
        self.next = position
        return frames


class Capture:
    """Writes the first bytes of frames to a file, many at a time."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.pending: list[bytes] = [FILE_HEAD]

    def add(self, at: float, frame: bytes) -> None:
        seconds = int(at)
        head = frame[:SNAPSHOT]
        self.pending.append(RECORD.pack(seconds, int((at - seconds) * 1e9), len(head), len(frame)))
        self.pending.append(head)
        if len(self.pending) >= 1024:
            self.flush()

    def flush(self) -> None:
        data = b"".join(self.pending)
        self.pending.clear()
        while data:
            data = data[os.write(self.descriptor, data) :]


class Direction:
    """One way through the air: frames wait for the sender's turn, then for the delay."""

    def __init__(self, ring: Ring, way_out: socket.socket, capture: Capture, *, captured_on_entry: bool) -> None:
        self.ring = ring
        self.way_out = way_out
        self.capture = capture
        self.captured_on_entry = captured_on_entry
        self.delay = self.loss = 0.0
        self.rate = 1e9  # bytes per second
        self.queue_limit = 0.05  # seconds
        self.silent = False
        self.lose: list[int] = []
        """Which UDP packets to lose, counted from the next, which is 0."""
        self.free = 0.0  # When the sender is done with all that is queued.
        self.queue: deque[tuple[float, bytes]] = deque()
        self.frames = self.bytes = self.lost = self.overflowed = 0

    def accept(self, now: float, to_monotonic: float, limit: int) -> None:
        """Queue what has arrived at the entrance, or lose it; at most so many frames."""
        chance, queue, loss, rate, delay = random.random, self.queue, self.loss, self.rate, self.delay
        for arrival, frame in self.ring.take(limit):
            # The bounds matter when somebody sets the wall clock.
            arrival = min(now, max(now - 0.2, arrival + to_monotonic))  # noqa: PLW2901
            if self.captured_on_entry:
                self.capture.add(arrival, frame)
            doomed = self.is_doomed(frame) if self.lose else False
            if doomed or self.silent or (loss and chance() < loss):
                self.lost += 1
                continue
            start = max(self.free, arrival)
            if start - arrival > self.queue_limit:
                self.overflowed += 1
                continue
            self.free = start + len(frame) / rate
            queue.append((self.free + delay, frame))

    def is_doomed(self, frame: bytes) -> bool:
        """Tell whether it is the turn of one of those to lose, and count it."""
        if frame[23:24] != b"\x11" if frame[12:14] == b"\x08\x00" else frame[20:21] != b"\x11":
            return False
        doomed = 0 in self.lose
        self.lose = [number - 1 for number in self.lose if number]
        return doomed

    def deliver(self, now: float) -> None:
        """Send what is due out of the exit."""
        queue, send = self.queue, self.way_out.send
        while queue and queue[0][0] <= now:
            frame = queue.popleft()[1]
            try:
                send(frame)
            except OSError:  # The interface at the other end is down, or its backlog full.
                self.lost += 1
                continue
            self.frames += 1
            self.bytes += len(frame) - 14
            if not self.captured_on_entry:
                self.capture.add(now, frame)


def main() -> None:
    """Carry frames until standard input ends."""
    with suppress(OSError):
        # Lateness of this process would look like the network's. Only root may; others have that.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    control = socket.socket(fileno=os.dup(0))
    message, descriptors, _flags, _address = socket.recv_fds(control, 4096, 3)
    ends = [socket.socket(fileno=number) for number in descriptors[:2]]
    rings = [Ring(end, name) for end, name in zip(ends, json.loads(message)["ends"], strict=True)]
    capture = Capture(descriptors[2])
    up = Direction(rings[0], ends[1], capture, captured_on_entry=True)
    down = Direction(rings[1], ends[0], capture, captured_on_entry=False)
    answer(control, up, down)
    gc.disable()  # Nothing here makes cycles.
    inputs = [control, *ends]
    ways = (up, down)
    idle = 1.0
    to_monotonic = wall_to_monotonic()
    while True:
        now = time.monotonic()
        due = min((way.queue[0][0] for way in ways if way.queue), default=now + idle)
        # select() and not epoll, whose time-out counts whole milliseconds.
        ready, _, _ = select.select(inputs, (), (), max(0.0, due - now))
        wall, now = time.time(), time.monotonic()
        if abs(now - wall - to_monotonic) > 100e-6:
            # Somebody set the clock, or this process was interrupted between the two readings: look again.
            to_monotonic = wall_to_monotonic()
        for way in ways:
            way.accept(now, to_monotonic, Ring.COUNT if control in ready else 256)
            way.deliver(now)
        if control in ready:  # Only now: what came before the order is treated as before the order.
            message = control.recv(4096)
            if not message:
                return
            change(ways, json.loads(message))
            capture.flush()
            answer(control, up, down)


def wall_to_monotonic() -> float:
    """Return what to add to the wall clock, which the kernel stamps frames with, to get the other one."""
    # An interruption between the two readings makes the difference larger: the smallest of some is the truth.
    return min(-time.time() + time.monotonic() for _ in range(5))


def change(ways: tuple[Direction, Direction], settings: dict[str, float | list[list[int]]]) -> None:
    """Give both directions new settings, of a pair one each. Silence also loses what is under way."""
    for number, way in enumerate(ways):
        for name, value in settings.items():
            setattr(way, name, value[number] if isinstance(value, list) else value)
        if way.silent:
            way.lost += len(way.queue)
            way.queue.clear()


def answer(control: socket.socket, up: Direction, down: Direction) -> None:
    """Tell how much was carried and lost so far."""
    names = ("frames", "bytes", "lost", "overflowed")
    control.send(json.dumps([{name: getattr(way, name) for name in names} for way in (up, down)]).encode())


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, ConnectionError):
        sys.exit()
