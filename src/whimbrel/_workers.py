"""serve(workers=...): several processes on one port, and who looks after them.

Each place has two slots, so that a worker can finish its connections while the one that follows it takes the newcomers:

              ready            another is ready            its last connection ends
    STARTING ───────▶ SERVING ──────────────────▶ RETIRING ───────────────────────▶ gone, and the slot is free
        ▲                │
        └────────────────┘  it dies: another starts on the same sockets, where what comes meanwhile waits

A connection's packets go to the slot that issued its connection ID, wherever they come from; newcomers to those who
serve. The kernel decides by that (`_workers_seat`), so that nobody here sees a packet.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import math
import multiprocessing
import pickle
import signal
import warnings
import weakref
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Self

from whimbrel._client import resolve_all
from whimbrel._errors import address_text
from whimbrel._server_stats import ServerStats, summed
from whimbrel._workers_process import Answer, Done, Drain, Failed, Order, Program, Ready, TellStats, work
from whimbrel._workers_seat import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence
    from types import TracebackType

    from whimbrel._config import Limits
    from whimbrel._path import Address
    from whimbrel._workers_seat import Seat

logger = logging.getLogger("whimbrel")

MOST = 256
"""Workers that a server can have: what the kernel's rule is made for."""
RETIRING = 7 * 86400.0
"""Seconds that a worker which was followed by another may take for its connections: a bound for what never ends."""
PATIENCE = 10.0
"""Seconds that a worker which was told to end may take, besides those that its connections were given. Then it is
killed, and its clients hear nothing: so they are enough for a busy machine."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a worker that died is followed by another; doubled each time, until one has lived for so long."""
# Never a fork of a process that may have threads and a running loop.
_SPAWN = multiprocessing.get_context("spawn")


