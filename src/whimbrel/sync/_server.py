"""serve(): one thread for each connection that comes in, and one that waits for them."""

from __future__ import annotations

import functools
import logging
import socket
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Self

from whimbrel import _server
from whimbrel._client import addresses_of, literal_address
from whimbrel._errors import address_text
from whimbrel._server import CLOSING, PARTING, is_loss
from whimbrel._server_stats import ServerStats, server_stats
from whimbrel.sync._connection import Connection
from whimbrel.sync._options import takes_but_first_what
from whimbrel.sync._pump import Line, Pump

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

    from whimbrel import _core
    from whimbrel._path import Address

logger = logging.getLogger("whimbrel")

PATIENCE = 2.0
"""Seconds that a server which closes waits for handlers whose connection is gone. No thread can be made to end."""


@takes_but_first_what(_server.serve)
def serve(handler: Callable[[Connection], object], *args: object, **options: object) -> Server:
    """Listen for connections, from now on. ``with serve(...) as server`` closes it as well.

    Takes what `whimbrel.serve` takes, without `workers`, and raises what that raises; but `handler` is called on a
    thread of its own for each connection, when its handshake is complete. When it returns the connection is closed; an
    exception closes only its own connection (code 1), and is logged with the peer's address.
    """
    if options.pop("workers", None) is not None:
        raise ValueError("workers are asyncio's: use whimbrel.serve")
    described = _server.serve(handler, *args, **options)  # type: ignore[call-overload]
    addresses: dict[Address, None] = {}
    for host in described._hosts:
        addresses.update(dict.fromkeys(_resolve(host, described._port)))
    return Server(handler, described._bind(list(addresses)))


class Server:
    """A listening server. Leaving ``with serve(...)`` closes it. Any thread may use it."""

    def __init__(self, handler: Callable[[Connection], object], endpoint: _core.Endpoint) -> None:
        """Made by `serve` only."""
        self._handler = handler
        self._addresses = tuple(endpoint.addresses())
        self._connections: dict[int, Connection] = {}
        self._handlers: dict[threading.Thread, Connection] = {}
        self._lock = threading.RLock()
        self._closing = False
        self._closed = threading.Event()
        self._pump = Pump(endpoint, self)
        self._endpoint = endpoint
        self._leaving = Line(self._pump)
        self._stats: ServerStats
        self._accepting = threading.Thread(target=_accept, args=(self._pump,), name="whimbrel-server", daemon=True)
        self._accepting.start()

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens."""
        return self._addresses

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that stand now."""
        standing = self._connections.copy().values()
        return [connection for connection in standing if connection._core.is_connected()]

    def stats(self) -> ServerStats:
        """What the server has done so far."""
        self._pump.check()
        with self._lock:
            if not self._closed.is_set():
                self._stats = server_stats(self._endpoint, len(self.connections))
            return self._stats

    def serve_forever(self, *, timeout: float | None = None) -> None:
        """Wait until the server is closed.

        Raises:
            TimeoutError: it was not, in time.
        """
        self._pump.check()
        if not self._closed.wait(timeout):
            raise TimeoutError(f"the server was not closed within {timeout:g} s")

    def close(self, *, drain: float = 0.0) -> None:
        """Take no newcomers, wait for those there are, then close the rest. May be called twice.

        Handlers whose connection was closed end by an exception, as soon as they use it. One that does not is left
        alone after two seconds. Peers that were closed here are given a moment to take note: as long as some send on,
        they are told again (RFC 9000 §10.2), for one second at most. Interrupted, it closes without waiting.

        Args:
            drain: seconds to wait for handlers to return.
        """
        self._pump.check()
        with self._lock:
            if not self._closed.is_set():
                self._endpoint.refuse_newcomers()
            self._closing = True
        try:
            if drain > 0:
                self._wait_for_handlers(drain)
            self._close_connections()
            self._wait_for_handlers(PATIENCE)
            for connection in self._handlers.copy().values():
                logger.warning("the handler of %s goes on although its connection was closed", connection.peer)
            self._part()
        finally:
            self._close_now()
            if threading.current_thread() is not self._accepting:
                self._accepting.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _incoming(self, number: int) -> None:
        """A new connection knocks; called by the thread that pumps."""
        if number in self._connections:
            return
        core = self._endpoint.connection(number)
        connection = Connection(
            self._pump,
            core,
            is_client=False,
            peer=address_text(core.remote_address()),
            interface=None,
            released=functools.partial(_release, weakref.ref(self), self._pump, number),
            greeted=functools.partial(_greet, weakref.ref(self)),
        )
        self._connections[number] = connection
        if self._closing:
            # It was let in a moment before, and its news waited.
            connection._close_now(0, CLOSING)

    def _greet(self, connection: Connection) -> None:
        """A handshake is complete; called by the thread that pumps."""
        thread = threading.Thread(target=self._attend, args=(connection,), name=f"whimbrel {connection.peer}")
        thread.daemon = True
        self._handlers[thread] = connection
        try:
            thread.start()
        except RuntimeError as error:
            del self._handlers[thread]
            logger.error("no thread for %s: %s", connection.peer, error)
            connection._close_now(1, "")

    def _attend(self, connection: Connection) -> None:
        """One connection, on its own thread, from its handshake to its end."""
        try:
            self._handler(connection)
        except Exception as error:
            # The peer went away while the handler was at it: the peer's business, unless the error is of another one.
            if connection._lost is not None and is_loss(error):
                logger.debug("%s", error)
            else:
                logger.exception("the handler of %s failed", connection.peer)
                connection._close_now(1, "")
        else:
            connection.close()
        finally:
            connection._close_now(0, "")
            self._handlers.pop(threading.current_thread(), None)
            self._leaving.wake_all()

    def _close_connections(self) -> None:
        for connection in self._connections.copy().values():
            connection._close_now(0, CLOSING)

    def _part(self) -> None:
        """Answer late packets, until all have taken note or three probe timeouts are over."""

        def attempt() -> bool | None:
            return True if self._closed.is_set() or not self._endpoint.unanswered() else None

        self._pump.until(attempt, PARTING, self._pump.turned, object())

    def _close_now(self) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self.stats()
            self._closed.set()
        self._close_connections()
        self._pump.stop()

    def _wait_for_handlers(self, limit: float) -> None:
        me = threading.current_thread()

        def attempt() -> bool | None:
            return True if not self._handlers.copy().keys() - {me} else None

        self._pump.until(attempt, limit, self._leaving.waiters, object())

    def __del__(self) -> None:
        closed = getattr(self, "_closed", None)
        if closed is None or closed.is_set() or self._pump.is_forked:
            return
        warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
        self._pump.stop()

    def __repr__(self) -> str:
        where = ", ".join(address_text(address) for address in self._addresses)
        return f"<Server on {where}{', closed' if self._closed.is_set() else ''}>"


def _accept(pump: Pump) -> None:
    """Wait, so that there is always somebody who pumps. Must not refer to the server, or nobody could drop it."""
    pump.until(lambda: None if not pump.stopped else True, None, {}, None)


def _resolve(host: str, port: int) -> list[Address]:
    literal = literal_address(host, port)
    if literal is not None:
        return [literal]
    return addresses_of(socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM))


def _release(server: weakref.ref[Server], pump: Pump, number: int) -> None:
    """A connection of a server has ended. Must not refer to it: see `Connection`."""
    pump.remove(number)
    owner = server()
    if owner is not None:
        owner._connections.pop(number, None)


def _greet(server: weakref.ref[Server], connection: Connection) -> None:
    owner = server()
    if owner is not None:
        owner._greet(connection)
