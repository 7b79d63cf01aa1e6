"""Sends one POST with httpx, and then asks how often it was carried out; tells what came of it.

The process's only argument is JSON: ``url``, ``certificate``, ``size`` of the content in bytes, ``blocking``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import httpx

import whimbrel.http
from tests.lab.programs.arrival import tell
from tests.lab.programs.content import content

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def main(order: dict[str, Any]) -> None:
    """On a loop."""
    transport = whimbrel.http.AsyncTransport(verify=order["certificate"])
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        posted = await client.post(order["url"], content=pieces(order["size"]))
        report(posted, await client.get(order["url"]))


def block(order: dict[str, Any]) -> None:
    """Without one."""
    transport = whimbrel.http.Transport(verify=order["certificate"])
    with httpx.Client(transport=transport, timeout=60) as client:
        posted = client.post(order["url"], content=content(order["size"]))
        report(posted, client.get(order["url"]))


def report(posted: httpx.Response, asked: httpx.Response) -> None:
    """Tell."""
    moves = posted.extensions["whimbrel"].moves
    tell(
        "done",
        version=posted.http_version,
        posted=posted.json(),
        runs=asked.json()["runs"],
        moves=[(move.old.interface, move.new.interface, move.reason) for move in moves],
        interface=asked.extensions["whimbrel"].path.interface,
    )


async def pieces(size: int) -> AsyncIterator[bytes]:
    """The content."""
    for piece in content(size):
        yield piece


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    if order["blocking"]:
        block(order)
    else:
        asyncio.run(main(order))
