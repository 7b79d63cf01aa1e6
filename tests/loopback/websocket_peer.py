"""A client's end of a WebSocket over HTTP/3 (RFC 9220): a tunnel of ours, with wsproto's frames in it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whimbrel import http
    from whimbrel.http._headers import HeadersLike


class Conversation:
    """An open WebSocket."""

    def __init__(self, tunnel: http.Tunnel) -> None:
        self.tunnel = tunnel
        self._frames = Connection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    async def send(self, message: str | bytes) -> None:
        """A message, whole."""
        await self.put(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    async def put(self, event: Event) -> None:
        """Anything."""
        await self.tunnel.write(self._frames.send(event))

    async def receive(self) -> str | bytes:
        """The next message, whole."""
        message: str | bytes | None = None
        while True:
            event = await self.event()
            assert isinstance(event, TextMessage | BytesMessage), event
            piece = event.data if isinstance(event.data, str) else bytes(event.data)
            message = piece if message is None else message + piece  # type: ignore[operator]
            if event.message_finished:
                return message

    async def event(self) -> Event | None:
        """Whatever comes next; None at the end. Pings are answered."""
        while not self._events:
            data = await self.tunnel.read(1 << 16)
            if not data:
                return None
            self._frames.receive_data(data)
            self._events += self._frames.events()
        event = self._events.pop(0)
        if isinstance(event, CloseConnection) and self._frames.state is ConnectionState.REMOTE_CLOSING:
            await self.put(event.response())
        return event

    async def close(self, code: int = 1000, reason: str = "") -> CloseConnection:
        """Say goodbye, and wait for the other's."""
        await self.put(CloseConnection(code, reason))
        event = await self.event()
        assert isinstance(event, CloseConnection)
        return event

    async def ping(self) -> bytes:
        """What comes back of a ping."""
        await self.put(Ping(b"here?"))
        event = await self.event()
        assert isinstance(event, Pong)
        return bytes(event.payload)


@contextlib.asynccontextmanager
async def talking(
    client: http.Client, target: str, headers: HeadersLike = (("sec-websocket-version", "13"),)
) -> AsyncIterator[Conversation]:
    """A WebSocket to that path."""
    async with client.tunnel(protocol="websocket", target=target, headers=headers) as tunnel:
        yield Conversation(tunnel)
