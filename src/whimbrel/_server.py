"""serve(): one task for each connection that comes in."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import warnings
import weakref
from typing import TYPE_CHECKING, Literal, overload

from whimbrel import _core
from whimbrel._client import alpn_bytes, resolve_all, transport_config
from whimbrel._config import Limits
from whimbrel._connection import Connection
from whimbrel._errors import ConnectionLost, address_text
from whimbrel._loop import Line, Pump
from whimbrel._machine import here
from whimbrel._qlog import qlog_folder
from whimbrel._server_stats import ServerStats, server_stats
from whimbrel._tls import StrPath, authorities, identity
from whimbrel._workers_seat import seat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
    from types import TracebackType

    from whimbrel._path import Address
    from whimbrel._workers import ServeWorkers

logger = logging.getLogger("whimbrel")
handshakes = logging.getLogger("whimbrel.handshake")
"""Told of those that failed, by itself, for who wants to know whom TLS has turned away."""

CLOSING = "the server is closing"
PARTING = 1.0
"""Seconds that a server which closes waits for its peers to take note, at most: three probe timeouts of all but the
slowest (RFC 9000 §10.2)."""


@overload
def serve(
    handler: Callable[[Connection], Awaitable[None]],
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    cert: tuple[StrPath, StrPath],
    alpn: str | Sequence[str],
    client_ca: StrPath | None = None,
    sockets: Literal["wildcard", "connected"] = "wildcard",
    retry: Literal["auto", "always", "never"] = "auto",
    early_data: bool = False,
    idle_timeout: float = 90.0,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    qlog: StrPath | None = None,
    workers: None = None,
) -> _Serve: ...


@overload
def serve(
    handler: Callable[[Connection], Awaitable[None]],
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    cert: tuple[StrPath, StrPath],
    alpn: str | Sequence[str],
    client_ca: StrPath | None = None,
    sockets: Literal["wildcard"] = "wildcard",
    retry: Literal["auto", "always", "never"] = "auto",
    early_data: bool = False,
    idle_timeout: float = 90.0,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    qlog: StrPath | None = None,
    workers: int,
) -> ServeWorkers: ...


def serve(
    handler: Callable[[Connection], Awaitable[None]],
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    cert: tuple[StrPath, StrPath],
    alpn: str | Sequence[str],
    client_ca: StrPath | None = None,
    sockets: Literal["wildcard", "connected"] = "wildcard",
    retry: Literal["auto", "always", "never"] = "auto",
    early_data: bool = False,
    idle_timeout: float = 90.0,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    qlog: StrPath | None = None,
    workers: int | None = None,
) -> _Serve | ServeWorkers:
    """Listen for connections: ``async with serve(...) as server``.

    Args:
        handler: called with each connection, in a task of its own; when it returns the connection is closed. An
            exception closes only its own connection (code 1), and is logged with the peer's address.
        host: addresses or names to listen on; None: all, IPv4 and IPv6.
        port: UDP port; 0: a free one, the same for all addresses.
        cert: certificate chain and key, PEM files.
        alpn: the application protocols spoken, the favourite first.
        client_ca: require client certificates, and verify them with this file.
        sockets: ``wildcard``: one socket for each address, and connections are told apart by their IDs; ``connected``:
            each client that has proven its address gets a socket connected to it, so that the kernel tells them apart,
            as long as there are descriptors (RLIMIT_NOFILE, an eighth of which is left to the application).
        retry: newcomers prove their address before anything is kept for them, at the price of a round trip (Retry,
            RFC 9000 §8.1.2): ``always``, ``never``, or only while 256 handshakes are under way (``auto``).
        early_data: take what a client that was here before sends with its first packets (0-RTT), and call the handler
            at once, before the handshake is complete. Whoever records such packets can send them again (RFC 9001 §9.2,
            RFC 8470). A ticket is good for one use of it, and for this server in this process: copies are taken neither
            here nor after a restart. But until `Connection.wait_handshake` returns it may be the copy that came first,
            and the client the one that repeats. So before that, do only what may be done twice; ``stream.early`` says
            what came so.
        idle_timeout: seconds without any packet after which a connection is lost (RFC 9000 §10.1).
        limits: bounds on the memory of each connection, and on their number.
        qlog: a folder to write a log of each connection into; None: what QLOGDIR says, if anything.
        workers: serve by so many processes on the one port, which are supervised: `Workers`. The handler runs in them,
            so that it must be a function of a module, or an object that `pickle` can carry; what is bounded for the
            server is bounded for each worker by its share. None: serve in this process.

    Raises:
        OSError: the port is in use, or a file cannot be read.
        ValueError: an argument or a file's content makes no sense; the message says which.
    """
    described = _Serve(
        handler,
        host,
        port,
        cert=cert,
        alpn=alpn,
        client_ca=client_ca,
        sockets=sockets,
        retry=retry,
        early_data=early_data,
        idle_timeout=idle_timeout,
        limits=limits,
        qlog=qlog,
    )
    if workers is None:
        return described
    from whimbrel._workers import ServeWorkers, share_of

    program = functools.partial(
        serve,
        handler,
        cert=cert,
        alpn=alpn,
        client_ca=client_ca,
        retry=retry,
        early_data=early_data,
        idle_timeout=idle_timeout,
        limits=share_of(limits, workers),
        qlog=qlog,
    )
    return ServeWorkers(program, described._hosts, port, workers, sockets)


class Server:
    """A listening server. Leaving ``async with serve(...)`` closes it."""

    def __init__(self, handler: Callable[[Connection], Awaitable[None]], endpoint: _core.Endpoint) -> None:
        """Made by `serve` only."""
        self._handler = handler
        self._addresses = tuple(endpoint.addresses())
        self._connections: dict[int, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._closed = False
        self._stats: ServerStats
        self._pump = Pump(endpoint, self)
        self._endpoint = endpoint
        self._waiting = Line(self._pump.loop)

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens."""
        return self._addresses

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that stand now."""
        return [connection for connection in self._connections.values() if connection._core.is_connected()]

    def stats(self) -> ServerStats:
        """What the server has done so far."""
        self._pump.check()
        if not self._closed:
            self._stats = server_stats(self._endpoint, len(self.connections))
        return self._stats

    async def serve_forever(self) -> None:
        """Wait until the server is closed."""
        self._pump.check()
        while not self._closed:
            await self._waiting.wait()

    async def close(self, *, drain: float = 0.0) -> None:
        """Take no newcomers, wait for those there are, then close the rest. May be called twice.

        Peers that were closed here are given a moment to take note: as long as some send on, they are told again (RFC
        9000 §10.2), for one second at most. Cancelled, it closes without waiting.

        Args:
            drain: seconds to wait for handlers to return.
        """
        self._pump.check()
        self._closing = True
        self._endpoint.refuse_newcomers()
        try:
            if self._tasks and drain > 0:
                await asyncio.wait(set(self._tasks), timeout=drain)
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(set(self._tasks))
            self._close_connections()
            await self._part()
        finally:
            self._close_now()

    def _incoming(self, number: int) -> None:
        """A new connection knocks; called by the pump."""
        core = self._endpoint.connection(number)
        connection = Connection(
            self._pump,
            core,
            is_client=False,
            peer=address_text(core.remote_address()),
            interface=None,
            released=functools.partial(_release, weakref.ref(self), self._pump, number),
        )
        self._connections[number] = connection
        if self._closing:
            # It was let in a moment before, and its news waited.
            connection._close_now(0, CLOSING)
            return
        task = self._pump.loop.create_task(self._attend(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attend(self, connection: Connection) -> None:
        """One connection, from its first packet to its end."""
        try:
            lost = await connection._handshake(early=True)
            if lost is not None:
                handshakes.debug("%s: the handshake failed: %s", connection.peer, lost)
                return
            await self._handler(connection)
        except Exception as error:
            # The peer went away while the handler was at it: the peer's business, unless the error is of another one.
            if connection._lost is not None and is_loss(error):
                logger.debug("%s", error)
            else:
                logger.exception("the handler of %s failed", connection.peer)
                connection._close_now(1, "")
        else:
            await connection.close()
        finally:
            connection._close_now(0, "")

    def _close_connections(self) -> None:
        for connection in list(self._connections.values()):
            connection._close_now(0, CLOSING)

    async def _part(self) -> None:
        """Answer late packets, until all have taken note or three probe timeouts are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARTING):
                while not self._closed and self._endpoint.unanswered():
                    await self._pump.turned.wait()

    def _close_now(self) -> None:
        if self._closed:
            return
        self.stats()
        self._closed = True
        self._close_connections()
        self._pump.stop()
        self._waiting.wake_all()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._pump.is_forked:
            return
        warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
        self._pump.stop_from_anywhere()

    def __repr__(self) -> str:
        where = ", ".join(address_text(address) for address in self._addresses)
        return f"<Server on {where}{', closed' if self._closed else ''}>"


