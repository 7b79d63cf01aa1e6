"""HTTP/3 connections that are kept for the next request: one for each origin, since it carries many at once (§3.3).

A connection that has said GOAWAY or has ended is never given out again; requests that it carries end by themselves.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from whimbrel._errors import WhimbrelError
from whimbrel._events import PathMigrated

if TYPE_CHECKING:
    from whimbrel._path import Path
    from whimbrel.http._client import Client
    from whimbrel.http._origins import Place

MOVES = 64
"""How many of a connection's moves are remembered, the last ones."""
PATIENCE = 1.0
"""Seconds that another thread waits for the loop to say which path is in use; then it has the last one known."""
GRACE = 1.0
"""Seconds that a new connection is not taken for an idle one."""


class Carrier:
    """What carries a response: ``response.extensions["whimbrel"]``. Tells, on any thread, how things are when asked."""

    def __init__(self, client: Client) -> None:
        """Made by the pool."""
        self._connection = client.connection
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._moves: deque[PathMigrated] = deque(maxlen=MOVES)
        self._changes = client.connection.path_changes()

    @property
    def path(self) -> Path:
        """The path in use: a value that does not change under you. Of a connection that has ended: the last one."""
        if threading.get_ident() == self._thread:
            return self._connection.path

        # Connections belong to their loop, and a blocking client has it on a thread of its own.
        async def ask() -> Path:
            return self._connection.path

        asking = ask()
        try:
            answer = asyncio.run_coroutine_threadsafe(asking, self._loop)
        except RuntimeError:  # The loop is closed.
            asking.close()
            return self._connection._path
        try:
            return answer.result(PATIENCE)
        except (TimeoutError, concurrent.futures.CancelledError):  # It is about to be.
            return self._connection._path

    @property
    def moves(self) -> tuple[PathMigrated, ...]:
        """How the connection came to be on that path, oldest first; of many, the last 64."""
        return tuple(self._moves)

    def __repr__(self) -> str:
        return f"<Carrier {self.path}, {len(self._moves)} moves>"

    async def follow(self) -> None:
        """Note the moves, until the connection ends."""
        async for change in self._changes:
            if isinstance(change, PathMigrated):
                self._moves.append(change)


class Pooled:
    """A connection in the pool."""

    def __init__(self, client: Client, place: Place) -> None:
        self.client = client
        self.place = place
        """Where it leads, which need not be where the URL points."""
        self.carrier = Carrier(client)
        self.requests = 0
        """Under way."""
        # Who waits for it has a moment to take it, however short connections are to be kept.
        self.idle_since = _now() + GRACE

    @property
    def is_available(self) -> bool:
        """Whether a request may be begun on it."""
        try:
            self.client._check_open()
        except WhimbrelError:
            return False
        return self.client.connection._lost is None


Dial: TypeAlias = Callable[[], Awaitable[Pooled]]


