"""Threads drive the pump: whoever waits for something moves the packets meanwhile.

    a call finds nothing ──▶ somebody leads already? ── yes ──▶ sleep at your own door
                                    │ no                             │ woken: look again, or lead on
                                    ▼                                │
                       lead: wait for the core, pump, ◀──────────────┘
                       tell everybody their news
                                    │ your own came, or your time is up
                                    ▼
                       go, and open the door of the next

One of the threads that wait on an endpoint leads. When none waits, the core's guard thread moves the packets, and the
news stays in the core until somebody comes. A wake-up only ever means "look again": so one too many does no harm.

Ctrl-C may end a leader between any two steps of its Python. Nothing may be lost by that: news goes from the core into
the queue within one call, and stays there until it was told; leaving can be done twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from whimbrel._process import Listener, Resident, forked

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import MutableMapping as Mutable

    from whimbrel._core import Endpoint

logger = logging.getLogger("whimbrel")

FAREWELL = 0.4
"""Seconds that the interpreter's end waits at most for threads to leave the core: on a busy machine it takes that
long."""

DAY = 86400.0
"""Seconds: nobody sleeps for longer without looking at the clock, and every clock can count so far."""

K = TypeVar("K")
T = TypeVar("T")


class Waiter:
    """One thread that waits: its flag, and the door that it sleeps at while another one leads."""

    __slots__ = ("_door", "_pump", "signalled")

    def __init__(self, pump: Pump) -> None:
        self.signalled = False
        self._pump = pump
        self._door = threading.Lock()
        self._door.acquire()

    def wake(self) -> None:
        """There may be what it waits for."""
        self.signalled = True
        self._pump.rouse(self)

    def sleep(self, seconds: float | None) -> None:
        """Until the door is opened, or time is up."""
        self._door.acquire(timeout=-1 if seconds is None else seconds)

    def open(self) -> None:
        """Let it look for itself. Under the pump's lock only."""
        if self._door.locked():
            self._door.release()


