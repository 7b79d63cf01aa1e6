"""Our own server, as a process: has the file, takes uploads, and tells when what of them arrives."""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from whimbrel import http
from whimbrel.cli._demo.messages import Arrival, Reporter

if TYPE_CHECKING:
    from whimbrel.cli._demo.servers import Dispatch
    from whimbrel.http import Request, ServeOptions


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

    async def answer(request: Request) -> None:
        name = Path(request.path).name
        if request.method == "PUT":
            await _take(request, Path(order["uploads"]) / name, reporter)
        else:
            await _send(request, Path(order["root"]) / name)

    certificate = (order["certificate"], order["key"])
    options = cast("ServeOptions", {"sockets": order["dispatch"]} if order["dispatch"] != "wildcard" else {})
    async with http.serve(answer, order["address"], order["port"], cert=certificate, **options) as server:
        await server.serve_forever()


async def _send(request: Request, path: Path) -> None:
    with path.open("rb") as file:
        await request.respond(HTTPStatus.OK, content=file)


async def _take(request: Request, path: Path, reporter: Reporter) -> None:
    arrival = Arrival(reporter, "up")
    with path.open("wb") as file:
        try:
            async for chunk in request:
                arrival.take(chunk)
                file.write(chunk)
        except BaseException:
            # What became of it is for the client to say.
            arrival.flush()
            raise
    arrival.end()
    await request.respond(HTTPStatus.CREATED)


if __name__ == "__main__":
    asyncio.run(main(cast("Order", json.loads(sys.argv[1]))))
