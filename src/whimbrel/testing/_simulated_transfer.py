"""What is transferred in a simulation, and how it is known that every byte came once and in order.

A stream says first which exchange it is for, how many bytes follow, and how many are wanted back. The server gives them
when it has all of its own. Each exchange's bytes are a pattern that begins somewhere else, so that neither a byte nor a
stream can be mistaken.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel._connection import Connection
    from whimbrel._stream import ReceiveStream, SendStream, Stream

_REQUEST = struct.Struct(">QQQ")
_PERIOD = 65521  # Prime: no buffer's size divides it, so that a piece left out or given twice shows.
_PATTERN = random.Random(_PERIOD).randbytes(_PERIOD) * 3
PIECE = 1 << 15
"""Bytes written or read at once."""


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

    number: int
    up: int
    down: int
    received: Callable[[int], None]
    """Told how many bytes came, at either end."""
    ended: Callable[[], None]
    """Told when all that was wanted back has come."""


class Bearer:
    """Carries exchanges out, at both ends: in one process, the server may simply look whom it serves."""

    def __init__(self) -> None:
        self.reading = asyncio.Event()
        """Cleared while the client reads nothing."""
        self.reading.set()
        self.in_memory = 0
        """Bytes that the one end has taken to send and the other not read."""
        self.most_in_memory = 0
        self._exchanges: list[Exchange] = []

    def new(self, up: int, down: int, received: Callable[[int], None], ended: Callable[[], None]) -> Exchange:
        """Describe an exchange."""
        exchange = Exchange(len(self._exchanges), up, down, received, ended)
        self._exchanges.append(exchange)
        return exchange

    async def ask(self, connection: Connection, exchange: Exchange) -> None:
        """The client's part.

        Raises:
            AssertionError: other bytes came than were sent.
            WhimbrelError: the connection ended.
        """
        async with await connection.open_stream() as stream:
            await stream.write(_REQUEST.pack(exchange.number, exchange.up, exchange.down))
            await self._send(stream, exchange, exchange.up)
            checking = Checking(exchange.number, exchange.down)
            await self._receive(stream, exchange, checking, self.reading)
            exchange.ended()

    async def answer(self, stream: Stream) -> None:
        """The server's part; raises as `ask`."""
        async with stream:
            number, up, down = _REQUEST.unpack(await stream.readexactly(_REQUEST.size))
            exchange = self._exchanges[number]
            assert (up, down) == (exchange.up, exchange.down), f"exchange {number} does not begin as it should"
            await self._receive(stream, exchange, Checking(number, up), None)
            await self._send(stream, exchange, down)

    async def _send(self, stream: SendStream, exchange: Exchange, length: int) -> None:
        for offset in range(0, length, PIECE):
            piece = pattern(exchange.number, offset, min(PIECE, length - offset))
            await stream.write(piece)
            self.in_memory += len(piece)
            self.most_in_memory = max(self.most_in_memory, self.in_memory)
        await stream.finish()

    async def _receive(
        self, stream: ReceiveStream, exchange: Exchange, checking: Checking, reading: asyncio.Event | None
    ) -> None:
        while data := await stream.read(PIECE):
            if reading is not None and not reading.is_set():
                await reading.wait()
            self.in_memory -= len(data)
            checking.data(data)
            exchange.received(len(data))
        checking.end()


class Checking:
    """Looks whether what comes is what was sent."""

    def __init__(self, number: int, length: int) -> None:
        self._number = number
        self._length = length
        self._offset = 0

    def data(self, data: bytes) -> None:
        """More of it came.

        Raises:
            AssertionError: these are not the bytes that were sent.
        """
        expected = pattern(self._number, self._offset, len(data))
        assert data == expected, f"exchange {self._number} brought other bytes than were sent, after {self._offset}"
        self._offset += len(data)

    def end(self) -> None:
        """The stream ended.

        Raises:
            AssertionError: too early, or too late.
        """
        assert self._offset == self._length, f"exchange {self._number}: {self._offset} bytes of {self._length}"


def pattern(number: int, offset: int, length: int) -> bytes:
    """Some bytes of an exchange's."""
    begin = (number * 7919 + offset) % _PERIOD
    return _PATTERN[begin : begin + length]
