"""Calls an application for each request, and sees to what it leaves behind.

An application's task is not the request's: what it does after its answer, or although its client has left, it may
complete. Only a server that closes cancels it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from whimbrel._errors import ConnectionLost, WhimbrelError
from whimbrel.http.asgi._errors import ClientDisconnected
from whimbrel.http.asgi._exchange import Exchange
from whimbrel.http.asgi._scope import http_scope, websocket_scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from typing import Any

    from whimbrel.http._request import Request
    from whimbrel.http.asgi._types import Application
    from whimbrel.http.asgi._websocket import WebSocket

GOING_AWAY = 1001  # RFC 6455 §7.4.1

_log = logging.getLogger("whimbrel")


class Caller:
    """Handlers for `whimbrel.http.serve` that have an application answer.

    Args:
        app: that application.
        state: what its lifespan left for requests.
    """

    def __init__(self, app: Application, state: Mapping[str, Any]) -> None:
        self._app = app
        self._state = state
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: set[WebSocket] = set()

    async def talk(self, request: Request) -> None:
        """Have the application talk to a client that asks for a WebSocket (RFC 9220)."""
        from whimbrel.http.asgi import _websocket

        if request.headers.get("sec-websocket-version") != _websocket.VERSION:
            headers = {"content-type": "text/plain", "sec-websocket-version": _websocket.VERSION}
            await request.respond(400, headers, b"Only version 13 of WebSocket is spoken here.\n")
            return
        socket = _websocket.WebSocket(request)
        call = self._app(websocket_scope(request, self._state), socket.receive, socket.send)
        task = self._start(call, f"whimbrel-asgi-{request.id}")
        reading = asyncio.create_task(socket.read(), name=f"whimbrel-websocket-{request.id}")
        self._sockets.add(socket)
        try:
            await asyncio.wait({task})
            await socket.leave(failed=not _is_no_news(task))
            if socket.is_accepted:
                await asyncio.wait({reading}, timeout=_websocket.PATIENCE)
        except asyncio.CancelledError:
            socket.disconnect(_websocket.ABNORMAL)
            task.add_done_callback(_log_failure)
            raise
        finally:
            self._sockets.discard(socket)
            reading.cancel()
            await asyncio.wait({reading})
        if not _is_no_news(task):
            task.result()
        if not socket.is_decided:
            raise RuntimeError("the application returned before it had accepted or denied the client")

    async def answer(self, request: Request) -> None:
        """Have the application answer a request."""
        exchange = Exchange(request)
        call = self._app(http_scope(request, self._state), exchange.receive, exchange.send)
        task = self._start(call, f"whimbrel-asgi-{request.id}")
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            # The connection is gone, or the server closes.
            exchange.disconnect(ConnectionLost(peer=request.connection.peer))
            task.add_done_callback(_log_failure)
            raise
        if exchange.gone is not None and _is_no_news(task):
            raise exchange.gone
        task.result()
        if not exchange.is_complete:
            raise RuntimeError("the application returned before its answer was complete")

    async def part(self) -> None:
        """Tell who talks that the server closes; such conversations have no end of their own."""
        for socket in tuple(self._sockets):
            with suppress(WhimbrelError):
                await socket.close(GOING_AWAY)

    def cancel(self) -> None:
        """Cancel what still runs."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel what still runs, and wait for its end."""
        while self._tasks:
            self.cancel()
            await asyncio.wait(set(self._tasks))

    def _start(self, call: Awaitable[None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(_run(call), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _run(call: Awaitable[None]) -> None:
    await call


def _is_no_news(task: asyncio.Task[None]) -> bool:
    """Whether an application whose client has left did nothing but notice it."""
    return task.cancelled() or (error := task.exception()) is None or _tells_of_leaving(error)


def _tells_of_leaving(error: BaseException | None) -> bool:
    """Frameworks raise errors of their own from ours, and groups of them."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_tells_of_leaving, error.exceptions))
    while error is not None:
        if isinstance(error, ClientDisconnected):
            return True
        error = error.__cause__ or error.__context__
    return False


def _log_failure(task: asyncio.Task[None]) -> None:
    if not _is_no_news(task):
        _log.error("the application failed after its client had left", exc_info=task.exception())
