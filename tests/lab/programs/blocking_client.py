"""The client's process without an event loop: one thread, which does one thing after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any, cast

import whimbrel.sync
from tests.lab.programs.arrival import Arrival, tell
from tests.lab.programs.client import block, prepare
from tests.lab.programs.content import content

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.programs.client import Order
    from whimbrel.sync import Connection


def main(order: Order) -> None:
    """Connect, and take orders until there are no more."""
    with whimbrel.sync.connect(order["host"], order["port"], **prepare(order)) as connection:
        changes = connection.path_changes(timeout=0)
        tell("connected", path=dataclasses.asdict(connection.path))
        for line in sys.stdin:
            obey(connection, json.loads(line), changes)
        tell("closing", stats=dataclasses.asdict(connection.stats()))


def obey(connection: Connection, order: dict[str, Any], changes: Iterator[whimbrel.PathChange]) -> None:
    """Do one thing, and tell what came of it, after what happened to the path meanwhile."""
    number = order["number"]
    try:
        match order["do"]:
            case "get":
                result = get(connection, number, order["size"], order.get("pause"))
            case "put":
                result = put(connection, number, order["size"])
            case other:
                raise ValueError(f"what is {other!r}?")
    except whimbrel.WhimbrelError as error:
        tell("failed", number=number, error=type(error).__name__, text=str(error))
        return
    with contextlib.suppress(TimeoutError):
        for change in changes:
            tell("changed", type=type(change).__name__, change=dataclasses.asdict(change))
    tell("done", number=number, result=result)


def get(connection: Connection, number: int, size: int, pause: list[Any] | None) -> dict[str, object]:
    """Download. With a pause after a twentieth, if wanted: how, and for how many seconds."""
    arrival, paused, received = Arrival(number), None, 0
    with connection.open_stream() as stream:
        stream.write(f"GET {number} {size}\n".encode())
        stream.finish()
        buffer = memoryview(bytearray(1 << 20))
        while count := stream.readinto(buffer):
            arrival.take(bytes(buffer[:count]))
            received += count
            if pause is not None and paused is None and received > size / 20:
                paused = block(*pause)
    return {**arrival.result(), "paused": paused}


def put(connection: Connection, number: int, size: int) -> dict[str, object]:
    """Upload. What arrived, and when, is for the server to say."""
    with connection.open_stream() as stream:
        stream.write(f"PUT {number} {size}\n".encode())
        for piece in content(size):
            stream.write(piece)
        stream.finish()
        return cast("dict[str, object]", json.loads(stream.read()))
