"""One connection after the other: ``async for connection in connect(...)``.

For what a connection does not survive: an outage that takes too long, a network that has only the other family of
addresses, a server that is started anew. Streams and what was under way end with it, and only the caller knows what of
that may be done again; so the next connection is handed out, and nothing is repeated here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from whimbrel._dial import stirring
from whimbrel._errors import ConnectFailed, HandshakeFailed

if TYPE_CHECKING:
    from whimbrel._client import _Connect
    from whimbrel._connection import Connection

logger = logging.getLogger("whimbrel")

PAUSE: Final = (0.25, 30.0)
"""Seconds after a failure, and at most; each time in a row twice the last. A change of the networks ends it."""
GOOD: Final = 10.0
"""A connection that lived for so many seconds was no failure: the next is dialled at once."""


class Connections:
    """What ``async for`` goes through. It has no end of its own."""

    def __init__(self, described: _Connect) -> None:
        self._described = described
        self._loop = asyncio.get_running_loop()
        self._latest: Connection | None = None
        self._began = 0.0
        self._pause = 0.0

    def __aiter__(self) -> Connections:
        """It is its own."""
        return self

    async def __anext__(self) -> Connection:
        """The next one, as soon as a dial succeeds. The one before is closed, if it is not over yet."""
        if self._latest is not None:
            await self._latest.close()
            if self._loop.time() < self._began + GOOD:
                self._failed()
            else:
                self._pause = 0.0
            self._latest = None
        while True:
            await self._wait()
            try:
                self._latest = await self._described._dial()
            except HandshakeFailed:
                raise  # The server has answered, and would say the same again.
            except ConnectFailed as error:
                self._failed()
                logger.info("%s; trying again within %g s", error, self._pause)
            else:
                self._began = self._loop.time()
                return self._latest

    def _failed(self) -> None:
        self._pause = min(max(PAUSE[0], 2 * self._pause), PAUSE[1])

    async def _wait(self) -> None:
        """The pause, or until the networks are others."""
        until, stirred = self._loop.time() + self._pause, asyncio.Event()
        with self._described._network_changes() as changes, stirring(changes, stirred):
            while (left := until - self._loop.time()) > 0 and not (changes is not None and changes.are_there()):
                delay = None if changes is None else changes.delay()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left if delay is None else min(left, delay)):
                        await stirred.wait()
                stirred.clear()
