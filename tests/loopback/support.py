"""What the loopback tests stand on: certificates, a pair of connected ends, a relay that can fall silent."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import whimbrel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from whimbrel import Connection, Limits, Migration, Server

ALPN = "test"
SOON = 20.0
"""Seconds for what comes at once on a machine that is not busy: a limit, never a wait."""


@dataclass(frozen=True)
class Certificates:
    """PEM files of one authority."""

    ca: Path
    chain: Path
    key: Path

    @property
    def pair(self) -> tuple[Path, Path]:
        return self.chain, self.key


class Options(TypedDict, total=False):
    """Of `connect`, as far as tests vary them."""

    timeout: float | None
    idle_timeout: float
    limits: Limits
    migration: Migration | None
    cert: tuple[Path, Path]
    server_hostname: str
    alpn: str | list[str]
    verify: bool | Path


def dial(server: Server, certificates: Certificates, **options: Unpack[Options]) -> whimbrel._client._Connect:
    """`connect` to a server of this test, staying on the path unless told otherwise."""
    host, port = server.addresses[0]
    options.setdefault("alpn", ALPN)
    options.setdefault("verify", certificates.ca)
    options.setdefault("migration", None)
    return whimbrel.connect(host, port, **options)


@contextlib.asynccontextmanager
async def pair(
    certificates: Certificates,
    host: str = "127.0.0.1",
    *,
    server_limits: Limits | None = None,
    **options: Unpack[Options],
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Both ends of one connection, client first."""
    accepted: asyncio.Queue[Connection] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        accepted.put_nowait(connection)
        await connection.wait_closed()

    limits = server_limits or whimbrel.Limits()
    async with (
        whimbrel.serve(handler, host, cert=certificates.pair, alpn=ALPN, limits=limits) as server,
        dial(server, certificates, **options) as client,
    ):
        yield client, await accepted.get()


async def echo(connection: Connection) -> None:
    """A handler that sends back what comes, stream by stream, all at once."""

    async def answer(stream: whimbrel.Stream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.write(chunk)

    async with asyncio.TaskGroup() as tasks:
        async for stream in connection.streams():
            assert isinstance(stream, whimbrel.Stream)
            tasks.create_task(answer(stream))


def echo_server(certificates: Certificates, host: str = "127.0.0.1") -> whimbrel._server._Serve:
    return whimbrel.serve(echo, host, cert=certificates.pair, alpn=ALPN)


async def turns(count: int = 5) -> None:
    """Let every task that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it is so. The test's own timeout ends what never comes."""
    while not condition():  # noqa: ASYNC110 - the condition is often the other end's
        await asyncio.sleep(0)


class Relay:
    """Carries datagrams between one client and a server, until it is told to be silent."""

    def __init__(self) -> None:
        self.silent = False
        self.watch: Callable[[bytes], None] | None = None
        """Shown what the client sends, before the server has it."""
        self.address = ("", 0)
        self._client: tuple[str, int] | None = None
        self._front: asyncio.DatagramTransport | None = None
        self._back: asyncio.DatagramTransport | None = None

    async def start(self, server: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        self._front, _ = await loop.create_datagram_endpoint(
            lambda: _Carry(self._from_client), local_addr=("127.0.0.1", 0)
        )
        self._back, _ = await loop.create_datagram_endpoint(lambda: _Carry(self._from_server), remote_addr=server)
        self.address = self._front.get_extra_info("sockname")

    def _from_client(self, data: bytes, source: tuple[str, int]) -> None:
        self._client = source
        if self.watch is not None:
            self.watch(data)
        if not self.silent and self._back is not None:
            self._back.sendto(data)

    def _from_server(self, data: bytes, source: tuple[str, int]) -> None:
        if not self.silent and self._client is not None and self._front is not None:
            self._front.sendto(data, self._client)

    def stop(self) -> None:
        for transport in (self._front, self._back):
            if transport is not None:
                transport.abort()


class _Carry(asyncio.DatagramProtocol):
    def __init__(self, carry: Callable[[bytes, tuple[str, int]], None]) -> None:
        self.datagram_received = carry  # type: ignore[method-assign,assignment]


@contextlib.asynccontextmanager
async def relay(server: Server) -> AsyncIterator[Relay]:
    between = Relay()
    await between.start(server.addresses[0])
    try:
        yield between
    finally:
        between.stop()
        await turns()  # Transports close their sockets one turn later.


def holdings() -> dict[str, int]:
    """What this process holds: descriptors by what they lead to, threads (native ones too), the loop's tasks."""
    held = collections.Counter(f"thread {thread.name}" for thread in threading.enumerate())
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names
        # The listing's own descriptor is closed again.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
            held[target.partition(":")[0] if target.startswith("socket:") else target] += 1
    with contextlib.suppress(RuntimeError):  # No loop runs.
        held["tasks"] = len(asyncio.all_tasks())
    held["native threads"] = native_threads()
    return dict(held)


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """What the block opens, it closes: no task, descriptor or thread more than before.

    The other end may take some turns of the loop to notice, and the guard thread a moment to end.
    """
    before = holdings()
    yield
    loop = asyncio.get_running_loop()
    patience = loop.time() + SOON
    left: dict[str, tuple[int, int]] = {}
    while loop.time() < patience:
        await asyncio.sleep(0)
        after = holdings()
        left = {name: (before.get(name, 0), count) for name, count in after.items() if count > before.get(name, 0)}
        if not left:
            return
    assert not left, f"{left} (before, after)"
