"""Several downloads at once, each on a connection of its own, that follow the machine from network to network."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import TypedDict, cast

from tests.lab.programs.arrival import tell
from whimbrel import ConnectionLost, PathMigrated, http


class Order(TypedDict):
    """The process's only argument, as JSON."""

    url: str
    certificate: str
    count: int


async def download(order: Order, number: int) -> dict[str, object]:
    """The hash of what came, and the moves meanwhile, or how it ended otherwise."""
    digest, received = hashlib.sha256(), 0
    async with http.connect(order["url"], verify=order["certificate"]) as client:
        changes = client.connection.path_changes()
        try:
            async with await client.request("GET", "/file") as response:
                async for chunk in response:
                    digest.update(chunk)
                    received += len(chunk)
                    tell("progress", number=number, received=received)
        except ConnectionLost as lost:
            return {"lost": lost.slug, "received": received}
    moves = [
        [change.old.interface, change.new.interface] async for change in changes if isinstance(change, PathMigrated)
    ]
    return {"sha256": digest.hexdigest(), "received": received, "moves": moves}


async def main(order: Order) -> None:
    """Download them all."""
    done = await asyncio.gather(*(download(order, number) for number in range(order["count"])))
    tell("done", downloads=done)


if __name__ == "__main__":
    asyncio.run(main(cast("Order", json.loads(sys.argv[1]))))
