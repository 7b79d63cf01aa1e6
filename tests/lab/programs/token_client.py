"""httpx reads server-sent events over HTTP/3, and tells their numbers."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TypedDict, cast

import httpx

from tests.lab.programs.arrival import tell
from whimbrel import http


class Order(TypedDict):
    """The process's only argument, as JSON."""

    url: str
    certificate: str


async def main(order: Order) -> None:
    """Read them all."""
    numbers: list[int] = []
    async with (
        httpx.AsyncClient(transport=http.AsyncTransport(verify=order["certificate"]), timeout=60) as client,
        client.stream("GET", order["url"]) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                numbers.append(json.loads(line.removeprefix("data: "))["n"])
                tell("progress", number=0, received=len(numbers))
    tell("done", numbers=numbers, status=response.status_code, version=response.http_version)


if __name__ == "__main__":
    asyncio.run(main(cast("Order", json.loads(sys.argv[1]))))
