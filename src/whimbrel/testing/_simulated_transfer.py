"""What is transferred in a simulation, and how it is known that every byte came once and in order.

A stream says first how many bytes follow, and how many are wanted back. The server gives them when it has all of its
own. Each stream's bytes are a pattern that begins somewhere else, so that neither a byte nor a stream can be mistaken.
"""

from __future__ import annotations

import itertools
import math
import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whimbrel import _core

if TYPE_CHECKING:
    from collections.abc import Callable

_REQUEST = struct.Struct(">QQ")
_PERIOD = 65521  # Prime: no buffer's size divides it, so that a piece left out or given twice shows.
_PATTERN = random.Random(_PERIOD).randbytes(_PERIOD) * 3
_PIECE = _PERIOD


class Transfer:
    """Bytes on their way, and when they arrived."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.arrivals: list[float] = []
        """When new bytes came to whoever receives them, seconds."""
        self.received = 0
        """Bytes that came, in order."""
        self.completed_at: float | None = None
        self._clock = clock

    @property
    def complete(self) -> bool:
        """Whether every byte has come, once and in order."""
        return self.completed_at is not None

    @property
    def longest_silence(self) -> float:
        """The longest time without new bytes, from the first on; while it is not complete, until now."""
        ends = self.arrivals if self.complete else [*self.arrivals, self._clock()]
        return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=0.0)

    def resumed_after(self, time: float) -> float:
        """How long after that time new bytes came; infinity: none did."""
        return next((arrival - time for arrival in self.arrivals if arrival > time), math.inf)

    def silence_after(self, time: float) -> float:
        """How long nothing came at that time: from the last new bytes before it to the first after it."""
        before = max((arrival for arrival in self.arrivals if arrival <= time), default=time)
        return time - before + self.resumed_after(time)

    def progress(self, length: int) -> None:
        """So many bytes came."""
        self.received += length
        self.arrivals.append(self._clock())

    def end(self) -> None:
        """All of it has come."""
        self.completed_at = self._clock()


@dataclass(frozen=True, slots=True)
class Exchange:
    """What goes over one stream."""

    up: int
    down: int
    received: Callable[[int], None]
    """Told how many bytes came, at either end."""
    ended: Callable[[], None]
    """Told when all that was wanted back has come."""


class Streams:
    """One end of a connection, as an application uses it."""

    def __init__(self, core: _core.Connection) -> None:
        self._core = core
        self._sending: dict[int, _Sending] = {}
        self._receiving: dict[int, _Receiving] = {}

    def attend(self, kind: int, value: int) -> None:
        """The core has news."""
        if kind == _core.READABLE and value in self._receiving:
            self._read(value)
        elif kind == _core.WRITABLE and value in self._sending:
            self._write(value)

    def _send(self, stream: int, head: bytes, length: int) -> None:
        self._sending[stream] = _Sending(stream, head, length)
        self._write(stream)

    def _receive(self, stream: int, receiving: _Receiving) -> None:
        self._receiving[stream] = receiving
        self._read(stream)

    def _write(self, stream: int) -> None:
        sending = self._sending[stream]
        while piece := sending.piece():
            taken = self._core.write(stream, piece)
            if taken == 0:  # Only then WRITABLE follows.
                return
            sending.sent(taken)
        del self._sending[stream]
        self._core.finish(stream)

    def _read(self, stream: int) -> None:
        receiving = self._receiving[stream]
        while (data := self._core.read(stream, _PIECE)) is not None:
            if not data:
                del self._receiving[stream]
                receiving.end()
                return
            receiving.data(data)


class ClientStreams(Streams):
    """Asks."""

    def __init__(self, core: _core.Connection) -> None:
        super().__init__(core)
        self.exchanges: dict[int, Exchange] = {}
        """By stream; never forgotten, since the server looks here for whom it serves."""

    def begin(self, exchange: Exchange) -> None:
        """Open a stream for it."""
        stream = self._core.open_stream(False)
        if stream is None:
            raise RuntimeError("the server allows no more streams at once")
        self.exchanges[stream] = exchange
        self._receive(stream, _Receiving(stream, exchange.received, exchange.ended, exchange.down))
        self._send(stream, _REQUEST.pack(exchange.up, exchange.down), exchange.up)


class ServerStreams(Streams):
    """Answers."""

    def __init__(self, core: _core.Connection, exchange: Callable[[int], Exchange]) -> None:
        super().__init__(core)
        self._exchange = exchange

    def attend(self, kind: int, value: int) -> None:
        if kind == _core.OPENED:
            while (stream := self._core.accept_stream(bool(value))) is not None:
                self._serve(stream)
        super().attend(kind, value)

    def _serve(self, stream: int) -> None:
        exchange = self._exchange(stream)

        def ended() -> None:
            self._send(stream, b"", exchange.down)

        head = _REQUEST.pack(exchange.up, exchange.down)
        self._receive(stream, _Receiving(stream, exchange.received, ended, exchange.up, head))


class _Sending:
    """The rest of what one stream carries."""

    def __init__(self, stream: int, head: bytes, length: int) -> None:
        self._head = head
        self._begin = _begin(stream)
        self._offset = 0
        self._length = length

    def piece(self) -> bytes:
        """Return what comes next; nothing: that was all."""
        if self._head:
            return self._head
        return _pattern(self._begin + self._offset, min(_PIECE, self._length - self._offset))

    def sent(self, length: int) -> None:
        """So much of the piece is on its way."""
        if self._head:
            self._head = self._head[length:]
        else:
            self._offset += length


class _Receiving:
    """What one stream has brought so far."""

    def __init__(
        self, stream: int, told: Callable[[int], None], ended: Callable[[], None], length: int, head: bytes = b""
    ) -> None:
        self._stream = stream
        self._told = told
        self._ended = ended
        self._length = length
        self._head = head
        self._offset = 0

    def data(self, data: bytes) -> None:
        """More of it came.

        Raises:
            AssertionError: these are not the bytes that were sent.
        """
        head, rest = data[: len(self._head)], data[len(self._head) :]
        assert head == self._head[: len(head)], f"stream {self._stream} does not begin as it should"
        self._head = self._head[len(head) :]
        expected = _pattern(_begin(self._stream) + self._offset, len(rest))
        assert rest == expected, f"stream {self._stream} brought other bytes than were sent, after {self._offset}"
        self._offset += len(rest)
        if rest:
            self._told(len(rest))

    def end(self) -> None:
        """The stream ended.

        Raises:
            AssertionError: too early, or too late.
        """
        assert self._offset == self._length, f"stream {self._stream}: {self._offset} bytes of {self._length}"
        self._ended()


def _begin(stream: int) -> int:
    return stream * 7919


def _pattern(offset: int, length: int) -> bytes:
    begin = offset % _PERIOD
    return _PATTERN[begin : begin + length]
