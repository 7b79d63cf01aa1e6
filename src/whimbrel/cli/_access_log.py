"""A line on standard error for each request."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

from whimbrel import ConnectionLost, StreamReset, StreamStopped
from whimbrel._errors import address_text
from whimbrel.http import BodyTooShort

if TYPE_CHECKING:
    from whimbrel.http import Handler, Request


class AccessLog:
    """A handler around another one, that tells what came of each request.

    Args:
        handler: answers.
        quiet: nothing is told.
    """

    def __init__(self, handler: Handler, *, quiet: bool) -> None:
        self._handler = handler
        self._quiet = quiet

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
            if not self._quiet:
                moved = request.connection.stats().moves - moves
                outcome += {0: "", 1: ", moved"}.get(moved, f", moved {moved} times")
                self._tell(request, loop.time() - began, outcome)

    def _tell(self, request: Request, seconds: float, outcome: str) -> None:
        who = address_text(request.client)
        what = f"{request.method} {request.target}"
        status = request.status if request.status is not None else "-"
        with contextlib.suppress(OSError):
            print(f"{who} {what} {status} {request.bytes_sent} {seconds:.3f} s{outcome}", file=sys.stderr, flush=True)
