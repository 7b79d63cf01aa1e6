"""Our own without an event loop: `whimbrel.sync` on both sides."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from programs._files import ALPN, FIRST, HOST, PIECE
from whimbrel import SessionStore, sync

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from programs._files import Files

CONTENT = bytes(PIECE)
SESSIONS = SessionStore()


@contextlib.asynccontextmanager
async def serve(files: Files, accepted: Callable[[], None], **options: Any) -> AsyncIterator[int]:
    def attend(connection: sync.Connection) -> None:
        accepted()
        for stream in connection.streams():
            assert isinstance(stream, sync.Stream), "the clients open no others"
            answer(stream)

    with sync.serve(attend, HOST, cert=(files.certificate, files.key), alpn=ALPN, **options) as server:
        yield server.addresses[0][1]


def answer(stream: sync.Stream) -> None:
    wanted = int.from_bytes(stream.readexactly(8), "big")
    while stream.read(PIECE):
        pass
    send(stream, wanted)


def send(stream: sync.Stream, count: int) -> None:
    while count:
        piece = min(count, PIECE)
        stream.write(CONTENT if piece == PIECE else bytes(piece))
        count -= piece
    stream.finish()


@contextlib.asynccontextmanager
async def connect(files: Files, port: int, handshake: str = "full") -> AsyncIterator[Client]:
    sessions = None if handshake == "full" else SESSIONS
    early = handshake == "early"
    with sync.connect(HOST, port, alpn=ALPN, verify=files.authority, sessions=sessions, early_data=early) as connection:
        yield Client(connection, early)


class Client:
    """Opens a stream for each exchange, and blocks."""

    def __init__(self, connection: sync.Connection, early: bool) -> None:
        self._connection = connection
        self._early = early

    def resumed(self) -> bool:
        return bool(self._connection.early_data_accepted if self._early else self._connection.session_reused)

    async def exchange(self, up: int, down: int) -> None:
        stream = self._connection.open_stream()
        stream.write(down.to_bytes(8, "big") + bytes(min(up, FIRST)))
        send(stream, max(up - FIRST, 0))
        while piece := stream.read(PIECE):
            down -= len(piece)
        assert down == 0, "the server sent something else"