class Workers:
    """A server of several processes. Leaving ``async with serve(..., workers=...)`` ends them."""

    def __init__(self, program: bytes, port: Port, count: int) -> None:
        """Made by `serve` only."""
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._addresses = tuple(port.addresses)
        self._closing = False
        self._closed = asyncio.Event()
        self._renewing = asyncio.Lock()
        steer = weakref.WeakMethod(self._steer)
        self._places = [_Place(program, port, (number, number + count), steer) for number in range(count)]

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens."""
        return self._addresses

    @property
    def processes(self) -> Collection[int]:
        """The processes that there are now, by their numbers (PID): also those that only finish what they have."""
        return [life.pid for life in self._lives()]

    async def stats(self) -> ServerStats:
        """What all processes have done so far, in sum, without those that were killed."""
        answers = await asyncio.gather(*(life.stats() for life in self._lives()))
        past = [place.past for place in self._places]
        return summed([*past, *(answer for answer in answers if answer is not None)])

    async def renew(self) -> None:
        """Replace each worker, one after another, by one that reads certificates and code again.

        Newcomers go to the new one at once; the old one ends with its last connection. What it still has at the renewal
        after this one is closed then.

        Raises:
            OSError: a new worker cannot start, because a file is missing, for example. The old one stays, and those
                that would have been next.
            ValueError: likewise, because a file makes no sense.
            RuntimeError: likewise, because its process ended.
        """
        async with self._renewing:
            for place in self._places:
                if self._closing:
                    return
                try:
                    await place.renew()
                except Exception:
                    if not self._closing:  # Otherwise nobody wants it any more.
                        raise

    async def serve_forever(self) -> None:
        """Wait until the server is closed."""
        await self._closed.wait()

    async def obey_signals(self, *, drain: float = 10.0) -> None:
        """Serve until SIGINT or SIGTERM comes, then close. SIGHUP renews the workers.

        Args:
            drain: seconds to wait for connections to end; a second SIGINT or SIGTERM waits no longer.
        """
        ended, hurried = asyncio.Event(), asyncio.Event()
        renewals: set[asyncio.Task[None]] = set()

        def end() -> None:
            (hurried if ended.is_set() else ended).set()

        def renew() -> None:
            task = self._loop.create_task(self._renew_or_say_why())
            renewals.add(task)
            task.add_done_callback(renewals.discard)

        handlers = {signal.SIGINT: end, signal.SIGTERM: end, signal.SIGHUP: renew}
        for number, handler in handlers.items():
            self._loop.add_signal_handler(number, handler)
        try:
            await ended.wait()
            closing = asyncio.ensure_future(self.close(drain=drain))
            hurry = asyncio.ensure_future(hurried.wait())
            await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
            if not hurry.cancel():
                for life in self._lives():
                    life.order(Drain(0.0))
            await closing
        finally:
            for number in handlers:
                self._loop.remove_signal_handler(number)
            await self.close()
            await asyncio.gather(*renewals)

    async def close(self, *, drain: float = 0.0) -> None:
        """Take no newcomers, wait for connections to end, close the rest, and end the processes.

        May be called twice. Cancelled, it ends them without waiting.

        Args:
            drain: seconds to wait for connections.
        """
        self._closing = True
        for place in self._places:
            place.leave()
        try:
            await asyncio.gather(*(life.end(drain) for life in self._lives()))
        finally:
            for life in self._lives():
                life.kill()
            self._port.close()
            self._closed.set()

    async def _start(self) -> Self:
        try:
            self._steer()
            await asyncio.gather(*(place.start() for place in self._places))
            self._steer()
        except BaseException:
            await self.close()
            raise
        return self

    async def _renew_or_say_why(self) -> None:
        try:
            await self.renew()
        except Exception as error:  # noqa: BLE001 - a program may fail in any way
            logger.error("the workers were not renewed: %s", error)

    def _lives(self) -> list[_Life]:
        return [life for place in self._places for life in place.lives]

    def _steer(self) -> None:
        """Tell the kernel who gets what now."""
        if self._closing:
            return
        slots = {slot: socket for place in self._places for slot, socket in place.sockets().items()}
        serving = [place for place in self._places if place.is_serving] or self._places
        self._port.steer([slots[slot] for slot in sorted(slots)], [place.slot for place in serving])

    def __del__(self) -> None:
        if getattr(self, "_closing", True):
            return
        warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
        for place in self._places:
            place.leave()
        for life in self._lives():
            life.abandon()
        self._port.close()

    def __repr__(self) -> str:
        where = ", ".join(address_text(address) for address in self._addresses)
        return f"<{len(self._places)} workers on {where}{', closed' if self._closed.is_set() else ''}>"


class _Place:
    """Where one worker serves at a time, while another may finish what it has."""

    def __init__(
        self, program: bytes, port: Port, slots: tuple[int, int], changed: Callable[[], Callable[[], None] | None]
    ) -> None:
        self._program = program
        self._port = port
        self._slots = slots
        self._changed = changed
        self._current: _Life | None = None
        self._kept = False
        self._pause = FIRST_PAUSE
        self._replacing: asyncio.Task[None] | None = None
        self.slot = slots[0]
        """The slot of the one that takes newcomers, or that is to be followed because it died."""
        self.lives: list[_Life] = []
        self.past = summed([])
        """What those have done that ended in order."""

    @property
    def is_serving(self) -> bool:
        """Whether newcomers will be answered at once."""
        return self._current is not None and self._current.is_serving

    def sockets(self) -> dict[int, int]:
        """For each slot, the one whose socket takes what comes for it."""
        # What is for a worker that has gone, and was followed, is read and dropped.
        taken = {life.slot for life in self.lives} | {self.slot}
        return {slot: slot if slot in taken else self.slot for slot in self._slots}

    async def start(self) -> None:
        """Have a worker, and from then on always."""
        life = await self._born(self.slot)
        self._kept = True
        self._serve_by(life)

    async def renew(self) -> None:
        """Have another worker take the newcomers."""
        slot = next(slot for slot in self._slots if slot != self.slot)
        for life in [life for life in self.lives if life.slot == slot]:
            await life.end(0.0)
        follower = await self._born(slot)
        before = self._current
        self._serve_by(follower)
        if before is not None:
            logger.info("worker %d follows worker %d, which keeps its connections", follower.pid, before.pid)
            before.order(Drain(RETIRING))

    def leave(self) -> None:
        """Have no more workers than there are."""
        self._kept = False
        if self._replacing is not None:
            self._replacing.cancel()

    def ended(self, life: _Life) -> None:
        """One of the processes is gone."""
        self.lives.remove(life)
        self._tell()
        if life is self._current:
            self._mourn(life)

    def _serve_by(self, life: _Life) -> None:
        self._current, self.slot = life, life.slot
        self._tell()
        if life.over.is_set():
            self._mourn(life)

    def _mourn(self, life: _Life) -> None:
        if self._kept:
            logger.error("worker %d ended (%s); another takes its place", life.pid, life.fate)
            if life.age > LONGEST_PAUSE:
                self._pause = FIRST_PAUSE
            self._replacing = asyncio.create_task(self._replace(life))

    async def _replace(self, life: _Life) -> None:
        while life is self._current:
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            try:
                follower = await self._born(self.slot)
            except Exception as error:  # noqa: BLE001 - a program may fail in any way
                logger.error("no worker can take its place: %s", error)
                continue
            if life is not self._current:
                await follower.end(0.0)  # A renewal was faster.
                return
            self._serve_by(follower)

    async def _born(self, slot: int) -> _Life:
        life = _Life(self._program, self._port.seat(slot), self)
        try:
            await life.ready()
        except BaseException:
            life.kill()
            raise
        return life

    def _tell(self) -> None:
        changed = self._changed()
        if changed is not None:
            changed()


class _Life:
    """One worker process, from its start to its end."""

    def __init__(self, program: bytes, seat: Seat, place: _Place) -> None:
        self.slot = seat.slot
        self.over = asyncio.Event()
        self.fate = ""
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._asked: list[asyncio.Future[ServerStats | None]] = []
        self._place = place
        self._orders, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=work, args=(theirs, seat, program), name="whimbrel-worker")
        try:
            with _signals_held():
                self._process.start()
        except BaseException:
            self._orders.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid or 0
        self._process_ended = self._process.sentinel
        self._loop.add_reader(self._orders.fileno(), self._hear)
        self._loop.add_reader(self._process_ended, self._gone)
        place.lives.append(self)
        _live.add(self)

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return self._loop.time() - self._began

    @property
    def is_serving(self) -> bool:
        """Whether it listens."""
        return self._ready.done() and not self.over.is_set()

    async def ready(self) -> None:
        """Wait until it listens, or raise what hinders it."""
        await self._ready

    def order(self, order: Order) -> None:
        """Tell it something, which it may not live to hear."""
        with contextlib.suppress(OSError):
            self._orders.send(order)

    async def stats(self) -> ServerStats | None:
        """What it has done so far; None: it is not there."""
        if not self.is_serving:
            return None
        asked: asyncio.Future[ServerStats | None] = self._loop.create_future()
        self._asked.append(asked)
        self.order(TellStats())
        return await asked

    async def end(self, drain: float) -> None:
        """Have it end, after so many seconds for its connections, and by force if it does not."""
        self.order(Drain(drain))
        try:
            async with asyncio.timeout(drain + PATIENCE):
                await self.over.wait()
        except TimeoutError:
            logger.warning("worker %d did not end, and was killed", self.pid)
            self.kill()
            await self.over.wait()

    def kill(self) -> None:
        """End it without a word."""
        if not self.over.is_set():
            self._process.kill()

    def abandon(self) -> None:
        """Nobody supervises it any more: it ends by itself."""
        _live.discard(self)
        if self._orders.closed:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._orders.fileno())
        self._orders.close()

    def _hear(self) -> None:
        try:
            answer: Answer = self._orders.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._orders.fileno())
            self._orders.close()
            return
        match answer:
            case Ready():
                self._settle(None)
            case Done(stats):
                self._place.past = summed([self._place.past, replace(stats, connections=0)])
            case Failed(error):
                self._settle(error)
            case ServerStats() if self._asked:
                asked = self._asked.pop(0)
                if not asked.done():
                    asked.set_result(answer)

    def _gone(self) -> None:
        with contextlib.suppress(OSError):
            while self._orders.poll():
                self._hear()  # What it said at last.
        self._process.join()
        code = self._process.exitcode or 0
        self.fate = f"signal {-code}" if code < 0 else f"exit status {code}"
        self._loop.remove_reader(self._process_ended)
        if not self._orders.closed:
            self._loop.remove_reader(self._orders.fileno())
            self._orders.close()
        self._process.close()
        _live.discard(self)
        self.over.set()
        self._place.ended(self)
        self._settle(RuntimeError(f"a worker ended before it could serve ({self.fate})"))
        for asked in self._asked:
            if not asked.done():
                asked.set_result(None)

    def _settle(self, error: Exception | None) -> None:
        if self._ready.done():
            return
        if error is None:
            self._ready.set_result(None)
        else:
            self._ready.set_exception(error)
            self._ready.exception()  # Whoever waited may have been cancelled.


class ServeWorkers:
    """A server of several processes that was described and does not listen yet: enter it, or await it."""

    def __init__(
        self, program: Program, hosts: Sequence[str], port: int, count: int, sockets: str = "wildcard"
    ) -> None:
        """Describe it.

        Args:
            program: makes the server in each process.
            hosts: addresses or names to listen on.
            port: UDP port; 0: a free one, the same for all.
            count: how many processes serve.
            sockets: how the server was to hold them.

        Raises:
            ValueError: there cannot be as many, or not with such sockets, or the program cannot travel to them.
        """
        if sockets != "wildcard":
            raise ValueError("workers need sockets='wildcard': the kernel tells their clients apart by connection IDs")
        if not 1 <= count <= MOST:
            raise ValueError(f"workers must be 1 to {MOST}, not {count}")
        self._program = _travelling(program)
        self._hosts, self._port, self._count = hosts, port, count
        self._server: Workers | None = None

    def __await__(self) -> Generator[object, None, Workers]:
        return self._listen().__await__()

    async def __aenter__(self) -> Workers:
        self._server = await self._listen()
        return self._server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None, "left without being entered"
        await self._server.close()

    async def _listen(self) -> Workers:
        port = Port(await resolve_all(self._hosts, self._port), 2 * self._count)
        return await Workers(self._program, port, self._count)._start()


def share_of(limits: Limits, count: int) -> Limits:
    """The part of each of so many workers in what a server may hold in all."""
    if count < 1:
        return limits  # `ServeWorkers` has a word for that.
    return replace(limits, max_connections=math.ceil(limits.max_connections / count))


def _travelling(program: Program) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(program))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "workers are other processes, which import the handler: it must be a function of a module, or an object "
            f"that pickle can carry ({error})"
        ) from None


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """For a process that is being started: signals to all of a terminal's processes wait until it is prepared."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_live: weakref.WeakSet[_Life] = weakref.WeakSet()


@atexit.register
def _farewell() -> None:
    """The interpreter ends: it would wait for the processes, which wait for orders."""
    for life in list(_live):
        life.abandon()
