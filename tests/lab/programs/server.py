"""The server's process: sends as many bytes as it is asked for, and takes what it is sent.

A request is one line, ``GET number size`` or ``PUT number size``; the answer to the latter is what arrived, as JSON.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from typing import Literal, TypedDict, cast
from unittest import mock

import whimbrel
from tests.lab.programs.arrival import Arrival, tell
from tests.lab.programs.content import content
from whimbrel import _core


class Order(TypedDict):
    """The process's only argument, as JSON."""

    addresses: list[str]
    port: int
    chain: str
    key: str
    migration: bool
    """False: it forbids its clients to move (disable_active_migration, RFC 9000 §18.2)."""
    sockets: Literal["wildcard", "connected"]
    id_length: int
    """Of its connection IDs. Where they are empty clients may not move either (RFC 9000 §9)."""


async def main(order: Order) -> None:
    """Serve until the process is ended."""
    # No option of serve(): nobody wants such a server. But there are some.
    config = functools.partial(_core.ServerConfig, migration=order["migration"], id_length=order["id_length"])
    with mock.patch.object(_core, "ServerConfig", config):
        serve = whimbrel.serve(
            attend, order["addresses"], order["port"], cert=(order["chain"], order["key"]), alpn="test",
            sockets=order["sockets"],
        )  # fmt: skip
    async with serve as server:
        tell("ready")
        await server.serve_forever()


async def attend(connection: whimbrel.Connection) -> None:
    """One client."""
    try:
        async with asyncio.TaskGroup() as tasks:
            async for stream in connection.streams():
                assert isinstance(stream, whimbrel.Stream)
                tasks.create_task(answer(stream))
    except* whimbrel.ConnectionLost:
        pass  # Some tests leave it so.


async def answer(stream: whimbrel.Stream) -> None:
    """One request."""
    method, number, size = (await stream.readuntil()).split()
    if method == b"GET":
        for piece in content(int(size)):
            await stream.write(piece)
    else:
        arrival = Arrival(int(number))
        async for data in stream:
            arrival.take(data)
        await stream.write(json.dumps(arrival.result()).encode())
    await stream.finish()


if __name__ == "__main__":
    asyncio.run(main(cast("Order", json.loads(sys.argv[1]))))
