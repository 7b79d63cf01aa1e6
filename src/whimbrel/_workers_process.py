"""One worker: a process that serves its part of a port until it is told to end, or nobody is there to tell it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from whimbrel._workers_seat import seat as here_seat

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from multiprocessing.connection import Connection

    from whimbrel._server_stats import ServerStats
    from whimbrel._workers_seat import Seat

logger = logging.getLogger("whimbrel")

LAST_WORDS = 5.0
"""Seconds that a worker whose supervisor is gone may take to say goodbye."""


class Serving(Protocol):
    """What runs in a worker: a server of whatever kind."""

    def stats(self) -> ServerStats:
        """What it has done so far."""

    async def close(self, *, drain: float = 0.0) -> None:
        """Take no newcomers, wait for those there are, then close the rest."""


Program: TypeAlias = "Callable[[list[str], int], AbstractAsyncContextManager[Serving]]"
"""Makes the server, given the addresses and the port to listen on; it travels to each worker by `pickle`."""


@dataclass(frozen=True, slots=True)
class Drain:
    """An order: end, and wait that many seconds for connections to end by themselves. A later one replaces it."""

    patience: float


@dataclass(frozen=True, slots=True)
class TellStats:
    """An order: say what you have done so far."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer: it listens."""


@dataclass(frozen=True, slots=True)
class Done:
    """An answer: it has ended its server, which had done this."""

    stats: ServerStats


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer: it cannot listen, and ends."""

    error: Exception


Order: TypeAlias = Drain | TellStats
Answer: TypeAlias = "Ready | Done | Failed | ServerStats"


def work(orders: Connection, seat: Seat, program: bytes) -> None:
    """Be a worker; what a new process begins with."""
    _leave_signals_to_the_supervisor()
    here_seat.set(seat)
    worker = _Worker(orders)
    try:
        asyncio.run(worker.run(program, seat))
    except Exception as error:
        if worker.is_ready:
            raise
        if not isinstance(error, OSError | ValueError):
            logger.exception("a worker cannot serve")
        with contextlib.suppress(BrokenPipeError):
            orders.send(Failed(_portable(error)))


class _Worker:
    def __init__(self, orders: Connection) -> None:
        self.is_ready = False
        self._orders = orders
        self._told = asyncio.Event()
        self._patience = 0.0
        self._over = threading.Event()

    async def run(self, program: bytes, seat: Seat) -> None:
        """Serve until told to end."""
        hosts, port = [host for (host, _), _ in seat.sockets], seat.sockets[0][0][1]
        make: Program = pickle.loads(program)
        loop = asyncio.get_running_loop()
        try:
            async with make(hosts, port) as server:
                threading.Thread(target=self._listen, args=(loop, server), name="whimbrel-orders", daemon=True).start()
                self.is_ready = True
                self._say(Ready())
                await self._told.wait()
                await self._end(server)
            self._say(Done(server.stats()))
        finally:
            self._over.set()

    async def _end(self, server: Serving) -> None:
        """Drain, for as long as the first order says; a later one bounds what is left."""
        closing = asyncio.ensure_future(server.close(drain=self._patience))
        left: float | None = None
        while not closing.done():
            self._told.clear()
            hurry = asyncio.ensure_future(self._told.wait())
            await asyncio.wait({closing, hurry}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if hurry.cancel() and not closing.done():
                # Its time is up. Not by cancelling it: clients are told again as long as they send on.
                await server.close()
                break
            left = self._patience
        await closing

    def _say(self, answer: Answer) -> None:
        # Whose supervisor is gone is told so by other means.
        with contextlib.suppress(OSError):
            self._orders.send(answer)

    def _listen(self, loop: asyncio.AbstractEventLoop, server: Serving) -> None:
        """On a thread of its own: whether the supervisor is there must be seen even where the loop is blocked."""
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            while not self._over.is_set():
                try:
                    order: Order = self._orders.recv()
                except (EOFError, OSError):
                    loop.call_soon_threadsafe(self._drain, 0.0)
                    break
                match order:
                    case Drain(patience):
                        loop.call_soon_threadsafe(self._drain, patience)
                    case TellStats():
                        loop.call_soon_threadsafe(self._tell, server)
        if not self._over.wait(LAST_WORDS):
            os._exit(1)

    def _drain(self, patience: float) -> None:
        self._patience = patience
        self._told.set()

    def _tell(self, server: Serving) -> None:
        self._say(server.stats())


def _leave_signals_to_the_supervisor() -> None:
    """A terminal, and systemd, send them to every process; who supervises decides what they mean.

    Not SIG_IGN, which programs that a handler starts would inherit.
    """
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    for number in numbers:
        signal.signal(number, _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _nothing(_number: int, _frame: object) -> None:
    pass


def _portable(error: Exception) -> Exception:
    """An exception as another process can have it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its class does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