class Pump(Resident):
    """One endpoint of the core, driven by the threads that wait for it."""

    def __init__(self, endpoint: Endpoint, listener: Listener | None = None) -> None:
        """Take charge of an endpoint, until `stop`."""
        # A finalizer, or a handler of signals, may need it in the middle of our own use.
        self._lock = threading.RLock()
        self._waiting: dict[Waiter, None] = {}
        self._leader: Waiter | None = None
        self._leading = 0  # the leader's thread
        self._news: deque[tuple[int, int, int]] = deque()
        self._wake = endpoint.wake_fileno()
        self._kicked = False
        self._departed: threading.Event | None = None
        self._ending = 0  # the thread in which the interpreter ends
        self.turned: dict[object, Waiter] = {}
        """Woken after each turn."""
        super().__init__(endpoint, listener)

    def check(self) -> None:
        """Turn away the child of a fork. Once the interpreter ends, other threads than its own stay here.

        Raises:
            RuntimeError: this is one.
        """
        if self.is_forked:
            raise forked()
        self._stay_behind()

    def now(self) -> float:
        """The time on the clock of `time.monotonic`."""
        return time.monotonic()

    def until(
        self, attempt: Callable[[], T | None], timeout: float | None, waiters: Mutable[K, Waiter], key: K
    ) -> T | None:
        """Try something until it works, waiting in between.

        Args:
            attempt: gives None as long as there is a reason to wait.
            timeout: seconds; None: no limit; 0 or less: only what is there already.
            waiters: where those look who may wake us.
            key: our place among them.

        Returns:
            What the attempt brought; None: time is up.
        """
        self.check()
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = Waiter(self)
        waiters[key] = waiter
        try:
            while True:
                # In this order: what comes after the attempt sets the flag again.
                waiter.signalled = False
                found = attempt()
                if found is not None or not self._wait(waiter, deadline):
                    return found
        finally:
            waiters.pop(key, None)

    def turn(self, limit: float | None) -> float | None:
        """Wait for the core, move what is to be moved, and tell everybody their news. For the leader only.

        Returns:
            Seconds to the next timer of the core.
        """
        endpoint = self.endpoint
        if not self._news:
            endpoint.wait(limit)
            self._forget_kick()
        delay = endpoint.pump()
        # One call, in which no handler of signals can run, until there is no more: see above.
        self._news.extend(chain.from_iterable(iter(endpoint.news, [])))
        while self._news:
            number, kind, value = self._news[0]
            try:
                self.tell(number, kind, value)
            except Exception:
                # The trouble of one connection must not be that of whoever leads.
                logger.exception("telling a connection its news failed; please report this")
            self._news.popleft()
        for waiter in self.turned.copy().values():
            waiter.wake()
        return delay

    def rouse(self, waiter: Waiter) -> None:
        """End the sleep of a waiter, whether it leads or not."""
        with self._lock:
            if waiter is not self._leader:
                waiter.open()
            elif self._leading != threading.get_ident():
                self._kick()

    def stop(self) -> None:
        """Close the sockets. May be called twice, by any thread, also while others wait."""
        if self.is_forked:
            return
        with self._lock:
            if self.stopped:
                return
            self.stopped = True
            self._open_all()
        self.leave()
        self._targets.clear()
        self.endpoint.close()  # The leader's wait ends by that.

    def farewell(self) -> None:
        """The interpreter ends, and the other threads with it, wherever they are.

        They are not told: an exception that nobody expects would only be printed, while the interpreter closes what it
        is printed to, and a thread that ends in the middle of that takes the process down ("could not acquire lock at
        interpreter shutdown"). Whoever waits leaves the core, and then waits for nothing.
        """
        departed = threading.Event()
        with self._lock:
            self._departed, self._ending = departed, threading.get_ident()
        super().farewell()
        with self._lock:
            self._open_all()
            if not self._waiting:
                departed.set()
        departed.wait(FAREWELL)

    def _wait(self, waiter: Waiter, deadline: float | None) -> bool:
        """Wait for the flag, leading if nobody does. Returns whether it came, or the end did, before the deadline."""
        first = True
        try:
            with self._lock:
                self._waiting[waiter] = None
            while not (waiter.signalled or self.stopped):
                left = None if deadline is None else min(max(0.0, deadline - time.monotonic()), DAY)
                if left == 0 and not first:
                    return False
                first = False
                if self._lead(waiter):
                    self.turn(left)
                else:
                    waiter.sleep(left)
            self._depart(waiter)
        except BaseException:
            self._recover()
            raise
        finally:
            self._depart(waiter)
        self.check()  # A fork may have happened while we waited, and this may be the child. Or the interpreter ends.
        return True

    def _stay_behind(self) -> None:
        """Never return, if the interpreter ends and this is not the thread that it ends in."""
        if self._departed is not None and self._ending != threading.get_ident():
            door = threading.Lock()
            door.acquire()
            door.acquire()

    def _lead(self, waiter: Waiter) -> bool:
        with self._lock:
            if self._leader is None:
                self._leader, self._leading = waiter, threading.get_ident()
            return self._leader is waiter

    def _depart(self, waiter: Waiter) -> None:
        with self._lock:
            self._waiting.pop(waiter, None)
            if self._leader is waiter:
                self._leader, self._leading = None, 0
            if self._leader is None:
                for heir in self._waiting:
                    heir.open()
                    break
            if self._departed is not None and not self._waiting:
                self._departed.set()

    def _recover(self) -> None:
        """A leader was interrupted, perhaps in the middle of telling: let everybody look for themselves."""
        with self._lock:
            for waiter in self._waiting:
                waiter.signalled = True
            self._open_all()

    def _open_all(self) -> None:
        for waiter in self._waiting:
            waiter.open()

    def _kick(self) -> None:
        """End the leader's wait in the core. The flag comes after the signal, or nobody would take that away again."""
        if not self.stopped:
            os.eventfd_write(self._wake, 1)
            self._kicked = True

    def _forget_kick(self) -> None:
        if not self._kicked:
            return
        with self._lock:
            self._kicked = False
            if not self.stopped:
                with contextlib.suppress(BlockingIOError):  # A turn of the core has taken it.
                    os.eventfd_read(self._wake)


class Line:
    """Threads that wait for the same thing. Each wake-up wakes all of them: they are few, and look for themselves."""

    __slots__ = ("_pump", "waiters")

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self.waiters: dict[object, Waiter] = {}

    def until(self, attempt: Callable[[], T | None], timeout: float | None) -> T:
        """Try something until it works, waiting in between.

        Raises:
            TimeoutError: not within `timeout` seconds.
        """
        found = attempt()
        if found is None:
            found = self._pump.until(attempt, timeout, self.waiters, object())
        if found is None:
            raise late(timeout)
        return found

    def wake(self) -> None:
        """There is some of it."""
        for waiter in self.waiters.copy().values():
            waiter.wake()

    def wake_all(self) -> None:
        """It is over."""
        self.wake()


def late(timeout: float | None) -> TimeoutError:
    """What is raised when a call's time is up."""
    assert timeout is not None, "time without a limit is never up"
    return TimeoutError(f"nothing came of it within {timeout:g} s")
