"""The control thread: the network's news and the policies' timers in, actions on the core out.

One thread for the process steers all its connections. It waits in one selector for the kernel's network news, the
cores' own news, answers to probes, and requests of other threads. Event loops are never waited for, so that a blocked
one does not stop a move. The thread exists only while there is a connection to steer.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import selectors
import threading
import time
from collections import deque
from socket import if_nametoindex
from typing import TYPE_CHECKING, Final

from whimbrel._probe import ProbeSocket
from whimbrel._steering import Steering
from whimbrel.network import NetworkNews, Route, Settling, route_to, routes_to, subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whimbrel import _core
    from whimbrel._config import Migration
    from whimbrel._events import PathChange
    from whimbrel._path import Path

logger = logging.getLogger("whimbrel")

PROBE_LIFE: Final = 5.0
"""Seconds for which an answer to a probe is waited for: the policy has long given up."""


class Attachment:
    """A connection that is being steered. Any thread may call."""

    def __init__(self, driver: Driver, steering: Steering) -> None:
        self._driver = driver
        self._steering = steering

    def request_move(self, interface: str | None) -> concurrent.futures.Future[Path]:
        """Ask for a move to that interface, or to the kernel's choice.

        The future gives the new path, or fails with a `MigrationError`.
        """
        moving: concurrent.futures.Future[Path] = concurrent.futures.Future()
        self._driver.call(lambda now: self._steering.request_move(interface, moving, now))
        return moving

    def cancel_move(self) -> None:
        """Forget the move that was asked for."""
        self._driver.call(self._steering.cancel_move)

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
        report: Callable[[PathChange | Exception], None],
    ) -> Attachment:
        """Steer a connection from now on. `report` is called on the control thread, and must not wait.

        Raises:
            OSError: out of file descriptors.
        """
        with self._lock:
            if self._thread is None:
                self._thread = _ControlThread(self._lock)
                self._thread.start()
            return Attachment(self, self._thread.add(endpoint, core, peer, settings, report))

    def call(self, act: Callable[[float], None]) -> None:
        """Do something on the control thread soon."""
        with self._lock:
            if self._thread is not None:
                self._thread.post(act)

    def release(self, steering: Steering) -> None:
        """Forget a connection. The thread ends with its last one."""
        with self._lock:
            steering.end()
            thread = self._thread
            if thread is None:
                return
            thread.remove(steering)
            if thread.is_idle:
                self._thread = None
                thread.stop()
        if threading.current_thread() is not thread and not self._thread:
            thread.join(1.0)

    def forget_all(self) -> None:
        """This is the child of a fork, which has no such thread."""
        self.__init__()  # type: ignore[misc]


class _ControlThread(threading.Thread):
    """Everything it has is touched under the driver's lock, which is free while it waits."""

    def __init__(self, lock: threading.RLock) -> None:
        super().__init__(name="whimbrel-control", daemon=True)
        self._lock = lock
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._posted: deque[Callable[[float], None]] = deque()
        self._members: dict[Steering, int] = {}
        self._probes: dict[ProbeSocket, tuple[Steering, float]] = {}
        self._known: dict[str, Sequence[Route]] = {}
        self._settling = Settling()
        self._news: NetworkNews = subscribe()
        self._stopped = False
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        descriptor = self._news.fileno()
        if descriptor is not None:
            self._selector.register(descriptor, selectors.EVENT_READ, self._network_news)

    # Called by others, under the lock ---------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return not self._members

    def add(
        self,
        endpoint: _core.Endpoint,
        core: _core.Connection,
        peer: str,
        settings: Migration,
        report: Callable[[PathChange | Exception], None],
    ) -> Steering:
        now = time.monotonic()
        host, _ = core.local_address()
        interface = core.interface()
        ways = routes_to(core.remote_address()[0])
        # Where the kernel routes, the path is what it would choose; else what the dial pinned, gone or not.
        active = next((way for way in ways if way.interface == interface and way.source == host), None)
        if active is None and settings.sockets != "pinned":
            active = route_to(core.remote_address()[0])
        elif active is None and interface is not None:
            active = _dialled(interface, host)
        steering = Steering(endpoint, core, peer, settings, self, report, now, active)
        descriptor = endpoint.control_fileno()
        self._members[steering] = descriptor
        self._selector.register(descriptor, selectors.EVENT_READ, steering.core_news)
        # The network may have changed during the handshake.
        self.post(steering.ask_routes)
        return steering

    def remove(self, steering: Steering) -> None:
        descriptor = self._members.pop(steering, None)
        if descriptor is not None:
            self._selector.unregister(descriptor)
        for probe in [probe for probe, (owner, _) in self._probes.items() if owner is steering]:
            self._close_probe(probe)

    def post(self, act: Callable[[float], None]) -> None:
        self._posted.append(act)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    # Surroundings of a `Steering` -------------------------------------------------------------------------------------

    def routes(self, address: str) -> Sequence[Route]:
        """One question a turn for each peer, however many connections lead there."""
        if address not in self._known:
            self._known[address] = routes_to(address)
        return self._known[address]

    def send_probe(self, steering: Steering, route: Route, datagram: bytes) -> None:
        """From a new socket for each: a port seen on two networks would link them."""
        probe = ProbeSocket(steering.remote, route)
        self._probes[probe] = steering, time.monotonic() + PROBE_LIFE
        self._selector.register(probe, selectors.EVENT_READ, lambda now: self._probe_answered(probe, now))
        try:
            probe.send(datagram)
        except OSError:
            self._close_probe(probe)
            raise

    # The thread -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            while not self._stopped:
                ready = self._selector.select(self._wait())
                with self._lock:
                    self._turn([key.data for key, _ in ready])
        finally:
            with self._lock:
                self._close()

    def _turn(self, ready: list[Callable[[float], None]]) -> None:
        now = time.monotonic()
        self._known.clear()
        due = [member.tick for member in self._members if _is_due(member, now)]
        if self._settling.deadline is not None and self._settling.deadline <= now:
            due.append(self._ask_all)
        if self._news.interval is not None:
            due.append(self._network_news)
        posted = [self._posted.popleft() for _ in range(len(self._posted))]
        for act in (*posted, *ready, *due):
            try:
                act(now)
            except Exception:
                # One connection's trouble must not be that of the others.
                logger.exception("steering a connection failed; please report this")
        for probe in [probe for probe, (_, until) in self._probes.items() if until <= now]:
            self._close_probe(probe)

    def _wait(self) -> float | None:
        with self._lock:
            times = [member.deadline for member in self._members]
            times.append(self._settling.deadline)
            if self._news.interval is not None:
                times.append(time.monotonic() + self._news.interval)
            if self._probes:
                times.append(min(until for _, until in self._probes.values()))
        soonest = min((time for time in times if time is not None), default=None)
        return None if soonest is None else max(0.0, soonest - time.monotonic())

    def _woken(self, _now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _network_news(self, now: float) -> None:
        if self._news.drain():
            self._settling.heard(now)
            self._ask_all(now)

    def _ask_all(self, now: float) -> None:
        if self._settling.deadline is None or self._settling.deadline > now:
            return
        self._settling.asked(now)
        for member in list(self._members):
            member.ask_routes(now)

    def _probe_answered(self, probe: ProbeSocket, now: float) -> None:
        found = self._probes.get(probe)
        if found is not None:  # It may have been closed earlier in this turn.
            for datagram in probe.receive():
                found[0].datagram_came(datagram, now)

    def _close_probe(self, probe: ProbeSocket) -> None:
        if self._probes.pop(probe, None) is not None:
            self._selector.unregister(probe)
            probe.close()

    def _close(self) -> None:
        for probe in list(self._probes):
            self._close_probe(probe)
        self._news.close()
        self._selector.close()
        os.close(self._wake)


def _is_due(member: Steering, now: float) -> bool:
    deadline = member.deadline
    return deadline is not None and deadline <= now


def _dialled(interface: str, source: str) -> Route:
    """The route that the dial took, when it is gone already."""
    try:
        index = if_nametoindex(interface)
    except OSError:
        index = 0  # So is the interface; 0 is the number of none.
    return Route(interface, index, source)


driver: Final = Driver()
os.register_at_fork(after_in_child=driver.forget_all)
