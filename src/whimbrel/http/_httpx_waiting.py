"""How long a request may wait, and for what: httpx's four time limits, one at a time.

::

    pool ──▶ the stream is open ──▶ write ⇄ (the caller's source: no limit) ──▶ read ──▶ the head is there
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any, Literal, Self

from whimbrel.http._response import FRAME_SIZE

if TYPE_CHECKING:
    from types import ModuleType, TracebackType

Kind = Literal["connect", "pool", "read", "write"]

_ERRORS: dict[Kind, tuple[str, str]] = {
    "connect": ("ConnectTimeout", "no connection came about"),
    "pool": ("PoolTimeout", "no connection had room for the request"),
    "read": ("ReadTimeout", "nothing came from the server"),
    "write": ("WriteTimeout", "the server took no more of the request"),
}


class Waiting:
    """A time limit that changes with what is waited for. ``async with`` it; then it is over.

    Args:
        library: whose exceptions to raise.
        request: of that library; its extension "timeout" has the limits, in seconds.
        kind: what is waited for first.
    """

    def __init__(self, library: ModuleType, request: Any, kind: Kind) -> None:
        self._library, self._request, self._kind = library, request, kind
        self._limits: dict[str, float | None] = request.extensions.get("timeout") or {}
        self._timeout = asyncio.timeout(self._limits.get(kind))
        self._is_over = False
        self.note = ""
        """What else there is to say when the time is up."""

    def now_for(self, kind: Kind | None) -> None:
        """Something else is waited for from now on; None: for the caller, who may take their time."""
        if self._is_over:
            return
        if kind is not None:
            self._kind = kind
        limit = None if kind is None else self._limits.get(kind)
        if not self._timeout.expired():
            self._timeout.reschedule(None if limit is None else asyncio.get_running_loop().time() + limit)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as timeout:
            name, what = _ERRORS[self._kind]
            text = f"{what} within {self._limits[self._kind]:g} s{self.note}"
            raise getattr(self._library, name)(text, request=self._request) from timeout


class Upload:
    """A request's content, in pieces that a time limit can be set on each of."""

    def __init__(self, stream: AsyncIterable[bytes], waiting: Waiting) -> None:
        self._stream, self._waiting = stream, waiting
        self.has_begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.has_begun = True
        self._waiting.now_for(None)
        async for piece in self._stream:
            for start in range(0, len(piece), FRAME_SIZE):
                self._waiting.now_for("write")
                yield piece if len(piece) <= FRAME_SIZE else piece[start : start + FRAME_SIZE]
            self._waiting.now_for(None)
        self._waiting.now_for("read")
