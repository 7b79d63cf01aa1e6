"""TLS 1.3 over TCP with asyncio's streams: what everybody has without installing anything."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from typing import TYPE_CHECKING

from programs._files import FIRST, HOST, PIECE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from programs._files import Files

CONTENT = bytes(PIECE)
LIMIT = 1 << 20
"""Bytes that a reader holds; asyncio's own is a sixteenth of it, and slower."""


@contextlib.asynccontextmanager
async def serve(files: Files, accepted: Callable[[], None]) -> AsyncIterator[int]:
    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(16)
                wanted, coming = int.from_bytes(head[:8], "big"), int.from_bytes(head[8:], "big")
                await receive(reader, coming)
                await send(writer, wanted)
        writer.close()

    context = server_context(files)
    server = await asyncio.start_server(attend, HOST, 0, ssl=context, limit=LIMIT, backlog=1024)
    yield server.sockets[0].getsockname()[1]
    server.close()


def server_context(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.certificate, files.key)
    return context


@functools.cache
def client_context(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(files.authority)
    return context


@contextlib.asynccontextmanager
async def connect(files: Files, port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(HOST, port, ssl=client_context(files), limit=LIMIT)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


class Client:
    """Makes one exchange after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def exchange(self, up: int, down: int) -> None:
        head = down.to_bytes(8, "big") + up.to_bytes(8, "big")
        self._writer.write(head + bytes(min(up, FIRST)))
        await send(self._writer, max(up - FIRST, 0))
        await receive(self._reader, down)


async def receive(reader: asyncio.StreamReader, count: int) -> None:
    while count:
        piece = await reader.read(min(count, PIECE))
        if not piece:
            raise ConnectionError("the connection ended early")
        count -= len(piece)


async def send(writer: asyncio.StreamWriter, count: int) -> None:
    while count:
        piece = min(count, PIECE)
        writer.write(CONTENT if piece == PIECE else bytes(piece))
        await writer.drain()
        count -= piece