def is_loss(error: Exception) -> bool:
    """Whether nothing went wrong but that connections were lost; task groups wrap what their tasks raise."""
    if isinstance(error, ExceptionGroup):
        return error.split(ConnectionLost)[1] is None
    return isinstance(error, ConnectionLost)


class _Serve:
    """A server that was described and does not listen yet: enter it, or await it."""

    def __init__(
        self,
        handler: Callable[[Connection], Awaitable[None]],
        host: str | Sequence[str] | None,
        port: int,
        *,
        cert: tuple[StrPath, StrPath],
        alpn: str | Sequence[str],
        client_ca: StrPath | None,
        sockets: str,
        retry: str,
        early_data: bool,
        idle_timeout: float,
        limits: Limits,
        qlog: StrPath | None,
    ) -> None:
        if not 0 <= port < 65536:
            raise ValueError(f"port must be 0 to 65535, not {port}")
        if sockets not in ("wildcard", "connected"):
            raise ValueError(f"sockets must be 'wildcard' or 'connected', not {sockets!r}")
        if retry not in ("auto", "always", "never"):
            raise ValueError(f"retry must be 'auto', 'always' or 'never', not {retry!r}")
        self._handler = handler
        self._hosts = ["0.0.0.0", "::"] if host is None else [host] if isinstance(host, str) else list(host)
        if not self._hosts:
            raise ValueError("host must name at least one address")
        self._port = port
        self._server: Server | None = None
        worker = seat.get()
        handed = None if worker is None else worker.descriptors(self._hosts, port)
        self._listen_on = functools.partial(
            here.get().server_endpoint if handed is None else functools.partial(_core.Endpoint.server, adopted=handed),
            connected=sockets == "connected",
            retry=retry,
            max_connections=limits.max_connections,
        )
        chain, key = identity(cert, "certificate")
        self._config = _core.ServerConfig(
            alpn=alpn_bytes(alpn),
            certificate=chain,
            key=key,
            client_roots=None if client_ca is None else authorities(client_ca, "client CA file"),
            early_data=early_data,
            transport=transport_config(idle_timeout, None, limits, qlog_folder(qlog)),
            worker=None if worker is None or handed is None else worker.core(),
        )

    def __await__(self) -> Generator[object, None, Server]:
        return self._listen().__await__()

    async def __aenter__(self) -> Server:
        self._server = await self._listen()
        return self._server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None, "left without being entered"
        await self._server.close()

    async def _listen(self) -> Server:
        return Server(self._handler, self._bind(await resolve_all(self._hosts, self._port)))

    def _bind(self, addresses: list[Address]) -> _core.Endpoint:
        try:
            if self._port == 0 and len(addresses) > 1:
                return self._bind_one_free_port(addresses)
            return self._listen_on(self._config, addresses)
        except OSError as error:
            where = ", ".join(address_text(address) for address in addresses)
            told = type(error)(f"cannot listen on {where}: {error.strerror or error}")
            told.errno = error.errno
            raise told from None

    def _bind_one_free_port(self, addresses: list[Address]) -> _core.Endpoint:
        """The kernel picks a port for the first address; it may be taken on another: then the next one."""
        for _ in range(20):
            first = self._listen_on(self._config, addresses[:1])
            port = first.addresses()[0][1]
            first.close()
            try:
                return self._listen_on(self._config, [(host, port) for host, _ in addresses])
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, "no port is free on all of them")


def _release(server: weakref.ref[Server], pump: Pump, number: int) -> None:
    """A connection of a server has ended. Must not refer to it: see `Connection`."""
    pump.remove(number)
    owner = server()
    if owner is not None:
        owner._connections.pop(number, None)
