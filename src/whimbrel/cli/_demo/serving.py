"""Our own server, as a process: answers as ``whimbrel serve`` does, and tells when what of uploads arrives."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypedDict, cast

from whimbrel import http
from whimbrel.cli._demo.messages import Arrival, Reporter
from whimbrel.cli._static import Site
from whimbrel.cli._static_folder import Folder
from whimbrel.cli._uploads import Uploads

if TYPE_CHECKING:
    from whimbrel.cli._demo.servers import Dispatch
    from whimbrel.http import Request


class Order(TypedDict):
    """What is to be done: the process's only argument, as JSON."""

    root: str
    uploads: str
    address: str
    port: int
    certificate: str
    key: str
    dispatch: Dispatch


async def main(order: Order) -> None:
    """Serve until the process is ended."""
    reporter = Reporter()
    site = Site(Folder(Path(order["root"])), Uploads(Folder(Path(order["uploads"]))))

    async def answer(request: Request) -> None:
        if request.method != "PUT":
            await site(request)
            return
        arrival = Arrival(reporter, "up")
        try:
            await site(cast("Request", _Watched(request, arrival)))
        finally:
            # Where that was not all, what became of it is for the client to say.
            arrival.flush()

    certificate = (order["certificate"], order["key"])
    async with http.serve(
        answer, order["address"], order["port"], cert=certificate, sockets=order["dispatch"]
    ) as server:
        await server.serve_forever()


class _Watched:
    """A request that tells when its content is read, and is otherwise the same."""

    def __init__(self, request: Request, arrival: Arrival) -> None:
        self._request = request
        self._arrival = arrival

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._request)
        except StopAsyncIteration:
            self._arrival.end()
            raise
        self._arrival.count(len(piece))
        return piece

    def __getattr__(self, name: str) -> object:
        return getattr(self._request, name)


if __name__ == "__main__":
    asyncio.run(main(cast("Order", json.loads(sys.argv[1]))))
