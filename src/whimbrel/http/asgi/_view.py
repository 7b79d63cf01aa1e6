"""What an application may know of the connection that a request came over: ``scope["extensions"]["whimbrel"]``."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from whimbrel._connection import Connection
    from whimbrel._events import PathChange
    from whimbrel._path import Path
    from whimbrel.http._request import Request

T = TypeVar("T")


class ConnectionView:
    """A client's connection, as it is whenever one looks. May be asked from any thread, `path_changes` excepted."""

    __slots__ = ("_connection", "_early", "_loop", "_thread")

    def __init__(self, request: Request) -> None:
        """Made by the server only."""
        self._connection: Connection = request.connection
        self._early = request.early
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def path(self) -> Path:
        """The path in use now: ``path.remote`` is where the client is, ``path.rtt`` how far away."""
        return self._ask(lambda: self._connection.path)

    @property
    def moves(self) -> int:
        """How often the client has moved since the connection began."""
        return self._ask(lambda: self._connection.stats().moves)

    @property
    def early(self) -> bool:
        """Whether the request may be a copy that somebody recorded (0-RTT, RFC 8470)."""
        return self._early

    def path_changes(self) -> AsyncIterator[PathChange]:
        """What happens to the path from now on; ends with the connection. See `whimbrel.Connection.path_changes`."""
        return self._connection.path_changes()

    def _ask(self, question: Callable[[], T]) -> T:
        if threading.get_ident() == self._thread:
            return question()

        # Handlers that block run in threads of their own, and connections belong to their loop.
        async def ask() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result()
