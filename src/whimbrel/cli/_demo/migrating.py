"""The client that moves, as a process: fetches with `whimbrel.http`, sends a file, or both, and tells how it goes.

A process of its own, since the laboratory's threads would otherwise compete with its event loop for the interpreter.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypedDict, cast

import whimbrel
from whimbrel import Migration, PathMigrated, http
from whimbrel.cli._demo.messages import INTERVAL, Arrival, Direction, Reporter
from whimbrel.cli._digest import sha256_in
from whimbrel.cli._transfers import carrier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whimbrel.http import ConnectOptions


class Order(TypedDict):
    """What is to be done: the process's only argument, as JSON."""

    directions: list[Direction]
    url: str
    cafile: str | None
    upload_url: str | None
    upload_file: str | None
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
    task = asyncio.ensure_future(_transfer(order, reporter))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    error = None
    try:
        await task
    except asyncio.CancelledError:
        error = "stopped"
    except whimbrel.CertificateError as failure:
        error = f"{failure.message}; --cafile names another authority to trust"
    except whimbrel.AlpnMismatch:
        error = "the server speaks QUIC, but no HTTP/3"
    except (whimbrel.WhimbrelError, OSError) as failure:
        error = str(failure)
    if error is not None:
        for direction in order["directions"]:
            reporter.tell("ended", direction=direction, error=error)


async def _transfer(order: Order, reporter: Reporter) -> None:
    url = http.Url.parse(order["url"])
    options: ConnectOptions = {
        "verify": True if order["cafile"] is None else order["cafile"],
        "keepalive": order["keepalive"],
        "migration": Migration(sockets=order["sockets"], auto=order["auto"]),
    }
    async with http.connect(url.host, url.port, **options) as client:
        connection = client.connection
        changes = connection.path_changes()
        watching = [
            asyncio.create_task(_tell_changes(changes, reporter)),
            asyncio.create_task(_tell_network(connection, reporter)),
        ]
        works = {"down": _download, "up": _upload}
        tasks = [asyncio.create_task(works[direction](order, client, reporter)) for direction in order["directions"]]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, *watching):
                task.cancel()


async def _download(order: Order, client: http.Client, reporter: Reporter) -> None:
    arrival = Arrival(reporter, "down")
    url = http.Url.parse(order["url"])
    try:
        response = await client.request("GET", url.target)
        if response.status != HTTPStatus.OK:
            where = response.headers.get("location")
            raise OSError(f"{url}: the server answered {response.status}{f' and names {where}' if where else ''}")
        length = response.headers.get("content-length", "")
        if length.isascii() and length.isdigit():
            arrival.expect(int(length))
        async with response:
            async for chunk in response:
                arrival.take(chunk)
    except BaseException:
        arrival.flush()
        raise
    arrival.end()


async def _upload(order: Order, client: http.Client, reporter: Reporter) -> None:
    """Send the file. What arrives, and when, is for the server to say."""
    assert order["upload_url"] is not None, "an upload goes somewhere"
    assert order["upload_file"] is not None, "there is something to upload"
    url = http.Url.parse(order["upload_url"])
    with open(order["upload_file"], "rb") as body:  # noqa: ASYNC230, PTH123 (a small file that was just written)
        headers = {"content-length": str(os.fstat(body.fileno()).st_size)}
        response = await client.request("PUT", url.target, headers=headers, body=body)
        async with response:
            if response.status not in (HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT):
                raise OSError(f"{url}: the server answered {response.status}")
            await response.read()
    stored = sha256_in(response.headers.get("repr-digest", ""))
    reporter.tell("answered", direction="up", error=None, sha256=None if stored is None else stored.hex())


async def _tell_changes(changes: AsyncIterator[whimbrel.PathChange], reporter: Reporter) -> None:
    async for change in changes:
        if isinstance(change, PathMigrated):
            reporter.tell(
                "changed",
                change="PathMigrated",
                since=change.new.since,
                source=change.old.interface,
                target=change.new.interface,
                reason=change.reason,
                silence=change.silence if math.isfinite(change.silence) else 0.0,
            )
        else:
            facts = {name: getattr(change, name) for name in type(change).__dataclass_fields__}
            reporter.tell("changed", change=type(change).__name__, **facts)


async def _tell_network(connection: whimbrel.Connection, reporter: Reporter) -> None:
    """Tell which network carries it, whenever that is another one."""
    told = None
    while True:
        if (now := carrier(connection)) != told:
            reporter.tell("over", interface=now)
            told = now
        await asyncio.sleep(INTERVAL)


if __name__ == "__main__":
    main()
