"""Many clients in one process: each downloads one thing after another, until those who may move have moved."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import TYPE_CHECKING, TypedDict, cast

import whimbrel
from tests.lab.programs.arrival import tell
from tests.lab.programs.content import sha256
from whimbrel import Migration, PathMigrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Order(TypedDict):
    """The process's only argument, as JSON."""

    host: str
    port: int
    ca: str
    moving: int
    """Clients that may move."""
    staying: int
    """Clients that stay on their first path."""
    size: int
    """Bytes of each download; a client's number more, so that no two clients get the same."""


class Crowd:
    """The clients, and what they have in common."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._count = order["moving"] + order["staying"]
        self._connected = asyncio.Barrier(self._count)
        self._moved = asyncio.Barrier(order["moving"])
        self._begun: set[int] = set()
        self._over = False

    async def run(self) -> None:
        """All of them, from the first handshake to the last byte."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._count):
                tasks.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        order = self._order
        may_move = number < order["moving"]
        async with whimbrel.connect(
            order["host"],
            order["port"],
            alpn="test",
            verify=order["ca"],
            server_hostname="localhost",
            timeout=60.0,
            migration=Migration() if may_move else None,
        ) as connection:
            changes = connection.path_changes()
            await self._connected.wait()
            downloading = asyncio.create_task(self._download(connection, number))
            move = await self._first_move(changes) if may_move else None
            downloads, whole = await downloading
        tell("client", number=number, downloads=downloads, whole=whole, move=move)

    async def _first_move(self, changes: AsyncIterator[whimbrel.PathChange]) -> tuple[str | None, float]:
        async for change in changes:
            # A thousand of them crowd the radio: whose path falls silent for long enters it anew, on the same network.
            if isinstance(change, PathMigrated) and change.new.interface != change.old.interface:
                await self._moved.wait()
                self._over = True
                return change.new.interface, change.new.since
        raise RuntimeError("the connection ended before it moved")

    async def _download(self, connection: whimbrel.Connection, number: int) -> tuple[int, int]:
        """One after another. Returns how many, and how many of them were whole."""
        size = self._order["size"] + number
        expected, downloads, whole = sha256(size), 0, 0
        while not self._over:
            digest = hashlib.sha256()
            async with await connection.open_stream() as stream:
                await stream.write(f"GET {number} {size}\n".encode())
                await stream.finish()
                async for data in stream:
                    digest.update(data)
                    self._begin(number)
            downloads += 1
            whole += digest.hexdigest() == expected
        return downloads, whole

    def _begin(self, number: int) -> None:
        if len(self._begun) < self._count:
            self._begun.add(number)
            if len(self._begun) == self._count:
                tell("under way")


if __name__ == "__main__":
    asyncio.run(Crowd(cast("Order", json.loads(sys.argv[1]))).run())
