"""An anyio task drives the pump, on trio as well as on asyncio.

The blocking face leaves open who waits, and how: what a call would do is a function that gives None for as long as
there is a reason to wait. There, threads wait, and one of them leads. Here, one task leads for as long as there is a
connection; the others wait for it at events. So no thread is needed, and a wait can be cancelled as any other.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel

from whimbrel.sync._pump import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import MutableMapping as Mutable

    from whimbrel.sync._pump import Pump

K = TypeVar("K")
T = TypeVar("T")


class Driver:
    """Leads a pump.

    Args:
        pump: that nobody leads, nor will any more.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._thread = threading.get_ident()
        self._called: deque[_Place] = deque()  # By other threads.

    async def run(self) -> None:
        """Lead, until cancelled."""
        pump, endpoint = self._pump, self._pump.endpoint
        leader = Waiter(pump)
        with pump._lock:
            pump._leader, pump._leading = leader, self._thread
        poll = select.epoll()
        try:
            for descriptor in (endpoint.fileno(), endpoint.wake_fileno()):
                poll.register(descriptor, select.EPOLLIN)
            while not pump.stopped:
                delay = pump.turn(0.0)
                while self._called:
                    self._called.popleft().event.set()
                with anyio.move_on_after(delay):
                    await anyio.wait_readable(poll.fileno())
        finally:
            with pump._lock:
                pump._leader, pump._leading = None, 0
            poll.close()

    async def until(self, attempt: Callable[[], T | None], waiters: Mutable[K, Waiter], key: K) -> T:
        """Try something until it works, waiting in between. Cancelled, it has taken nothing.

        Args:
            attempt: gives None as long as there is a reason to wait.
            waiters: where those look who may wake us.
            key: our place among them.
        """
        self._pump.check()
        await anyio.lowlevel.checkpoint_if_cancelled()
        place = _Place(self)
        waiters[key] = place
        try:
            while True:
                # In this order: what comes after the attempt sets the new event.
                place.event = anyio.Event()
                found = attempt()
                if found is not None:
                    break
                await place.event.wait()
        finally:
            waiters.pop(key, None)
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return found

    def call(self, place: _Place) -> None:
        """Somebody has what a task waits for."""
        if threading.get_ident() == self._thread:
            place.event.set()
            return
        self._called.append(place)
        with self._pump._lock, contextlib.suppress(ValueError, OSError):  # It has just ended.
            self._pump._kick()


class _Place(Waiter):
    """One task that waits."""

    __slots__ = ("_driver", "event")

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver._pump)
        self._driver = driver
        self.event = anyio.Event()

    def wake(self) -> None:
        """There may be what it waits for."""
        self._driver.call(self)
