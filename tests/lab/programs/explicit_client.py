"""A client that decides about its paths by itself, through either face: what it is told, one JSON object a line.

It tells "dialling" before it connects, and "connected" after that.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any, cast

import whimbrel.sync
from tests.lab.programs.arrival import tell
from tests.lab.programs.client import orders, prepare
from whimbrel import Migration
from whimbrel.policy import Accepted, Migrate, MoveRequested

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab.programs.client import Order
    from whimbrel.network import Route
    from whimbrel.policy import Action, Event, Facts


class OnlyWhenTold:
    """A policy that moves where it is told, without asking there first, and does nothing else."""

    def __init__(self, settings: Migration, active: Route | None) -> None:
        self.deadline: float | None = None

    def handle(self, event: Event, facts: Facts, now: float) -> Sequence[Action]:
        if isinstance(event, MoveRequested) and event.route is not None:
            return [Migrate(event.route, "requested"), Accepted(event.route)]
        return []


def options(order: Order) -> dict[str, Any]:
    """How to connect."""
    if order["migration"] is not None and order["migration"].get("policy"):
        order["migration"]["policy"] = OnlyWhenTold
    return prepare(order)


async def main(order: Order) -> None:
    """Through asyncio."""
    tell("dialling")
    async with whimbrel.connect(order["host"], order["port"], **options(order)) as connection:
        tell("connected", path=dataclasses.asdict(connection.path))
        async for line in orders():
            asked = json.loads(line)
            try:
                value = await getattr(connection, asked["do"])(interface=asked["interface"])
            except whimbrel.WhimbrelError as error:
                failed(asked, error)
            else:
                done(asked, value, connection.path)


def main_blocking(order: Order) -> None:
    """Through `whimbrel.sync`."""
    tell("dialling")
    with whimbrel.sync.connect(order["host"], order["port"], **options(order)) as connection:
        tell("connected", path=dataclasses.asdict(connection.path))
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                value = getattr(connection, asked["do"])(interface=asked["interface"], timeout=None)
            except whimbrel.WhimbrelError as error:
                failed(asked, error)
            else:
                done(asked, value, connection.path)


def done(asked: dict[str, Any], value: Any, path: whimbrel.Path) -> None:
    """It came to that."""
    result = {"value": dataclasses.asdict(value), "path": dataclasses.asdict(path)}
    tell("done", number=asked["number"], result=result)


def failed(asked: dict[str, Any], error: whimbrel.WhimbrelError) -> None:
    """It came to nothing."""
    tell("failed", number=asked["number"], error=type(error).__name__, text=str(error))


if __name__ == "__main__":
    first = cast("Order", json.loads(sys.argv[1]))
    if first["loop"] == "none":
        main_blocking(first)
    else:
        asyncio.run(main(first))
