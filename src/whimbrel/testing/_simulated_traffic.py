"""A server of the simulation's own, a connection to it, and what is transferred between them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from whimbrel import _core
from whimbrel._client import connect, transport_config
from whimbrel._errors import ConnectFailed, ConnectionLost, StreamError
from whimbrel._server import Server
from whimbrel._stream import Stream
from whimbrel.testing._simulated_certificate import NAME, certificate
from whimbrel.testing._simulated_transfer import Bearer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from whimbrel._config import Limits, Migration
    from whimbrel._connection import Connection
    from whimbrel._path import Address
    from whimbrel.testing._simulated_machine import SimulatedMachine
    from whimbrel.testing._simulated_transfer import Exchange

ALPN: Final = "simulation"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedServer:
    """What the simulation's own server is like."""

    migration: bool = True
    """With False it forbids clients to move (RFC 9000 §18.2)."""
    id_length: int = 8
    """Bytes of its connection IDs; with 0, clients cannot move either."""
    idle_timeout: float = 30.0
    answers_probes: bool = True
    """Whether it answers unknown versions by Version Negotiation."""
    retry: Literal["auto", "always", "never"] = "auto"
    """Whether newcomers have to prove their address (RFC 9000 §8.1.2)."""
    reset_key: bytes | None = None
    """What its stateless resets are made of (RFC 9000 §10.3.2): with one, a server that was restarted can send them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How both ends are set up."""

    migration: Migration
    server: SimulatedServer
    idle_timeout: float
    keepalive: float | None
    limits: Limits


class Traffic:
    """Both ends. Made when time first passes."""

    def __init__(
        self,
        settings: Settings,
        address: Address,
        machine: SimulatedMachine,
        bearer: Bearer,
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
        ended: Callable[[], None],
    ) -> None:
        """Listen, and dial.

        Args:
            settings: of both ends.
            address: of the server.
            machine: both.
            bearer: carries out what is asked for.
            spawn: runs a part of this in a task.
            ended: called when the connection has.
        """
        self._settings = settings
        self._address = address
        self._machine = machine
        self._bearer = bearer
        self._spawn = spawn
        self._ended = ended
        self._waiting: list[Exchange] = []
        self.served: list[Connection] = []
        """The server's ends of connections, those included that are over."""
        self.connection: Connection | None = None
        self.failure: ConnectFailed | None = None
        """Why there is no connection."""
        self.server = self._listen()
        spawn(self._dial())

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended, or never was."""
        return self.failure is not None or (self.connection is not None and self.connection._lost is not None)

    def begin(self, exchange: Exchange) -> None:
        """Carry out an exchange, at once or when there is a connection."""
        if self.connection is None:
            self._waiting.append(exchange)
        elif not self.is_over:
            self._spawn(self._ask(self.connection, exchange))

    def restart_server(self) -> None:
        """Another process is at the server's address from now on, which knows nothing of this one."""
        self._machine.crash(self.server._endpoint)
        self._close_server()
        self.server = self._listen()

    def close(self) -> None:
        """End both ends at once."""
        if self.connection is not None:
            self.connection._close_now(0, "")
        self._close_server()

    def _close_server(self) -> None:
        for task in self.server._tasks:
            task.cancel()
        self.server._close_now()

    async def _dial(self) -> None:
        settings = self._settings
        host, port = self._address
        try:
            self.connection = await connect(
                host,
                port,
                alpn=ALPN,
                verify=certificate().authority,
                server_hostname=NAME,
                timeout=None,
                idle_timeout=settings.idle_timeout,
                keepalive=settings.keepalive,
                migration=settings.migration,
                limits=settings.limits,
            )
        except ConnectFailed as error:
            self.failure = error
            self._ended()
            return
        for exchange in self._waiting:
            self._spawn(self._ask(self.connection, exchange))
        self._waiting.clear()
        await self.connection.wait_closed()
        self._ended()

    async def _ask(self, connection: Connection, exchange: Exchange) -> None:
        with contextlib.suppress(ConnectionLost, StreamError):  # Its transfer remains incomplete, then.
            await self._bearer.ask(connection, exchange)

    def _listen(self) -> Server:
        settings = self._settings.server
        files = certificate()
        config = _core.ServerConfig(
            alpn=[ALPN.encode()],
            certificate=files.chain.read_bytes(),
            key=files.key.read_bytes(),
            transport=transport_config(settings.idle_timeout, None, self._settings.limits),
            migration=settings.migration,
            id_length=settings.id_length,
            reset_key=settings.reset_key,
        )
        endpoint = self._machine.server_endpoint(
            config, [self._address], connected=False, retry=settings.retry, max_connections=None
        )
        return Server(self._serve, endpoint)

    async def _serve(self, connection: Connection) -> None:
        self.served.append(connection)
        async for stream in connection.streams():
            assert isinstance(stream, Stream)  # The client opens no other.
            self._spawn(self._answer(stream))

    async def _answer(self, stream: Stream) -> None:
        with contextlib.suppress(ConnectionLost, StreamError):
            await self._bearer.answer(stream)
