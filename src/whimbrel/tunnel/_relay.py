"""Bytes between a local connection and a tunnel, both ways, until both ways have ended (RFC 9114 §4.4).

A half that ends properly ends the same half at the other side, and leaves the other half alone. A half that breaks
breaks both: TCP has no other way to say so, and nobody may take a piece for the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from whimbrel._errors import WhimbrelError

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Callable

CHUNK = 256 << 10
"""Bytes taken at once, where there are so many."""

BREAKS = (OSError, WhimbrelError)
"""What ends a tunnel that was not to end yet: the local connection's errors, and the tunnel's."""


class Pipe(Protocol):
    """Bytes in order, both ways; each way ends by itself."""

    async def read(self, n: int, /) -> bytes:
        """Wait for 1 to `n` bytes; b"" at the end."""

    async def write(self, data: bytes, /) -> None:
        """Send all; waiting is the back-pressure."""

    async def finish(self) -> None:
        """Nothing more will be written. What can be read still can."""

    def cancel(self) -> None:
        """Give both ways up, so that the other end knows that something is missing."""


@dataclass(slots=True)
class Traffic:
    """Bytes that a tunnel carried."""

    to_target: int = 0
    from_target: int = 0


async def relay(local: Pipe, tunnel: Pipe, traffic: Traffic, *, towards_tunnel: bool = True) -> Exception | None:
    """Carry bytes until both ways have ended. Returns what broke it; None: both ended properly.

    Args:
        local: the connection to a program, or to the target.
        tunnel: what goes over QUIC.
        traffic: counted up as bytes go through.
        towards_tunnel: whether the target is at the tunnel's other end; else it is the local connection.
    """

    def up(count: int) -> None:
        traffic.to_target += count

    def down(count: int) -> None:
        traffic.from_target += count

    there, back = (up, down) if towards_tunnel else (down, up)
    ways = [asyncio.create_task(_carry(local, tunnel, there)), asyncio.create_task(_carry(tunnel, local, back))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        broken = next((error for way in ways if way.done() and (error := way.exception()) is not None), None)
    except asyncio.CancelledError:
        _cancel(local, tunnel)
        raise
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    if broken is None:
        return None
    _cancel(local, tunnel)
    if not isinstance(broken, BREAKS):
        raise broken
    return broken


async def _carry(source: Pipe, sink: Pipe, count: Callable[[int], None]) -> None:
    while data := await source.read(CHUNK):
        await sink.write(data)
        count(len(data))
    await sink.finish()


def _cancel(*pipes: Pipe) -> None:
    for pipe in pipes:
        with contextlib.suppress(*BREAKS):
            pipe.cancel()


class SocketPipe:
    """A TCP connection, or one to a UNIX socket, of asyncio's."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, n: int) -> bytes:
        return await self._reader.read(n)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def finish(self) -> None:
        self._writer.write_eof()

    def cancel(self) -> None:
        connection = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            # RST instead of FIN: what came was not all.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        """Let the last bytes out, and close it."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
