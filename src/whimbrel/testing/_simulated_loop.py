"""An asyncio loop in virtual time: when nothing is left to do, time leaps to what comes next.

Everything else is as always: tasks, timers, readers, threads. While a thread of the loop's executor works, time stands
still, since nobody can say how long that takes.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable
    from concurrent.futures import Executor

    _Event = tuple[selectors.SelectorKey, int]

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")

GRANULARITY: Final = 1e-6
"""The shortest leap in time, seconds. Engines round to nanoseconds: without it, a timer may be due for ever."""
_STANDSTILL: Final = 100_000
"""So many turns of the loop at one moment are an endless loop."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock somebody else owns."""

    def __init__(
        self,
        clock: Callable[[], float],
        leap: Callable[[float | None], None],
        look_up: Callable[[str], list[str]],
    ) -> None:
        """Make it.

        Args:
            clock: what time it is, seconds.
            leap: nothing is left to do for so many seconds, or for ever: make it later.
            look_up: the addresses of a name; none: there is no such name.
        """
        self._clock = clock
        self._look_up = look_up
        self._working = 0
        self._readers: dict[int, Callable[[], object]] = {}
        super().__init__(_Selector(self, leap))
        self._clock_resolution = GRANULARITY / 1000

    def time(self) -> float:
        return self._clock()

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_at(max(when, self._clock() + GRANULARITY), callback, *args, context=context)

    def readable(self, descriptor: int) -> None:
        """Have the reader of this descriptor called, as if there were something."""
        reader = self._readers.get(descriptor)
        if reader is not None:
            reader()

    def add_reader(self, fd: Any, callback: Callable[[*_Args], Any], *args: *_Args) -> None:
        if fd == -1:  # What a simulated endpoint has for a socket.
            return
        super().add_reader(fd, callback, *args)
        handle, _ = self._selector.get_key(fd).data  # type: ignore[attr-defined]
        self._readers[fd] = lambda: self._add_callback(handle)  # type: ignore[attr-defined]

    def remove_reader(self, fd: Any) -> bool:
        self._readers.pop(fd, None)
        return fd != -1 and super().remove_reader(fd)

    def has_reader(self, descriptor: int) -> bool:
        """Whether somebody reads it."""
        return descriptor in self._readers

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Args], _Result], *args: *_Args
    ) -> asyncio.Future[_Result]:
        self._working += 1
        working = super().run_in_executor(executor, func, *args)
        working.add_done_callback(self._worked)
        return working

    async def shutdown_default_executor(self, *args: Any) -> None:
        self._working += 1  # Its threads end in real time.
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._working -= 1

    def _worked(self, _: object) -> None:
        self._working -= 1

    @property
    def waits_for_threads(self) -> bool:
        """Whether something is under way that takes real time."""
        return self._working > 0

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as asyncio names it
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        found: list[tuple[int, int, int, str, tuple[Any, ...]]] = []
        for address in self._look_up(str(host)):
            if ":" in address and family in (0, socket.AF_INET6):
                found.append((socket.AF_INET6, type, proto, "", (address, port, 0, 0)))
            elif ":" not in address and family in (0, socket.AF_INET):
                found.append((socket.AF_INET, type, proto, "", (address, port)))
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found


class _Selector(selectors.DefaultSelector):
    """Sees what is really there, such as what another thread left; where a loop would wait for time, it leaps."""

    def __init__(self, loop: VirtualLoop, leap: Callable[[float | None], None]) -> None:
        super().__init__()
        self._loop = loop
        self._leap = leap
        self._moment, self._turns = -1.0, 0

    def select(self, timeout: float | None = None) -> list[_Event]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            self._check_standstill()
            return ready
        if self._loop.waits_for_threads:
            return super().select(None)
        self._leap(timeout)
        return []

    def _check_standstill(self) -> None:
        now = self._loop.time()
        self._turns = self._turns + 1 if now == self._moment else 0
        self._moment = now
        if self._turns > _STANDSTILL:
            self._turns = 0  # Whoever is cancelled now may need some.
            raise RuntimeError(f"time stands still at {now:.6f} s: something goes on for ever without waiting")
