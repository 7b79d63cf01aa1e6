"""The control thread: the network's news and the policies' timers in, actions on the core out.

One thread for the process steers all its connections: it turns a `Control`. It waits in one selector for the kernel's
network news, the cores' own news, answers to probes, and requests of other threads. Event loops are never waited for,
so that a blocked one does not stop a move. The thread exists only while there is a connection to steer, and a moment
longer: who dials again and again pays for it once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import os
import selectors
import threading
from typing import TYPE_CHECKING, Final, Protocol

from whimbrel._control import Control
from whimbrel._machine import THIS_MACHINE
from whimbrel.network import Suspension

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel import _core
    from whimbrel._config import Migration
    from whimbrel._errors import ConnectionLost
    from whimbrel._events import PathChange, PathProbed
    from whimbrel._machine import ProbeWire
    from whimbrel._path import Path
    from whimbrel._steering import Steering


LINGER: Final = 0.1
"""Seconds for which the thread outlasts its last connection."""
LOOK: Final = 0.01
"""Seconds between its looks meanwhile: who comes need not wake it for what has so much time."""


class Caller(Protocol):
    """Brings what is asked to where steering happens."""

    def call(self, act: Callable[[float], None]) -> None:
        """Do something there soon."""

    def release(self, steering: Steering) -> None:
        """Steer it no more."""


class Attachment:
    """A connection that is being steered. Any thread may call."""

    def __init__(self, driver: Caller, steering: Steering) -> None:
        self._driver = driver
        self._steering = steering

    def request_move(self, interface: str | None) -> concurrent.futures.Future[Path]:
        """Ask for a move to that interface, or to the kernel's choice.

        The future gives the new path, or fails with a `MigrationError`, or with ConnectionLost.
        """
        moving: concurrent.futures.Future[Path] = concurrent.futures.Future()
        self._driver.call(lambda now: self._steering.request_move(interface, moving, now))
        return moving

    def cancel_move(self, moving: concurrent.futures.Future[Path]) -> None:
        """Forget the move that was asked for."""
        self._driver.call(lambda now: self._steering.cancel_move(moving, now))

    def request_probe(self, interface: str | None) -> concurrent.futures.Future[PathProbed]:
        """Ask the server over that interface, or over the one that is preferred, and stay where we are.

        The future gives its answer, or fails with a `MigrationError`, or with ConnectionLost.
        """
        asking: concurrent.futures.Future[PathProbed] = concurrent.futures.Future()
        self._driver.call(lambda now: self._steering.request_probe(interface, asking, now))
        return asking

    def cancel_probe(self, asking: concurrent.futures.Future[PathProbed]) -> None:
        """Forget the question."""
        self._driver.call(lambda now: self._steering.cancel_probe(asking, now))

    def detach(self) -> None:
        """Steer it no more. When this returns, its core is not called again."""
        self._driver.release(self._steering)

    def path(self) -> Path:
        """The path in use."""
        return self._steering.path()


class Driver:
    """Owns the control thread. There is one, `driver`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._thread: _ControlThread | None = None

    def attach(
        self,
        endpoint: _core.Endpoint,
        core: _core.Connection,
        peer: str,
        settings: Migration,
        report: Callable[[PathChange | ConnectionLost], None],
    ) -> Attachment:
        """Steer a connection from now on. `report` is called on the control thread, and must not wait.

        Raises:
            OSError: out of file descriptors.
            Exception: a policy of the program's own cannot be made.
        """
        with self._lock:
            thread = self._thread_here()
            try:
                return Attachment(self, thread.control.add(endpoint, core, peer, settings, report))
            finally:
                thread.linger_if_idle()

    def call(self, act: Callable[[float], None]) -> None:
        """Do something on the control thread soon."""
        with self._lock:
            if self._thread is not None:
                self._thread.control.post(act)
            else:
                act(THIS_MACHINE.now())  # The connection that it is about is over, and answers so.

    def release(self, steering: Steering) -> None:
        """Forget a connection. The thread ends soon after its last one."""
        with self._lock:
            steering.end()
            if self._thread is not None:
                self._thread.control.remove(steering)
                self._thread.linger_if_idle()

    def _thread_here(self) -> _ControlThread:
        thread = self._thread
        # One that lingers is of no use to who has gone to another network namespace.
        if thread is not None and thread.control.is_idle and thread.network != _network():
            thread.stop()
            thread = None
        if thread is None:
            thread = _ControlThread(self._lock, self._ended)
            thread.start()
            self._thread = thread
        return thread

    def _ended(self, thread: _ControlThread) -> None:
        if self._thread is thread:
            self._thread = None

    def forget_all(self) -> None:
        """This is the child of a fork, which has no such thread."""
        self.__init__()  # type: ignore[misc]


class _ControlThread(threading.Thread):
    """Turns a `Control`, under the driver's lock, which is free while this waits."""

    def __init__(self, lock: threading.RLock, ended: Callable[[_ControlThread], None]) -> None:
        """Make it, with the lock held. `ended` is called, under the lock, when it takes no more connections."""
        super().__init__(name="whimbrel-control", daemon=True)
        self.network = _network()
        self._lock = lock
        self._ended = ended
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self._stopped = False
        self._lingers_until = 0.0
        self._sleeps_until = 0.0
        self._suspension = Suspension()
        self.control = Control(THIS_MACHINE, self)

    # Called by others, under the lock ---------------------------------------------------------------------------------

    def register(self, source: int | ProbeWire, ready: Callable[[float], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, ready)

    def unregister(self, source: int | ProbeWire) -> None:
        self._selector.unregister(source)

    def wake(self) -> None:
        os.eventfd_write(self._wake, 1)

    def wake_by(self, deadline: float) -> None:
        if self._sleeps_until > deadline:
            self.wake()

    def stop(self) -> None:
        self._stopped = True
        self.wake()

    def linger_if_idle(self) -> None:
        """Where there is nothing to steer, end soon, unless there is again."""
        if self.control.is_idle:
            self._lingers_until = THIS_MACHINE.now() + LINGER
            self.wake_by(self._lingers_until)

    # The thread -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            while not self._stopped:
                ready = self._selector.select(self._wait())
                with self._lock:
                    slept = self._suspension.passed()
                    if slept:
                        self.control.woke(slept)
                    self.control.turn([key.data for key, _ in ready])
                    if self.control.is_idle and THIS_MACHINE.now() >= self._lingers_until:
                        self._stopped = True
                        self._ended(self)
        finally:
            with self._lock:
                self._ended(self)
                self.control.close()
                self._selector.close()
                os.close(self._wake)

    def _wait(self) -> float | None:
        with self._lock:
            deadline = self.control.deadline
            if self.control.is_idle:
                deadline = min(self._lingers_until, THIS_MACHINE.now() + LOOK)
            self._sleeps_until = math.inf if deadline is None else deadline
        return None if deadline is None else max(0.0, deadline - THIS_MACHINE.now())

    def _woken(self, _now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)


def _network() -> int:
    """The network namespace of the calling thread, and of those that it starts; 0 where that cannot be told."""
    try:
        return os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 - no file
    except OSError:
        return 0


driver: Final = Driver()
os.register_at_fork(after_in_child=driver.forget_all)
