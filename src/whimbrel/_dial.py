"""A dial under way: handshakes side by side, until the first of them is a connection.

Which are begun, and over which network, is decided by `Attempts`; what each takes is known to `_client.py`. Whatever
was opened on the way and does not win is closed again, also when the caller gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from whimbrel._attempts import Attempts, all_failed
from whimbrel._connection import Connection
from whimbrel._errors import ConnectFailed, HandshakeFailed
from whimbrel._loop import Pump
from whimbrel._lost import connect_error
from whimbrel._machine import here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whimbrel._attempts import Attempt, NetworkChanges
    from whimbrel._client import _Connect
    from whimbrel._path import Address


class Dial:
    """One dial, on the running loop."""

    def __init__(self, described: _Connect, tried: list[Address]) -> None:
        """Make it; addresses are added to `tried` as they are."""
        self._described = described
        self._tried = tried
        self._loop = asyncio.get_running_loop()
        self._stirred = asyncio.Event()
        self._running: dict[asyncio.Task[Connection], Attempt] = {}
        self._dropped: set[asyncio.Task[Connection]] = set()
        self._failures: list[ConnectFailed] = []

    async def first_to_answer(self, addresses: list[Address]) -> Connection:
        """The first connection that there is.

        Raises:
            ConnectFailed: there is none.
        """
        order, known = self._described._known_first(addresses)
        attempts = Attempts(here.get(), self._described._migration, order)
        with self._described._network_changes() as changes, stirring(changes, self._stirred):
            try:
                while True:
                    won = self._next(attempts, known) or await self._ended(attempts, changes)
                    if won is not None:
                        return won
                    if changes is not None and changes.are_there():
                        self._follow(attempts)
            finally:
                await _abandon({*self._running, *self._dropped})

    def _next(self, attempts: Attempts, known: Address | None) -> Connection | None:
        """Begin the attempt that is due. It is a connection at once where that was known and may send early."""
        attempt = attempts.next(self._loop.time(), waiting=bool(self._running))
        return None if attempt is None else self._begin(attempts, attempt, early=attempt.address == known)

    async def _ended(self, attempts: Attempts, changes: NetworkChanges | None) -> Connection | None:
        """Wait until an attempt has ended, or there is something else to do."""
        if not self._running:
            if attempts.has_more:
                return None
            raise all_failed(self._failures)
        joins = None if attempts.deadline is None else attempts.deadline - self._loop.time()
        await self._wait(joins, None if changes is None else changes.delay())
        done = {task for task in self._running if task.done()}
        for task in done:
            del self._running[task]
            attempts.hurry()
        return self._winner(done)

    async def _wait(self, *limits: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min((limit for limit in limits if limit is not None), default=None)):
                await self._stirred.wait()
        self._stirred.clear()

    def _begin(self, attempts: Attempts, attempt: Attempt, *, early: bool) -> Connection | None:
        described = self._described
        self._tried.append(attempt.address)
        try:
            endpoint, core, interface = described._open(attempt)
        except ConnectFailed as error:
            self._failures.append(error)
            attempts.hurry()
            return None
        pump = Pump(endpoint)
        connection = Connection(
            pump,
            core,
            is_client=True,
            peer=described._peer,
            interface=interface,
            released=pump.stop_from_anywhere,
            name=described._name,
        )
        # At once, or what is sent early would come later than the answer.
        if early and connection._may_begin(early=True):
            return connection
        task = self._loop.create_task(self._shake_hands(connection, attempt, early=early))
        task.add_done_callback(lambda _: self._stirred.set())
        self._running[task] = attempt
        return None

    async def _shake_hands(self, connection: Connection, attempt: Attempt, *, early: bool) -> Connection:
        described = self._described
        try:
            lost = await connection._handshake(early=early)
        except BaseException:
            connection._close_now(0, "")
            raise
        if lost is not None:
            raise connect_error(lost, peer=described._peer, name=described._name, path=connection.path)
        described._answered(connection, attempt.address)
        return connection

    def _follow(self, attempts: Attempts) -> None:
        """The network has changed."""
        begun, stranded = attempts.network_changed()
        for task in [task for task, attempt in self._running.items() if attempt in stranded]:
            del self._running[task]
            self._dropped.add(task)
            task.cancel()
        for attempt in begun:
            self._begin(attempts, attempt, early=False)
        if all(attempt.is_stranded for attempt in self._running.values()):
            attempts.hurry()

    def _winner(self, done: set[asyncio.Task[Connection]]) -> Connection | None:
        """The first connection among tasks that ended; the others of the same moment are closed."""
        won = None
        decisive: BaseException | None = None
        for task in done:
            error = task.exception()
            if error is None:
                if won is None:
                    won = task.result()
                else:
                    task.result()._close_now(0, "")
            elif isinstance(error, ConnectFailed):
                self._failures.append(error)
                # The server has answered: another of its addresses would say the same, or nothing until the timeout.
                if isinstance(error, HandshakeFailed):
                    decisive = error
            else:
                decisive = error
        if won is None and decisive is not None:
            raise decisive
        return won


@contextlib.contextmanager
def stirring(changes: NetworkChanges | None, stirred: asyncio.Event) -> Iterator[None]:
    """Set the event when there is news of the network."""
    descriptor = None if changes is None else changes.fileno()
    if descriptor is None:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, stirred.set)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


async def _abandon(tasks: set[asyncio.Task[Connection]]) -> None:
    """Cancel what is still being tried, and close what came about meanwhile."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    # Cancelled tasks end within one turn of the loop: closing never waits.
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Connection):
            result._close_now(0, "")
