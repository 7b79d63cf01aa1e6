"""A radio: what it is like, and the process that carries its frames."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.testing import _air
from whimbrel.testing._capture import Packet, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whimbrel.testing._namespace import Namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    """What a radio is like: the same both ways.

    Raises:
        ValueError: a value is out of its range.
    """

    rtt: float = 0.010
    """Seconds to the base station and back, for a small packet on an idle radio."""
    rate: float = 200e6
    """Bits per second, each way."""
    loss: float = 0.001
    """Part of the packets that is lost at random, each way."""
    queue: float = 0.050
    """Seconds that a packet may have to wait for its turn; one that would wait longer is dropped."""

    def __post_init__(self) -> None:
        if self.rtt < 0 or self.queue <= 0 or self.rate <= 0 or not 0 <= self.loss <= 1:
            raise ValueError(f"a radio's times and rate are positive and its loss is 0 to 1: {self}")


WIFI = Radio()
"""10 ms, 200 Mbit/s, one packet in a thousand lost."""
CELLULAR = Radio(rtt=0.040, rate=100e6)
"""40 ms, 100 Mbit/s, one packet in a thousand lost."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a radio carried one way since it was made."""

    frames: int
    bytes: int
    """IP bytes: without Ethernet."""
    lost: int
    """Frames lost: by chance, in silence, or since the interface at the other end was down."""
    overflowed: int
    """Frames that found the queue full."""


class Air:
    """The process that joins a device's end of a radio and the base station's."""

    def __init__(self, namespace: Namespace, device_end: str, base_end: str, radio: Radio) -> None:
        """Start it on two interfaces of a namespace.

        Raises:
            OSError: no packet sockets here.
        """
        self.radio = radio
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._read = len(_air.FILE_HEAD)
        self._packets: list[Packet] = []
        self._lock = threading.Lock()  # A scenario's thread and the program's own both give orders.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends = [namespace.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(2)]
        try:
            # -I -S: without the user's environment and site-packages, as neither is needed and both are slow.
            program = [sys.executable, "-I", "-S", str(Path(_air.__file__))]
            # A session of its own: Ctrl-C is for the foreground program, which then ends this one.
            self._process = subprocess.Popen(program, stdin=theirs.fileno(), start_new_session=True)
            names = json.dumps({"ends": [device_end, base_end]}).encode()
            socket.send_fds(self._control, [names], [*(end.fileno() for end in ends), self._file.fileno()])
        finally:
            theirs.close()
            for end in ends:
                end.close()
        self._answer()
        self.set(radio)

    def set(self, radio: Radio) -> None:
        """Change what the radio is like, for packets from now on."""
        self.radio = radio
        self._order(delay=radio.rtt / 2, rate=radio.rate / 8, loss=radio.loss, queue_limit=radio.queue)

    def silence(self, silent: bool) -> None:
        """Carry nothing, or carry again. What is under way is lost."""
        self._order(silent=silent)

    def lose(self, sent: Sequence[int], received: Sequence[int]) -> None:
        """Lose these UDP packets from now on, counted from the next one each way, which is 0."""
        self._order(lose=[list(sent), list(received)])

    def traffic(self) -> tuple[Traffic, Traffic]:
        """Return what was carried from the device, and to it."""
        return self._order()

    def packets(self, device: str) -> list[Packet]:
        """Return what was captured so far, given the hardware address of the device."""
        self._order()
        new = self._captured(self._read)
        self._read += len(new)
        self._packets += parse(new, device)
        return self._packets

    def save(self, path: str | Path) -> None:
        """Write the capture so far as a pcap file."""
        self._order()
        Path(path).write_bytes(self._captured(0))

    def close(self) -> None:
        """End the process. May be called twice."""
        if self._file.closed:
            return
        self._control.close()
        ended = os.pidfd_open(self._process.pid)  # Popen.wait() with a time-out looks only now and then.
        try:
            if not select.select([ended], (), (), 1.0)[0]:
                self._process.kill()
        finally:
            os.close(ended)
        self._process.wait()
        self._file.close()

    def _captured(self, start: int) -> bytes:
        # Never by seek() and read(): the position belongs to both processes, and the other one writes at it.
        file = self._file.fileno()
        return os.pread(file, os.fstat(file).st_size - start, start)

    def _order(self, **settings: float | list[list[int]]) -> tuple[Traffic, Traffic]:
        with self._lock:
            self._control.send(json.dumps(settings).encode())
            return self._answer()

    def _answer(self) -> tuple[Traffic, Traffic]:
        answer = self._control.recv(4096)
        if not answer:
            raise RuntimeError("the radio's process has ended")
        up, down = json.loads(answer)
        return Traffic(**up), Traffic(**down)
