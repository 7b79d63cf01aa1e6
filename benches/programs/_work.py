"""What a client's process does, and the figures that it tells in a line of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import threading
import time
from typing import TYPE_CHECKING, cast

from programs import _kinds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from programs._files import Files
    from programs._kinds import Client, Kind, Program, Resuming

WARM_UP = 50
STREAMS = 100
"""Exchanges under way at once."""
SMALL = 1024
"""Bytes each way of one of them."""
HANDSHAKES = {"first": "full", "resumed": "resumed", "early": "early"}


class Watch:
    """Seconds, and processor seconds of this process with all its threads, since it was made."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), time.process_time()

    def result(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._began, "cpu": time.process_time() - self._used}


def run(kind: Kind, files: Files, port: int, work: str, count: int) -> None:
    """Do it.

    `download` and `upload` are of `count` bytes. The others are done so many times: `ping`, `streams` (exchanges of a
    KiB, 100 at once), `handshakes`, `first` (from the dial to the first answer), `resumed` and `early` (the same,
    with sessions resumed), `idle` (connections that stand).
    """
    _kinds.run(kind, _run(kind, files, port, work, count))


async def _run(kind: Kind, files: Files, port: int, work: str, count: int) -> None:
    program = kind.program()
    match work:
        case "handshakes":
            watch = Watch()
            for _ in range(count):
                async with program.connect(files, port):
                    pass
            _tell(watch.result())
        case "first" | "resumed" | "early":
            _tell({"seconds": await _answers(kind, files, port, HANDSHAKES[work], count)})
        case "idle":
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(count):
                    await stack.enter_async_context(program.connect(files, port))
                _tell({"connections": count})
                sys.stdin.read()
                stack.pop_all()
        case "streams":
            await _streams(kind, program, files, port, count)
        case _:
            async with program.connect(files, port) as client:
                await client.exchange(1, 1)
                await _alone(client, work, count)


async def _alone(client: Client, work: str, count: int) -> None:
    """What is done on one connection, one after the other."""
    if work == "ping":
        for _ in range(WARM_UP):
            await client.exchange(1, 1)
    times = []
    watch = Watch()
    match work:
        case "download":
            await client.exchange(0, count)
        case "upload":
            await client.exchange(count, 1)
        case "ping":
            for _ in range(count):
                began = time.perf_counter()
                await client.exchange(1, 1)
                times.append(time.perf_counter() - began)
        case _:
            raise ValueError(f"what is {work!r}?")
    figures = watch.result()
    if times:
        centiles = statistics.quantiles(times, n=100)
        figures |= {"p50": centiles[49], "p99": centiles[98]}
    _tell(figures)


async def _answers(kind: Kind, files: Files, port: int, handshake: str, count: int) -> float:
    """Return for how many seconds so many first answers were waited, from the dial on."""
    program, seconds = kind.program(), 0.0
    options = {"handshake": handshake} if kind.resumes else {}
    for number in range(count + 1):
        began = time.perf_counter()
        async with program.connect(files, port, **options) as client:
            await client.exchange(1, 1)
            took = time.perf_counter() - began
            # What the next one resumes with comes after the handshake, which an early answer does not wait for.
            await client.exchange(1, 1)
            if number > 0:  # The first has nothing to resume yet.
                seconds += took
                if handshake != "full" and not cast("Resuming", client).resumed():
                    raise RuntimeError(f"handshake {number} was a full one")
    return seconds


async def _streams(kind: Kind, program: Program, files: Files, port: int, count: int) -> None:
    """Exchange so often, on `STREAMS` streams at once, or on as many connections where these have no streams."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(program.connect(files, port)) for _ in range(1 if kind.streams else STREAMS)
        ]
        for client in clients:
            await client.exchange(1, 1)
        shares = [count // STREAMS + (number < count % STREAMS) for number in range(STREAMS)]
        watch = Watch()
        if hasattr(clients[0], "side_by_side"):
            clients[0].side_by_side(count, STREAMS, SMALL)
        elif kind.loop == "none":
            _in_threads(kind, clients, shares)
        else:
            async with asyncio.TaskGroup() as group:
                for number, share in enumerate(shares):
                    group.create_task(_small(clients[number % len(clients)], share))
        _tell(watch.result())


def _in_threads(kind: Kind, clients: Sequence[Client], shares: Sequence[int]) -> None:
    threads = [
        threading.Thread(target=_kinds.run, args=(kind, _small(clients[number % len(clients)], share)))
        for number, share in enumerate(shares)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def _small(client: Client, count: int) -> None:
    for _ in range(count):
        await client.exchange(SMALL, SMALL)


def _tell(figures: dict[str, float]) -> None:
    print(json.dumps(figures), flush=True)
