"""One request to an application: what it receives, and what becomes of what it sends.

::

    START ── http.response.start ──▶ STARTED ── body ──▶ BODY ── last body ──▶ OVER
                                        (nothing is sent yet)      └──▶ TRAILERS ── last trailers ──▶ OVER

From any of them to OVER when the client gives the request up.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING

from whimbrel._errors import LocalProtocolError, StreamStopped, WhimbrelError
from whimbrel.http._headers import CONNECTION_SPECIFIC
from whimbrel.http._protocol import ErrorCode
from whimbrel.http.asgi._errors import ClientDisconnected

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whimbrel.http._request import Request
    from whimbrel.http.asgi._types import Message


class _State(Enum):
    START = auto()
    STARTED = auto()
    BODY = auto()
    TRAILERS = auto()
    OVER = auto()


class Exchange:
    """What an application is given to deal with a request: `receive` and `send`."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._state = _State.START
        self._start: Message = {}
        self._trailers: list[tuple[str, str]] = []
        self._over = asyncio.Event()
        self._gone: WhimbrelError | None = None
        self._read = False
        self._reading, self._writing = asyncio.Lock(), asyncio.Lock()
        request.on_given_up(self._given_up)

    async def receive(self) -> Message:
        """The next piece of the request's content; after the last, that the exchange is over."""
        async with self._reading:
            if not self._read and not self._over.is_set():
                try:
                    piece = await anext(self._request, None)
                except WhimbrelError as error:
                    self.disconnect(error)
                else:
                    self._read = piece is None
                    return {"type": "http.request", "body": piece or b"", "more_body": not self._read}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the answer. Waiting is the back-pressure.

        Raises:
            ClientDisconnected: also an OSError: nobody is there to have it.
        """
        async with self._writing:
            if self._gone is not None:
                raise ClientDisconnected(peer=self._request.connection.peer) from self._gone
            try:
                await self._send(message)
            except LocalProtocolError:
                raise
            except WhimbrelError as error:
                self.disconnect(error)
                raise ClientDisconnected(peer=self._request.connection.peer) from error

    def disconnect(self, why: WhimbrelError) -> None:
        """The client is gone, or has given the request up."""
        if not self._over.is_set():
            self._gone = why
            self._over.set()

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole."""
        return self._state is _State.OVER

    @property
    def gone(self) -> WhimbrelError | None:
        """Why nobody waits for the answer any more."""
        return self._gone

    def _given_up(self) -> None:
        self.disconnect(StreamStopped(ErrorCode.H3_REQUEST_CANCELLED, stream=self._request.id))

    async def _send(self, message: Message) -> None:
        kind: str = message["type"]
        match kind, self._state:
            case "http.response.start", _State.START:
                # What comes of it is seen with the first piece of content: until then the application may fail.
                self._start, self._state = message, _State.STARTED
            case "http.response.early_hint", _State.START:
                await self._request.inform(103, [("link", _text(link)) for link in message["links"]])
            case "http.response.body", _State.STARTED:
                await self._send_first(message.get("body", b""), more=message.get("more_body", False))
            case "http.response.body", _State.BODY:
                await self._send_more(message.get("body", b""), more=message.get("more_body", False))
            case "http.response.pathsend", _State.STARTED:
                await self._send_file(message["path"])
            case "http.response.trailers", _State.TRAILERS:
                self._trailers += fields(message.get("headers", ()))
                if not message.get("more_trailers", False):
                    await self._finish()
            case _:
                raise RuntimeError(f"an application may not send {kind!r} {_WHEN[self._state]}")

    async def _send_first(self, body: bytes, *, more: bool) -> None:
        status, headers = self._start["status"], fields(self._start.get("headers", ()))
        if more or self._start.get("trailers", False):
            await self._request.start(status, headers)
            self._state = _State.BODY
            await self._send_more(body, more=more)
        else:
            await self._request.respond(status, headers, bytes(body))
            self._end()

    async def _send_more(self, body: bytes, *, more: bool) -> None:
        if body:
            await self._request.write(body)
        if more:
            return
        if self._start.get("trailers", False):
            self._state = _State.TRAILERS
        else:
            await self._finish()

    async def _send_file(self, path: str) -> None:
        status, headers = self._start["status"], fields(self._start.get("headers", ()))
        file = await asyncio.to_thread(open, path, "rb")
        with file:
            await self._request.respond(status, headers, file)
        self._end()

    async def _finish(self) -> None:
        await self._request.finish(self._trailers or None)
        self._end()

    def _end(self) -> None:
        self._state = _State.OVER
        self._over.set()


def fields(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Header fields of an application, without those that only HTTP/1.1 has: its author need not know who asks."""
    decoded = [(_text(name).lower(), _text(value)) for name, value in headers]
    return [(name, value) for name, value in decoded if name not in CONNECTION_SPECIFIC]


_WHEN = {
    _State.START: "before it has begun its answer",
    _State.STARTED: "when it has begun its answer",
    _State.BODY: "within the content of its answer",
    _State.TRAILERS: "when its content has ended",
    _State.OVER: "after its answer has ended",
}


def _text(value: bytes) -> str:
    return bytes(value).decode("latin-1")
