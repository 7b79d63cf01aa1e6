"""Our own, through the public asyncio interface on both sides."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import whimbrel
from programs._files import ALPN, FIRST, HOST, PIECE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from programs._files import Files

CONTENT = bytes(PIECE)
SESSIONS = whimbrel.SessionStore()


@contextlib.asynccontextmanager
async def serve(files: Files, accepted: Callable[[], None], **options: Any) -> AsyncIterator[int]:
    if "max_connections" in options:
        options["limits"] = whimbrel.Limits(max_connections=options.pop("max_connections"))

    async def counted(connection: whimbrel.Connection) -> None:
        accepted()
        await attend(connection)

    cert = (files.certificate, files.key)
    async with whimbrel.serve(counted, HOST, cert=cert, alpn=ALPN, **options) as server:
        yield server.addresses[0][1]


async def attend(connection: whimbrel.Connection) -> None:
    async with asyncio.TaskGroup() as group:
        async for stream in connection.streams():
            assert isinstance(stream, whimbrel.Stream), "the clients open no others"
            group.create_task(answer(stream))


async def answer(stream: whimbrel.Stream) -> None:
    wanted = int.from_bytes(await stream.readexactly(8), "big")
    while await stream.read(PIECE):
        pass
    await send(stream, wanted)


async def send(stream: whimbrel.Stream, count: int) -> None:
    while count:
        piece = min(count, PIECE)
        await stream.write(CONTENT if piece == PIECE else bytes(piece))
        count -= piece
    await stream.finish()


@contextlib.asynccontextmanager
async def connect(files: Files, port: int, handshake: str = "full") -> AsyncIterator[Client]:
    sessions = None if handshake == "full" else SESSIONS
    early = handshake == "early"
    async with whimbrel.connect(
        HOST, port, alpn=ALPN, verify=files.authority, sessions=sessions, early_data=early
    ) as connection:
        yield Client(connection, early)


class Client:
    """Opens a stream for each exchange."""

    def __init__(self, connection: whimbrel.Connection, early: bool) -> None:
        self._connection = connection
        self._early = early

    def resumed(self) -> bool:
        return bool(self._connection.early_data_accepted if self._early else self._connection.session_reused)

    async def exchange(self, up: int, down: int) -> None:
        stream = await self._connection.open_stream()
        await stream.write(down.to_bytes(8, "big") + bytes(min(up, FIRST)))
        await send(stream, max(up - FIRST, 0))
        while piece := await stream.read(PIECE):
            down -= len(piece)
        assert down == 0, "the server sent something else"
