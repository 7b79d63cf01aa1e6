"""pywebtransport: a session over HTTP/3, whose bidirectional streams are the streams."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

from pywebtransport import ClientConfig, ServerConfig, WebTransportClient, WebTransportServer

from programs._files import DATAGRAM, FIRST, HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from programs._files import Files

PIECE = 1 << 16
"""It takes no more in one write."""
CONTENT = bytes(PIECE)
# Its own numbers would let ten streams and a hundred connections be.
LIMITS = {"initial_max_streams_bidi": 100, "initial_max_data": 16 << 20, "max_connections": 5000}

_tasks: set[asyncio.Task[None]] = set()


def _in_background(work: Coroutine[Any, Any, None]) -> None:
    _tasks.add(task := asyncio.create_task(work))
    task.add_done_callback(_tasks.discard)


@contextlib.asynccontextmanager
async def serve(files: Files, accepted: Callable[[], None]) -> AsyncIterator[int]:
    async def attend(connection: Any) -> None:
        accepted()
        async for session in connection.incoming_sessions():
            await session.accept()
            _in_background(answer_all(session))

    async def listen() -> None:
        async for connection in server.incoming_connections():
            _in_background(attend(connection))

    config = ServerConfig(
        certfile=str(files.certificate), keyfile=str(files.key), max_udp_payload_size=DATAGRAM, **LIMITS
    )
    server = WebTransportServer(config=config)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))  # It takes no 0 for any free one.
        port = probe.getsockname()[1]
    await server.listen(host=HOST, port=port)
    _in_background(listen())
    yield port


async def answer_all(session: Any) -> None:
    async for stream in session.incoming_bidirectional_streams():
        _in_background(answer(stream))


async def answer(stream: Any) -> None:
    head = b""
    while piece := await stream.read():
        head += piece[: 8 - len(head)]
    await send(stream, int.from_bytes(head, "big"))


async def send(stream: Any, count: int) -> None:
    while True:
        piece = min(count, PIECE)
        count -= piece
        await stream.write(data=CONTENT if piece == PIECE else bytes(piece), end_stream=not count)
        if not count:
            return


@contextlib.asynccontextmanager
async def connect(files: Files, port: int) -> AsyncIterator[Client]:
    config = ClientConfig(ca_certs=str(files.authority), max_udp_payload_size=DATAGRAM, **LIMITS)
    client = WebTransportClient(config=config)
    session = await client.connect(url=f"https://{HOST}:{port}/")
    try:
        yield Client(session)
    finally:
        # Leaving properly takes as long as the other side does.
        _in_background(session.connection.close())


class Client:
    """Opens a stream for each exchange."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def exchange(self, up: int, down: int) -> None:
        stream = await self._session.create_bidirectional_stream()
        await stream.write(data=down.to_bytes(8, "big") + bytes(min(up, FIRST)), end_stream=up <= FIRST)
        if up > FIRST:
            await send(stream, up - FIRST)
        while piece := await stream.read():
            down -= len(piece)
        assert down == 0, "the server sent something else"
