"""WebSocket over HTTP/3 (RFC 9220): one connection of an application's, in a tunnel.

wsproto makes frames of messages and messages of frames. Here is when they are read and written, and how it ends::

    CONNECTING ── websocket.accept ──▶ OPEN ── websocket.close, or the client's ──▶ CLOSED
        │ websocket.close, or an answer of the application's own (websocket.http.response)
        └─────────────────────▶ DENIED

Messages are not compressed (RFC 7692): a few bytes of compressed ones can stand for any amount of memory.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError as FramesClosed

from whimbrel._errors import LocalProtocolError, WhimbrelError
from whimbrel.http.asgi._errors import ClientDisconnected
from whimbrel.http.asgi._exchange import Exchange, fields
from whimbrel.http.asgi._inbox import Inbox

if TYPE_CHECKING:
    from whimbrel.http._request import Request
    from whimbrel.http._tunnel import Tunnel
    from whimbrel.http.asgi._types import Message

VERSION = "13"
MAX_MESSAGE = 16 << 20
"""Bytes of a message from a client, at most: the same as over TCP."""
PATIENCE = 3.0
"""Seconds that a client may take to say goodbye, too."""
READ_SIZE = 64 << 10

NORMAL, NO_CODE, ABNORMAL, TOO_BIG, FAILED = 1000, 1005, 1006, 1009, 1011  # RFC 6455 §7.4.1


class _State(Enum):
    CONNECTING = auto()
    OPEN = auto()
    CLOSED = auto()
    DENIED = auto()


class WebSocket:
    """What an application is given to talk to a client: `receive` and `send`."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._state = _State.CONNECTING
        self._denial = Exchange(request)
        self._inbox = Inbox({"type": "websocket.connect"})
        self._frames = Connection(ConnectionType.SERVER)
        self._partial: list[Any] = []
        self._partial_size = 0
        self._writing = asyncio.Lock()
        self._unsent = b""  # What a cancelled call left over.
        self._tunnel: Tunnel
        self._opened = asyncio.Event()
        request.on_given_up(self._lost)

    async def receive(self) -> Message:
        """The next message; after the last, that the client is gone."""
        return await self._inbox.get()

    async def send(self, message: Message) -> None:
        """Take the application's decision, or a message for the client. Waiting is the back-pressure.

        Raises:
            ClientDisconnected: also an OSError: nobody is there to have it.
        """
        kind: str = message["type"]
        match kind, self._state:
            case "websocket.accept", _State.CONNECTING:
                await self._accept(message)
            case "websocket.close", _State.CONNECTING:
                self._state = _State.DENIED
                await self._deny({"type": "http.response.start", "status": 403})
                await self._deny({"type": "http.response.body"})
            case (
                ("websocket.http.response.start" | "websocket.http.response.body"),
                (_State.CONNECTING | _State.DENIED),
            ):
                self._state = _State.DENIED
                await self._deny({**message, "type": kind.removeprefix("websocket.")})
            case "websocket.send", _State.OPEN:
                data = message.get("bytes")
                await self._write(BytesMessage(data) if data is not None else TextMessage(message["text"]))
            case "websocket.close", _State.OPEN:
                with suppress(ClientDisconnected):  # Then it is as the application wishes.
                    await self.close(message.get("code") or NORMAL, message.get("reason") or "")
            case "websocket.close", _State.CLOSED:
                pass
            case _, _State.CLOSED:
                raise ClientDisconnected(peer=self._request.connection.peer)
            case _:
                raise RuntimeError(f"an application may not send {kind!r} to a client that is {self._state.name}")

    @property
    def is_accepted(self) -> bool:
        """Whether messages went to and fro."""
        return self._opened.is_set()

    @property
    def is_decided(self) -> bool:
        """Whether the client was accepted, or denied by a whole answer."""
        return self.is_accepted or self._denial.is_complete

    async def read(self) -> None:
        """Take what the client sends, once it was accepted, until it sends no more."""
        await self._opened.wait()
        with suppress(WhimbrelError):
            while self._frames.state is not ConnectionState.CLOSED:
                data = await self._tunnel.read(READ_SIZE)
                if not data:
                    break
                self._frames.receive_data(data)
                for event in self._frames.events():
                    await self._take(event)
        # RFC 6455 §7.1.5: what is told of a client that leaves without a word.
        self.disconnect(ABNORMAL)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Tell the client that this is the end. Raises ClientDisconnected where it is none there any more."""
        if self._state is _State.OPEN:
            self._state = _State.CLOSED
            await self._write(CloseConnection(code, reason))
            self._inbox.end({"type": "websocket.disconnect", "code": code, "reason": reason})

    async def leave(self, *, failed: bool) -> None:
        """The application is done: say goodbye, and wait for the client to do so."""
        if not self.is_accepted:
            return
        with suppress(WhimbrelError):
            await self.close(FAILED if failed else NORMAL)
            await self._tunnel.finish()

    def disconnect(self, code: int, reason: str = "") -> None:
        """The client is gone."""
        if self._state is not _State.DENIED:
            self._state = _State.CLOSED
        self._inbox.end({"type": "websocket.disconnect", "code": code, "reason": reason})

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _accept(self, message: Message) -> None:
        headers = fields(message.get("headers", ()))
        if (subprotocol := message.get("subprotocol")) is not None:
            headers.append(("sec-websocket-protocol", subprotocol))
        try:
            self._tunnel = await self._request.accept(headers)
        except LocalProtocolError:
            raise
        except WhimbrelError as error:
            self.disconnect(ABNORMAL)
            raise ClientDisconnected(peer=self._request.connection.peer) from error
        self._tunnel.on_stopped(self._lost)
        self._state = _State.OPEN
        self._opened.set()

    async def _deny(self, message: Message) -> None:
        await self._denial.send(message)

    def _lost(self) -> None:
        self.disconnect(ABNORMAL)

    async def _take(self, event: Event) -> None:
        match event:
            case TextMessage() | BytesMessage():
                await self._take_piece(event)
            case Ping() if self._state is _State.OPEN:
                await self._write(event.response())
            case CloseConnection(code=code, reason=reason):
                if self._state is _State.OPEN:
                    # An answer to the client's, or what it did wrong; either way this ends it.
                    self._state = _State.CLOSED
                    await self._write(CloseConnection(NORMAL if code == NO_CODE else code, reason))
                self.disconnect(code, reason or "")

    async def _take_piece(self, piece: TextMessage | BytesMessage) -> None:
        self._partial.append(piece.data)
        self._partial_size += len(piece.data)
        if self._partial_size > MAX_MESSAGE:
            self._partial.clear()
            await self.close(TOO_BIG, f"a message of more than {MAX_MESSAGE} bytes")
            return
        if not piece.message_finished:
            return
        partial, size = self._partial, self._partial_size
        self._partial, self._partial_size = [], 0
        message: Message = {"type": "websocket.receive"}
        if isinstance(piece, TextMessage):
            message["text"] = "".join(partial)
        else:
            message["bytes"] = b"".join(partial)
        await self._inbox.put(message, size)

    async def _write(self, event: Event) -> None:
        async with self._writing:
            try:
                data = self._unsent + self._frames.send(event)
            except FramesClosed as error:
                raise ClientDisconnected(peer=self._request.connection.peer) from error
            before = self._tunnel.bytes_written
            try:
                await self._tunnel.write(data)
            except asyncio.CancelledError:
                self._unsent = data[self._tunnel.bytes_written - before :]
                raise
            except WhimbrelError as error:
                self.disconnect(ABNORMAL)
                self._tunnel.cancel()
                raise ClientDisconnected(peer=self._request.connection.peer) from error
            self._unsent = b""
