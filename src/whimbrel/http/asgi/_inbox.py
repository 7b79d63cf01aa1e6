"""Messages on their way to an application that takes its time: bounded, so that then the client waits."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whimbrel.http.asgi._types import Message

CAPACITY = 1 << 20
"""Bytes that may wait; a message that is larger waits alone."""


class Inbox:
    """A queue of messages with a last one, which stays.

    Args:
        first: what waits from the beginning.
    """

    def __init__(self, first: Message) -> None:
        self._waiting: deque[tuple[Message, int]] = deque([(first, 0)])
        self._size = 0
        self._last: Message | None = None
        self._changed = asyncio.Event()

    async def put(self, message: Message, size: int) -> None:
        """Add a message when there is room. After the last one, it is dropped."""
        while self._size and self._size + size > CAPACITY and self._last is None:
            await self._change()
        if self._last is None:
            self._waiting.append((message, size))
            self._size += size
            self._changed.set()

    def end(self, last: Message) -> None:
        """Nothing comes any more but this; the first one counts."""
        if self._last is None:
            self._last = last
            self._changed.set()

    async def get(self) -> Message:
        """The next message; the last one again and again."""
        while not self._waiting:
            if self._last is not None:
                return self._last
            await self._change()
        message, size = self._waiting.popleft()
        self._size -= size
        self._changed.set()
        return message

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
