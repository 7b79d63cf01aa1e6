"""The client that moves, as a process: fetches one URL with `whimbrel.http` and tells how it goes.

A process of its own, since the laboratory's threads would otherwise compete with its event loop for the interpreter.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Literal, TypedDict, cast

import whimbrel
from whimbrel import Migration, PathMigrated, http
from whimbrel.cli._demo.messages import Reporter
from whimbrel.cli._demo.report import gap_around
from whimbrel.network import route_to

if TYPE_CHECKING:
    from whimbrel.http import ConnectOptions


_SETTLED = 0.5
"""Seconds after a move when its gap is told; the report looks longer."""


class Order(TypedDict):
    """What is to be done: the process's only argument, as JSON."""

    url: str
    cafile: str
    sockets: Literal["pinned", "unconnected", "connected"]
    auto: bool
    keepalive: float | None


def main() -> None:
    """Do what the first argument says."""
    order = cast("Order", json.loads(sys.argv[1]))
    reporter = Reporter()
    reporter.ready()
    asyncio.run(_run(order, reporter))


async def _run(order: Order, reporter: Reporter) -> None:
    download = _Download(reporter)
    task = asyncio.ensure_future(download.fetch(order))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    error = None
    try:
        await task
    except asyncio.CancelledError:
        error = "stopped"
    except (whimbrel.WhimbrelError, OSError) as failure:
        error = str(failure)
    reporter.ended(
        error=error, received=download.received, sha256=download.digest.hexdigest(), samples=download.samples
    )


class _Download:
    def __init__(self, reporter: Reporter) -> None:
        self.received = 0
        self.digest = hashlib.sha256()
        self.samples: list[tuple[float, int]] = []
        self._reporter = reporter
        self._moves: deque[tuple[float, float]] = deque()  # Time, and when the old network began to be silent.
        self._before = -math.inf  # When the network had changed before.

    async def fetch(self, order: Order) -> None:
        url = http.Url.parse(order["url"])
        options: ConnectOptions = {
            "verify": order["cafile"],
            "keepalive": order["keepalive"],
            "migration": Migration(sockets=order["sockets"], auto=order["auto"]),
        }
        async with http.connect(url.host, url.port, **options) as client:
            watching = asyncio.create_task(self._watch(client.connection))
            try:
                response = await client.request("GET", url.target)
                if response.status != 200:
                    raise OSError(f"{url}: the server answered {response.status}")
                async with response:
                    async for chunk in response:
                        self._take(chunk, client.connection)
            finally:
                watching.cancel()

    def _take(self, chunk: bytes, connection: whimbrel.Connection) -> None:
        now = time.monotonic()
        self.received += len(chunk)
        self.samples.append((now, len(chunk)))
        self.digest.update(chunk)
        if self._reporter.is_due(now):
            self._reporter.received(now, self.received, _interface(connection))
            if self._moves and now > self._moves[0][0] + _SETTLED:
                began = self._moves.popleft()[1]
                until = self._moves[0][1] if self._moves else math.inf
                gap = gap_around(self.samples, began, since=self._before, until=until)
                self._reporter.changed(change="Gap", seconds=gap)
                self._before = began

    async def _watch(self, connection: whimbrel.Connection) -> None:
        async for change in connection.path_changes():
            if isinstance(change, PathMigrated):
                silence = change.silence if math.isfinite(change.silence) else 0.0
                self._moves.append((change.new.since, change.new.since - silence))
                self._reporter.changed(
                    change="PathMigrated",
                    since=change.new.since,
                    source=change.old.interface,
                    target=change.new.interface,
                    reason=change.reason,
                )
            else:
                facts = {name: getattr(change, name) for name in type(change).__dataclass_fields__}
                self._reporter.changed(change=type(change).__name__, **facts)


def _interface(connection: whimbrel.Connection) -> str | None:
    """The network in use: where the kernel chooses, its choice now."""
    path = connection.path
    if path.interface is not None:
        return path.interface
    route = route_to(path.remote[0])
    return None if route is None else route.interface


if __name__ == "__main__":
    main()
