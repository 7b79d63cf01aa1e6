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
            moved = request.connection.stats().moves - moves
            outcome += {0: "", 1: ", moved"}.get(moved, f", moved {moved} times")
            status = request.status if request.status is not None else "-"
            self._tell(
                f"{address_text(request.client)} {request.method} {request.target} {status} {request.bytes_sent} "
                f"{loop.time() - began:.3f} s{outcome}"
            )
