"""asyncio drives the pump: readers, one timer, and the core's news turned into wake-ups.

Nothing here happens for each packet. The core moves datagrams in batches; this file is called when its sockets are
readable, when its timer is due, or when the core asks for it: another thread left news, or a call that sent packets at
once brought a timer nearer. It tells connections what changed. Any loop with ``add_reader`` will do. What belongs to a
loop stays with it: another thread, or the child of a fork, is turned away.
"""

from __future__ import annotations

import asyncio
from threading import get_ident
from typing import TYPE_CHECKING

from whimbrel._machine import here
from whimbrel._process import Listener, Resident, forked

if TYPE_CHECKING:
    from whimbrel._core import Endpoint

# No thread has this number: an object that carries it is dead, because it was inherited through a fork.
_FORKED = -1


class Pump(Resident):
    """One endpoint of the core, driven by one asyncio loop."""

    def __init__(self, endpoint: Endpoint, listener: Listener | None = None) -> None:
        """Start to drive the endpoint from the running loop, until `stop`."""
        super().__init__(endpoint, listener)
        self.loop = asyncio.get_running_loop()
        self._machine = here.get()
        self._thread = get_ident()
        self._descriptors = (endpoint.fileno(), endpoint.wake_fileno())
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._flushes = False
        self.turned = Line(self.loop)
        """Woken after each turn of the pump."""
        for descriptor in self._descriptors:
            self.loop.add_reader(descriptor, self.pump)
        self.loop.call_soon(self.pump)

    def check(self) -> None:
        """Turn away who does not own this: each public call asks, since the mistake would corrupt quietly.

        Raises:
            RuntimeError: another thread calls, or the child of a fork.
        """
        if get_ident() != self._thread:
            raise self._misuse()

    def now(self) -> float:
        """The time on the clock of `time.monotonic`; a loop's own may be coarser."""
        return self._machine.now()

    def pump(self) -> None:
        """Move what is to be moved now, and tell who waits for it."""
        if self.stopped:
            return
        endpoint = self.endpoint
        delay = endpoint.pump()
        for number, kind, value in endpoint.news():
            self.tell(number, kind, value)
        self.turned.wake_all()
        if delay is not None and not self.stopped:
            self._arm(delay)

    def gather(self) -> bool:
        # They leave once all tasks that can run now have run: a request and its end in one packet.
        if not self._flushes:
            self._flushes = True
            self.loop.call_soon(self._flush)
        return True

    def stop(self) -> None:
        """Give back the descriptors and close the sockets. May be called twice, and after the loop was closed."""
        if self.stopped or self.is_forked:
            return
        self.stopped = True
        self.leave()
        self._targets.clear()
        if self._timer is not None:
            self._timer.cancel()
        if not self.loop.is_closed():
            for descriptor in self._descriptors:
                self.loop.remove_reader(descriptor)
        self.endpoint.close()
        self.turned.wake_all()

    def _flush(self) -> None:
        self._flushes = False
        if not self.stopped:
            self.endpoint.flush()

    def stop_from_anywhere(self) -> None:
        """`stop`, for the garbage collector, which runs on any thread."""
        if get_ident() == self._thread or self.loop.is_closed():
            self.stop()
            return
        try:
            self.loop.call_soon_threadsafe(self.stop)
        except RuntimeError:  # The loop was closed a moment ago.
            self.stop()

    def orphan(self) -> None:
        """This is the child of a fork now."""
        self._thread = _FORKED
        super().orphan()

    def _arm(self, delay: float) -> None:
        due = self.loop.time() + delay
        # A timer that fires too early costs one pump; moving it at every packet would cost more.
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.loop.call_at(due, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self.pump()

    def _misuse(self) -> RuntimeError:
        if self.is_forked:
            return forked()
        return RuntimeError(
            "this object belongs to the event loop of another thread; use loop.call_soon_threadsafe, or whimbrel.sync"
        )


class Line:
    """Tasks that wait for the same thing, first come, first served.

    One wake-up wakes one of them; who takes what it waited for calls `wake` again in case there is more.
    """

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # A list: nearly always empty, and many times smaller then than a deque.
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait for a wake-up. A task that is cancelled hands on the wake-up that was meant for it."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.wake()
            # Only here: who was woken has left the list, and to look for each would take longer the more wait.
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def wake(self) -> None:
        """Wake the first."""
        while self._waiting:
            waiter = self._waiting.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return

    def wake_all(self) -> None:
        """Wake all: it is over."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
