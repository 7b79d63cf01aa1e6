"""A line for each request that was served: who, what, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

from whimbrel import ConnectionLost, StreamReset, StreamStopped
from whimbrel._errors import address_text
from whimbrel.http import BodyTooShort

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel.http import Handler, Request


def to_stderr(line: str) -> None:
    """Print a line; that nobody reads it any more is no reason to stop serving."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class AccessLog:
    """A handler around another one, that tells what came of each request.

    Args:
        handler: answers.
        tell: takes the line.
    """

    def __init__(self, handler: Handler, tell: Callable[[str], None] = to_stderr) -> None:
        self._handler = handler
        self._tell = tell

    async def __call__(self, request: Request) -> None:
        """Answer one request, and tell."""
        loop = asyncio.get_running_loop()
        began, moves = loop.time(), request.connection.stats().moves
        outcome = ""
        try:
            await self._handler(request)
        except BodyTooShort as error:
            outcome = f", given up: {error}"
        except (StreamReset, StreamStopped, asyncio.CancelledError):
            outcome = ", the client gave it up"
            raise
        except ConnectionLost:
            outcome = ", the connection was lost"
            raise
        except Exception as error:
            outcome = f", failed: {error}"
            raise
        finally:
            outcome += moved(request.connection.stats().moves - moves)
            what = f"{address_text(request.client)} {request.method} {request.target}"
            self._tell(line(what, request.status, request.bytes_sent, loop.time() - began, outcome))


def line(what: str, status: int | None, sent: int, seconds: float, outcome: str) -> str:
    """What is told of one request: who wanted what, and what came of it."""
    return f"{what} {'-' if status is None else status} {sent} {seconds:.3f} s{outcome}"


def moved(count: int) -> str:
    """How often a client moved, for the end of a line."""
    return {0: "", 1: ", moved"}.get(count, f", moved {count} times")
