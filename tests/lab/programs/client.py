"""The client's process: one connection, on which it does what the test says, one JSON object a line.

A process of its own, since the laboratory's threads would otherwise compete with its event loop for the interpreter.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

import whimbrel
from tests.lab.programs.arrival import Arrival, tell
from tests.lab.programs.content import content
from whimbrel import Limits, Migration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Order(TypedDict):
    """The process's only argument, as JSON."""

    host: str
    port: int
    ca: str
    loop: Literal["asyncio", "uvloop", "none"]
    migration: dict[str, Any] | None
    window: int | None
    """Bytes, of stream and connection."""
    idle_timeout: float
    keepalive: float | None


class Teller(logging.Handler):
    """Passes on what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        tell("logged", logger=record.name, level=record.levelname, text=record.getMessage())


async def main(order: Order) -> None:
    """Connect, and take orders until there are no more. What is not done by then is left undone."""
    async with whimbrel.connect(order["host"], order["port"], **prepare(order)) as connection:
        changes = connection.path_changes()
        tell("connected", path=dataclasses.asdict(connection.path))
        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(watch(changes))}
            async for line in orders():
                tasks.add(group.create_task(obey(connection, json.loads(line))))
            for task in tasks:
                task.cancel()
        tell("closing", stats=dataclasses.asdict(connection.stats()))


def prepare(order: Order) -> dict[str, Any]:
    """Pass on what is logged; and how to connect."""
    logging.getLogger("whimbrel").setLevel(logging.INFO)
    logging.getLogger("whimbrel").addHandler(Teller())
    settings, window = order["migration"], order["window"]
    return {
        "alpn": "test",
        "verify": order["ca"],
        "server_hostname": "localhost",
        "idle_timeout": order["idle_timeout"],
        "keepalive": order["keepalive"],
        "migration": None if settings is None else Migration(**settings),
        "limits": Limits() if window is None else Limits(stream_window=window, connection_window=window),
    }


async def orders() -> AsyncIterator[bytes]:
    """Lines of standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line


async def watch(changes: AsyncIterator[whimbrel.PathChange]) -> None:
    """Pass on what happens to the path."""
    async for change in changes:
        tell("changed", type=type(change).__name__, change=dataclasses.asdict(change))


async def obey(connection: whimbrel.Connection, order: dict[str, Any]) -> None:
    """Do one thing, and tell what came of it."""
    number = order["number"]
    try:
        match order["do"]:
            case "get":
                result = await get(connection, number, order["size"])
            case "put":
                result = await put(connection, number, order["size"])
            case "migrate":
                path = await connection.migrate(interface=order["interface"], timeout=order["timeout"])
                result = {"path": dataclasses.asdict(path)}
            case "path":
                result = {"path": dataclasses.asdict(connection.path)}
            case "block":
                result = block(order["how"], order["seconds"])
            case other:
                raise ValueError(f"what is {other!r}?")
    except whimbrel.WhimbrelError as error:
        tell("failed", number=number, error=type(error).__name__, text=str(error))
    else:
        tell("done", number=number, result=result)


async def get(connection: whimbrel.Connection, number: int, size: int) -> dict[str, object]:
    """Download."""
    async with await connection.open_stream() as stream:
        await stream.write(f"GET {number} {size}\n".encode())
        await stream.finish()
        arrival = Arrival(number)
        async for data in stream:
            arrival.take(data)
    return arrival.result()


async def put(connection: whimbrel.Connection, number: int, size: int) -> dict[str, object]:
    """Upload. What arrived, and when, is for the server to say."""
    async with await connection.open_stream() as stream:
        await stream.write(f"PUT {number} {size}\n".encode())
        for piece in content(size):
            await stream.write(piece)
        await stream.finish()
        return cast("dict[str, object]", json.loads(await stream.read()))


def block(how: Literal["sleep", "compute"], seconds: float) -> dict[str, object]:
    """Let nothing else happen on this thread for some time, which is what is tried."""
    begin = time.monotonic()
    tell("blocking")
    if how == "sleep":
        time.sleep(seconds)
    else:
        while time.monotonic() < begin + seconds:
            pass
    return {"begin": begin, "end": time.monotonic()}


if __name__ == "__main__":
    first = cast("Order", json.loads(sys.argv[1]))
    if first["loop"] == "uvloop":
        import uvloop

        uvloop.run(main(first))
    elif first["loop"] == "none":
        from tests.lab.programs import blocking_client

        blocking_client.main(first)
    else:
        asyncio.run(main(first))
