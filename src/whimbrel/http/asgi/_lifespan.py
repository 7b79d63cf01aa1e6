"""ASGI's lifespan protocol: an application is told that it may prepare itself, and that it shall clean up.

One task calls the application for both, since what it entered in the one it leaves in the other.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from whimbrel.http.asgi._errors import LifespanFailed

if TYPE_CHECKING:
    from whimbrel.http.asgi._types import Application, Message, Scope

_log = logging.getLogger("whimbrel")


class Lifespan:
    """One application's life.

    Args:
        app: that application.

    Attributes:
        state: what it left for its requests, each of which gets a copy.
    """

    def __init__(self, app: Application) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._orders: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Lock()

    async def start(self) -> None:
        """Wait until the application is ready. One that does not know the protocol is.

        Raises:
            LifespanFailed: it cannot start.
        """
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        self._task = asyncio.create_task(self._run(scope), name="whimbrel-lifespan")
        try:
            answer = await self._ask("lifespan.startup")
        except BaseException:
            await self.abandon()
            raise
        if answer is None:
            # ASGI, lifespan, "Scope": an application that raises has no use for these messages.
            _log.debug("the application has no lifespan: %r", self._why())
            self._task = None
        elif answer["type"] == "lifespan.startup.failed":
            raise await self._failure("the application did not start", answer)

    async def stop(self) -> None:
        """Wait until the application has cleaned up.

        Raises:
            LifespanFailed: it could not.
        """
        async with self._stopping:
            await self._stop()

    async def abandon(self) -> None:
        """Be done with it, however it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._why()
            self._task = None

    async def _stop(self) -> None:
        if self._task is None:
            return
        if self._task.done():
            error, self._task = self._why(), None
            if error is not None:
                raise LifespanFailed(f"the application's lifespan had ended early: {_named(error)}") from error
            return
        try:
            answer = await self._ask("lifespan.shutdown")
        except BaseException:
            await self.abandon()
            raise
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            raise await self._failure("the application did not shut down", answer)
        await asyncio.wait({self._task})
        error, self._task = self._why(), None
        if error is not None:
            raise LifespanFailed(f"the application did not shut down: {_named(error)}") from error

    async def _ask(self, order: str) -> Message | None:
        """Its answer; None where it ended without one."""
        assert self._task is not None, "asked of a lifespan that runs"
        self._orders.put_nowait({"type": order})
        answering = asyncio.create_task(self._answers.get())
        try:
            await asyncio.wait({answering, self._task}, return_when=asyncio.FIRST_COMPLETED)
            # It may have answered and ended at once.
            return answering.result() if answering.done() else None
        finally:
            answering.cancel()

    async def _failure(self, what: str, answer: Message) -> LifespanFailed:
        """An application that has told of its failure mostly raises it, too: then that names it best."""
        assert self._task is not None, "it has just answered"
        await asyncio.wait({self._task}, timeout=1.0)
        error = self._why() if self._task.done() else None
        await self.abandon()
        details = str(answer.get("message", "")).strip()
        # Frameworks put a traceback there, of which the last line says what it was.
        reason = _named(error) if error is not None else (details.splitlines() or ["it gave no reason"])[-1]
        failure = LifespanFailed(f"{what}: {reason}", details=details)
        failure.__cause__ = error
        return failure

    def _why(self) -> BaseException | None:
        assert self._task is not None, "asked of a lifespan that ran"
        return None if self._task.cancelled() else self._task.exception()

    async def _run(self, scope: Scope) -> None:
        await self._app(scope, self._orders.get, self._send)

    async def _send(self, message: Message) -> None:
        kinds = ("lifespan.startup.complete", "lifespan.startup.failed")
        if message["type"] not in (*kinds, "lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            raise ValueError(f"an application sends no {message['type']!r} in its lifespan")
        self._answers.put_nowait(message)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
