"""What a client's process does, and the figures that it tells in a line of JSON."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING

from programs import _kinds

if TYPE_CHECKING:
    from programs._files import Files
    from programs._kinds import Kind

WARM_UP = 50


class Watch:
    """Seconds, and processor seconds of this process with all its threads, since it was made."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), time.process_time()

    def result(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._began, "cpu": time.process_time() - self._used}


def run(kind: Kind, files: Files, port: int, work: str, count: int) -> None:
    """Do it: `download` and `upload` of `count` bytes, `ping` and `handshakes` `count` times, or `idle` connections."""
    _kinds.run(kind, _run(kind, files, port, work, count))


async def _run(kind: Kind, files: Files, port: int, work: str, count: int) -> None:
    program = kind.program()
    if work == "handshakes":
        watch = Watch()
        for _ in range(count):
            async with program.connect(files, port):
                pass
        _tell(watch.result())
        return
    if work == "idle":
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(count):
                await stack.enter_async_context(program.connect(files, port))
            _tell({"connections": count})
            sys.stdin.read()
            stack.pop_all()
        return
    async with program.connect(files, port) as client:
        await client.exchange(1, 1)
        watch = Watch()
        if work == "download":
            await client.exchange(0, count)
            _tell(watch.result())
        elif work == "upload":
            await client.exchange(count, 1)
            _tell(watch.result())
        else:
            for _ in range(WARM_UP):
                await client.exchange(1, 1)
            times = []
            watch = Watch()
            for _ in range(count):
                began = time.perf_counter()
                await client.exchange(1, 1)
                times.append(time.perf_counter() - began)
            centiles = statistics.quantiles(times, n=100)
            _tell(watch.result() | {"p50": centiles[49], "p99": centiles[98]})


def _tell(figures: dict[str, float]) -> None:
    print(json.dumps(figures), flush=True)
