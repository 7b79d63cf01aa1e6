"""The access log of an application: the same lines for all protocols that it is served over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from whimbrel._errors import address_text
from whimbrel.cli._access_log import line, moved, to_stderr

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel.http.asgi import Application, ConnectionView, Message, Receive, Scope, Send


class AppLog:
    """An application around another one, that tells what came of each request.

    Args:
        app: answers.
        tell: takes the line.
    """

    def __init__(self, app: Application, tell: Callable[[str], None] = to_stderr) -> None:
        self._app = app
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and tell."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        entry = _Entry(scope)
        try:
            await self._app(scope, receive, entry.noting(send))
        except asyncio.CancelledError:
            entry.outcome = ", given up"
            raise
        except ConnectionError:
            entry.outcome = ", the client gave it up"
            raise
        except Exception as error:
            entry.outcome = f", failed: {type(error).__name__}"
            raise
        finally:
            self._tell(entry.text())


class _Entry:
    """What is known of one request."""

    def __init__(self, scope: Scope) -> None:
        self.outcome = ""
        self._status: int | None = None
        self._sent = 0
        self._length: bytes | None = None
        self._scope = scope
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._view: ConnectionView | None = scope.get("extensions", {}).get("whimbrel")
        self._moves = 0 if self._view is None else self._view.moves

    def noting(self, send: Send) -> Send:
        """`send`, with a look at what is sent."""

        async def noted(message: Message) -> None:
            await send(message)
            self._note(message)

        return noted

    def text(self) -> str:
        """The line."""
        scope, view = self._scope, self._view
        client = scope.get("client") if view is None else view.path.remote
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += f"?{scope['query_string'].decode('latin-1')}"
        who = "-" if client is None else address_text((client[0], client[1]))
        what = f"{who} {scope.get('method', 'WebSocket')} {target}"
        outcome = f", HTTP/{scope['http_version']}" if view is None else moved(view.moves - self._moves)
        return line(what, self._status, self._sent, self._loop.time() - self._began, outcome + self.outcome)

    def _note(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self._status = message["status"]
                self._length = dict(message.get("headers", ())).get(b"content-length")
            case "http.response.body" | "websocket.http.response.body":
                self._sent += len(message.get("body", b""))
            case "http.response.pathsend":
                # The file is none of the messages; who sends one says how long it is.
                self._sent = int(self._length or 0)
            case "websocket.accept":
                self._status = 200
            case "websocket.close" if self._status is None:
                self._status = 403
            case "websocket.send":
                self._sent += len(message.get("bytes") or (message.get("text") or "").encode())