class Pool:
    """The connections of one transport.

    Args:
        max_connections: those being made included; None: no bound.
        max_idle: how many may wait for requests; None: no bound.
        expiry: seconds that one waits, at most; None: until the server ends it.
    """

    def __init__(self, *, max_connections: int | None, max_idle: int | None, expiry: float | None) -> None:
        self._max_connections, self._max_idle, self._expiry = max_connections, max_idle, expiry
        self._standing: dict[Hashable, Pooled] = {}
        self._leaving: set[Pooled] = set()  # They take no new requests, and still carry some.
        self._dialling: dict[Hashable, tuple[float, asyncio.Task[Pooled]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, key: Hashable) -> Pooled | None:
        """The connection for a key, for one request more: `give_back` it. None: there is none."""
        pooled = self._standing.get(key)
        if pooled is None:
            return None
        if not pooled.is_available or self._is_stale(pooled):
            self._retire(key)
            return None
        pooled.requests += 1
        return pooled

    def give_back(self, pooled: Pooled) -> None:
        """A request on it is over."""
        pooled.requests -= 1
        if pooled.requests:
            return
        pooled.idle_since = _now()
        if pooled in self._leaving:
            self._spawn(self._close(pooled))
        else:
            self._expect_expiry()
        idle = self._idle()
        for key in idle[: len(idle) - self._max_idle] if self._max_idle is not None else ():
            self._retire(key)
        self._wake()

    def dial(self, key: Hashable, make: Dial, now: float) -> tuple[float, asyncio.Task[Pooled]]:
        """The making of a connection for a key, begun now or before, and when; all requests that want it share it.

        It goes on when nobody waits for it any more: a later request may want it.
        """
        if key not in self._dialling:
            task = asyncio.ensure_future(self._make(key, make))
            task.set_name("whimbrel-dial")
            self._dialling[key] = now, task
            task.add_done_callback(_look_at)  # Its failure is no news where nobody waits for it.
        return self._dialling[key]

    def retire(self, key: Hashable, pooled: Pooled) -> None:
        """Give this connection to no more requests."""
        if self._standing.get(key) is pooled:
            self._retire(key)

    async def room(self, key: Hashable) -> None:
        """Wait until there may be one connection more, or this one is being made already."""
        while not self._has_room(key):
            if idle := self._idle():
                self._retire(idle[0])
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)

    async def close(self) -> None:
        """Close all connections; what goes on over them is cancelled."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        dials = [dial for _, dial in self._dialling.values()]
        for dial in dials:
            dial.cancel()
        await _all(dials)
        await _all(pooled.client.close() for pooled in (*self._standing.values(), *self._leaving))
        self._standing.clear()
        self._leaving.clear()
        await _all(self._tasks)

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _make(self, key: Hashable, make: Dial) -> Pooled:
        try:
            pooled = await make()
        finally:
            del self._dialling[key]
            self._wake()
        if self._closed:
            await pooled.client.close()
            raise RuntimeError("the transport was closed meanwhile")
        self._retire(key)  # Nobody dials where one stands; but one that leaves may stand in its place.
        self._standing[key] = pooled
        self._spawn(self._watch(key, pooled))
        self._expect_expiry()
        return pooled

    async def _watch(self, key: Hashable, pooled: Pooled) -> None:
        await pooled.carrier.follow()
        # It has ended. Who still reads from it must find out for themselves: to close it now would end their responses.
        self.retire(key, pooled)
        self._wake()

    def _retire(self, key: Hashable) -> None:
        pooled = self._standing.pop(key, None)
        if pooled is not None:
            self._leaving.add(pooled)
            if not pooled.requests:
                self._spawn(self._close(pooled))

    async def _close(self, pooled: Pooled) -> None:
        try:
            await pooled.client.close()
        finally:
            self._leaving.discard(pooled)
            self._wake()

    def _expect_expiry(self) -> None:
        waiting = [pooled.idle_since for pooled in self._standing.values() if not pooled.requests]
        if self._expiry is not None and self._timer is None and waiting and not self._closed:
            left = max(0.0, min(waiting) + self._expiry - _now())
            self._timer = asyncio.get_running_loop().call_later(left + 0.01, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for key in [key for key, pooled in self._standing.items() if self._is_stale(pooled)]:
            self._retire(key)
        self._expect_expiry()

    def _is_stale(self, pooled: Pooled) -> bool:
        return self._expiry is not None and not pooled.requests and _now() - pooled.idle_since > self._expiry

    def _idle(self) -> list[Hashable]:
        idle = [(pooled.idle_since, key) for key, pooled in self._standing.items() if not pooled.requests]
        return [key for _, key in sorted(idle, key=lambda each: each[0])]

    def _has_room(self, key: Hashable) -> bool:
        leaving = sum(pooled.client.connection._lost is None for pooled in self._leaving)
        count = len(self._standing) + leaving + len(self._dialling)
        return self._max_connections is None or key in self._dialling or count < self._max_connections

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _all(awaited: Iterable[Awaitable[object]]) -> None:
    if waiting := list(awaited):
        await asyncio.gather(*waiting, return_exceptions=True)


def _now() -> float:
    # A clock that goes on while the machine sleeps: what a server has forgotten by then is not to be tried first.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _look_at(dial: asyncio.Task[Pooled]) -> None:
    if not dial.cancelled():
        dial.exception()
