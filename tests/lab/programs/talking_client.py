"""A client that talks to `talking_app` over a WebSocket, and tells the answers."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TypedDict, cast

from tests.lab.programs.arrival import tell
from tests.lab.programs.client import orders
from tests.loopback.websocket_peer import talking
from whimbrel import http


class Order(TypedDict):
    """The process's only argument, as JSON."""

    url: str
    certificate: str


async def main(order: Order) -> None:
    """Say what each line has, and tell what comes back."""
    async with http.connect(order["url"], verify=order["certificate"]) as client, talking(client, "/echo") as talk:
        tell("connected")
        async for line in orders():
            await talk.send(json.loads(line)["say"])
            heard, moves = json.loads(await talk.receive())
            interface = client.connection.path.interface
            tell("heard", text=heard, moves=moves, interface=interface)
        closed = await talk.close()
        tell("closed", code=closed.code)


if __name__ == "__main__":
    asyncio.run(main(cast("Order", json.loads(sys.argv[1]))))
