"""connect(): from a name to a connection, on the caller's thread.

What is dialled, and how, is described by the asyncio face's `connect`, with all its options. Here is only the waiting:
one thread pumps the connections to all addresses until one of them has shaken hands.
"""

from __future__ import annotations

import functools
import queue
import select
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING

from whimbrel import _client
from whimbrel._attempts import Attempts, all_failed
from whimbrel._client import addresses_of, in_turns, literal_address, report_to
from whimbrel._errors import ConnectFailed, ConnectTimeout, HandshakeFailed
from whimbrel._lost import connect_error
from whimbrel._machine import here
from whimbrel.sync._connection import Connection
from whimbrel.sync._options import takes_what
from whimbrel.sync._pump import Pump

if TYPE_CHECKING:
    from whimbrel._attempts import Attempt, NetworkChanges
    from whimbrel._path import Address


@takes_what(_client.connect)
def connect(*args: object, **options: object) -> Connection:
    """Open a connection, and return when it stands. ``with connect(...) as connection`` closes it as well.

    Takes what `whimbrel.connect` takes, and raises what that raises. ``timeout`` bounds the dial.
    """
    return _Dial(_client.connect(*args, **options)).connection()  # type: ignore[arg-type]


class _Dial:
    """One dial under way."""

    def __init__(self, described: _client._Connect) -> None:
        self._described = described
        self._deadline = None if described._timeout is None else time.monotonic() + described._timeout
        self._tried: list[Address] = []
        self._failures: list[ConnectFailed] = []
        self._running: dict[Connection, Attempt] = {}

    def connection(self) -> Connection:
        """The connection to the first address that answers."""
        try:
            connection = self._first_to_answer(self._look_up())
            self._described._look_after(connection, functools.partial(report_to, weakref.ref(connection)))
            left = self._left()
            if left is not None:
                self._described._bound(connection, left, self._tried)
            del self._running[connection]
        finally:
            for other in self._running:
                other._close_now(0, "")
        return connection

    def _look_up(self) -> list[Address]:
        """The addresses to try, in order. On a thread, since the system's look-up heeds neither time nor Ctrl-C."""
        host, port = self._described._host, self._described._port
        literal = literal_address(host, port)
        if literal is not None:
            return [literal]
        answer: queue.SimpleQueue[list[Address] | socket.gaierror | UnicodeError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put(addresses_of(socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)))
            except (socket.gaierror, UnicodeError) as error:
                answer.put(error)

        threading.Thread(target=ask, name="whimbrel-lookup", daemon=True).start()
        try:
            found = answer.get(timeout=self._left())
        except queue.Empty:
            raise self._too_late() from None
        if isinstance(found, Exception):
            raise self._described._not_found(found) from found
        return in_turns(found)

    def _first_to_answer(self, addresses: list[Address]) -> Connection:
        order, known = self._described._known_first(addresses)
        attempts = Attempts(here.get(), self._described._migration, order)
        with self._described._network_changes() as changes:
            while True:
                left = self._left()
                if left == 0:
                    raise self._too_late()
                attempt = attempts.next(time.monotonic(), waiting=bool(self._running))
                if attempt is not None:
                    self._try(attempt)
                if not self._running and not attempts.has_more:
                    raise all_failed(self._failures)
                for connection, begun in self._running.items():
                    if connection._handshake(early=begun.address == known):
                        if connection._lost is None:
                            self._described._answered(connection, begun.address)
                            return connection
                        self._failed(connection)
                        break
                else:
                    joins = None if attempts.deadline is None else attempts.deadline - time.monotonic()
                    news = None if changes is None else changes.delay()
                    self._wait([limit for limit in (left, joins, news) if limit is not None], changes)
                    if changes is not None and changes.are_there():
                        self._follow(attempts)
                        if all(attempt.is_stranded for attempt in self._running.values()):
                            attempts.hurry()

    def _follow(self, attempts: Attempts) -> None:
        """The network has changed."""
        begun, stranded = attempts.network_changed()
        for connection in [connection for connection, attempt in self._running.items() if attempt in stranded]:
            del self._running[connection]
            connection._close_now(0, "")
        for attempt in begun:
            self._try(attempt)

    def _wait(self, limits: list[float], changes: NetworkChanges | None) -> None:
        """Until a connection has something to pump or to tell. Its timers are seen to by the guard thread meanwhile."""
        poller = select.poll()
        for connection in self._running:
            endpoint = connection._pump.endpoint
            poller.register(endpoint.fileno(), select.POLLIN)
            poller.register(endpoint.wake_fileno(), select.POLLIN)
        news = None if changes is None else changes.fileno()
        if news is not None:
            poller.register(news, select.POLLIN)
        poller.poll(max(0.0, min(limits)) * 1000 if limits else None)

    def _try(self, attempt: Attempt) -> None:
        described = self._described
        self._tried.append(attempt.address)
        try:
            endpoint, core, interface = described._open(attempt)
        except ConnectFailed as error:
            self._failures.append(error)
            return
        pump = Pump(endpoint)
        connection = Connection(
            pump,
            core,
            is_client=True,
            peer=described._peer,
            interface=interface,
            released=pump.stop,
            name=described._name,
        )
        self._running[connection] = attempt

    def _failed(self, connection: Connection) -> None:
        """One address leads nowhere. Once the server has answered, its other addresses would say the same."""
        described = self._described
        del self._running[connection]
        assert connection._lost is not None, "it has failed"
        error = connect_error(connection._lost, peer=described._peer, name=described._name, path=connection.path)
        if isinstance(error, HandshakeFailed):
            raise error
        self._failures.append(error)

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _too_late(self) -> ConnectTimeout:
        return ConnectTimeout(self._described._what_was_tried(self._tried), peer=self._described._peer)
