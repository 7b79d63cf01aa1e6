"""Many idle connections of one process, which tells when they have all moved.

An order is a line with the name of an interface, and is answered when all of them are there: with the time of each
move, and after a small download on each.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import TYPE_CHECKING, TypedDict, cast

import whimbrel
from tests.lab.programs.arrival import tell
from tests.lab.programs.content import sha256
from whimbrel import PathMigrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DIALLING = 50
"""Handshakes at a time."""


class Order(TypedDict):
    """The process's only argument, as JSON."""

    host: str
    port: int
    ca: str
    count: int
    size: int
    """Bytes of each download."""


class Herd:
    """The connections, and what they have in common."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._dialling = asyncio.Semaphore(DIALLING)
        self._connections: list[whimbrel.Connection] = []
        self._moves: list[list[PathMigrated]] = []
        self._moved = asyncio.Condition()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """All of them, until there are no more orders."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._order["count"]):
                tasks.create_task(self._connection())
            tasks.create_task(self._obey())

    async def _connection(self) -> None:
        order = self._order
        async with self._dialling:
            connection = await whimbrel.connect(
                order["host"], order["port"], alpn="test", verify=order["ca"], server_hostname="localhost", timeout=60.0
            )
            moves: list[PathMigrated] = []
            watching = asyncio.create_task(self._watch(connection.path_changes(), moves))
            await self._download(connection)
            self._connections.append(connection)
            self._moves.append(moves)
            if len(self._connections) == order["count"]:
                tell("ready")
        async with connection:
            await self._over.wait()
        await watching

    async def _watch(self, changes: AsyncIterator[whimbrel.PathChange], moves: list[PathMigrated]) -> None:
        async for change in changes:
            if isinstance(change, PathMigrated):
                moves.append(change)
                async with self._moved:
                    self._moved.notify_all()

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async for line in reader:
            await self._all_moved(json.loads(line)["to"])
            times = [moves[-1].new.since for moves in self._moves]
            whole = sum(await asyncio.gather(*map(self._download, self._connections)))
            tell("moved", times=times, whole=whole)
        self._over.set()

    async def _all_moved(self, interface: str) -> None:
        def are_there() -> bool:
            return all(moves and moves[-1].new.interface == interface for moves in self._moves)

        async with self._moved:
            await self._moved.wait_for(are_there)

    async def _download(self, connection: whimbrel.Connection) -> bool:
        size, digest = self._order["size"], hashlib.sha256()
        async with await connection.open_stream() as stream:
            await stream.write(f"GET 0 {size}\n".encode())
            await stream.finish()
            async for data in stream:
                digest.update(data)
        return digest.hexdigest() == sha256(size)


if __name__ == "__main__":
    asyncio.run(Herd(cast("Order", json.loads(sys.argv[1]))).run())
