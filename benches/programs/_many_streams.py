"""Many streams of one connection, open at once: ``python -m programs._many_streams server|client FILES ...``.

On each stream requests follow each other: eight bytes say how many are wanted back. It stays open until the client is
done. Server: ``server FILES MAX_STREAMS``; it tells its port, and then, for each line, what it has used. Client:
``client FILES PORT``; it answers orders, one a line, N is a count, W how many are under way at once:

- ``open N W``: open N streams, with one request of a byte each
- ``ask N W SIZE``: N requests, in turns over all streams that are open
- ``finish``: end them all
- ``live N W``: N streams are opened, W of them before these are ended, with one request each
- ``queue N W``: N tasks, W at once, each with a stream of its own for one request; they may have to wait for one
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import whimbrel
from programs import _orders
from programs._files import ALPN, HOST, PIECE, Files
from programs._kinds import Kind
from programs._whimbrel import CONTENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HEAD = 8
OPENING = 64
"""Streams that are opened at once."""


@contextlib.asynccontextmanager
async def serve(files: Files, accepted: Callable[[], None], *, max_streams: int) -> AsyncIterator[int]:
    """Answer requests on all streams at once."""

    async def attend(connection: whimbrel.Connection) -> None:
        accepted()
        async with asyncio.TaskGroup() as group:
            async for stream in connection.streams():
                assert isinstance(stream, whimbrel.Stream), "the clients open no others"
                group.create_task(answer(stream))

    limits = whimbrel.Limits(max_streams=max_streams)
    cert = (files.certificate, files.key)
    async with whimbrel.serve(attend, HOST, cert=cert, alpn=ALPN, limits=limits) as server:
        yield server.addresses[0][1]


async def answer(stream: whimbrel.Stream) -> None:
    """Give what is wanted, until no more is."""
    async with stream:
        while True:
            try:
                wanted = int.from_bytes(await stream.readexactly(HEAD), "big")
            except asyncio.IncompleteReadError:
                return
            while wanted:
                piece = min(wanted, PIECE)
                await stream.write(CONTENT[:piece])
                wanted -= piece


class Client:
    """One connection, and its streams that are open."""

    def __init__(self, connection: whimbrel.Connection) -> None:
        self._connection = connection
        self._streams: list[whimbrel.Stream] = []

    async def obey(self, words: list[str]) -> dict[str, float]:
        """Carry an order out, and say what it took."""
        times: list[float] = []

        async def timed(work: Awaitable[None]) -> None:
            began = time.perf_counter()
            await work
            times.append(time.perf_counter() - began)

        before, began = used(), time.perf_counter()
        match words:
            case "open", count, width:
                await spread(range(int(count)), int(width), lambda _: timed(self._open()))
            case "ask", count, width, size:
                streams, rest = self._streams, int(count)
                while rest > 0:
                    await spread(streams[:rest], int(width), lambda stream: timed(ask(stream, int(size))))
                    rest -= len(streams)
            case ("finish",):
                await timed(self._finish())
            case "live", count, width:
                for _ in range(0, int(count), int(width)):
                    await spread(range(int(width)), OPENING, lambda _: timed(self._open()))
                    await self._finish()
            case "queue", count, width:
                for _ in range(0, int(count), int(width)):
                    await spread(range(int(width)), int(width), lambda _: timed(self._request()))
            case _:
                raise ValueError(f"{words} is no order")
        seconds, after = time.perf_counter() - began, used()
        times.sort()
        cpu = {name: after[name] - before[name] for name in ("user", "system")}
        middle = times[len(times) // 2] * 1e6
        return cpu | {"count": len(times), "seconds": seconds, "p50_us": middle, "memory": after["memory"]}

    async def _open(self) -> None:
        stream = await self._connection.open_stream()
        self._streams.append(stream)
        await ask(stream, 1)

    async def _finish(self) -> None:
        await spread(self._streams, len(self._streams), finish)
        self._streams = []

    async def _request(self) -> None:
        stream = await self._connection.open_stream()
        await ask(stream, 1)
        await finish(stream)


async def spread(items: range | list[whimbrel.Stream], width: int, work: Callable[..., Awaitable[None]]) -> None:
    """Do it with each, `width` at once."""
    waiting = iter(items)

    async def take() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(take() for _ in range(min(width, len(items)))))


async def ask(stream: whimbrel.Stream, size: int) -> None:
    """One request."""
    await stream.write(size.to_bytes(HEAD, "big"))
    while size:
        size -= len(await stream.read(min(size, PIECE)))


async def finish(stream: whimbrel.Stream) -> None:
    """No more requests."""
    await stream.finish()
    assert not await stream.read(), "the server sent something else"


def used() -> dict[str, float]:
    """Processor seconds and resident bytes of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"user": usage.ru_utime, "system": usage.ru_stime, "memory": pages * os.sysconf("SC_PAGE_SIZE")}


async def dial(files: Files, port: int) -> None:
    """Be the client until standard input ends."""
    loop = asyncio.get_running_loop()
    async with whimbrel.connect(HOST, port, alpn=ALPN, verify=files.authority) as connection:
        client = Client(connection)
        print(json.dumps(used()), flush=True)
        # A thread that waits in a read costs the loop nothing.
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await client.obey(line.split())), flush=True)


def main() -> None:
    side, folder, number = sys.argv[1:]
    files = Files(Path(folder))
    if side == "server":
        _orders.serve(Kind("many streams", "_many_streams"), files, max_streams=int(number))
    else:
        asyncio.run(dial(files, int(number)))


if __name__ == "__main__":
    main()
