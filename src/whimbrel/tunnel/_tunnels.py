"""The client's end: tunnels through one server, all over one connection, which is made when the first is asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, Unpack

from whimbrel import http
from whimbrel._config import Migration
from whimbrel._errors import ConnectionLost, MigrationError, StreamReset
from whimbrel.tunnel._refusal import Reason, Refused, refused

if TYPE_CHECKING:
    from types import TracebackType

    from whimbrel._connection import Connection
    from whimbrel.http import Client, ConnectOptions, Tunnel
    from whimbrel.tunnel._target import Target

PATIENCE = 3600.0
"""Seconds that a connection outlives the network: a laptop that was shut for lunch finds its shells again."""
DOUBT = 10.0
"""Seconds between questions to a server that is silent on the connection, and answers beside it."""
DOUBTS = 6
"""So many answers beside a connection on which nothing comes, and the server has forgotten it: a minute, in which any
move would have come about. A shell that is ended by mistake is worse than one that hangs."""
KEEPALIVE = 25.0
"""Seconds of silence before a PING: a quiet shell must outlive the idle timeout, and what NATs remember of UDP, which
is 30 seconds in many homes (RFC 4787 REQ-5 asks for two minutes)."""


FORGOTTEN = "the server no longer knows it, and was probably started anew"


class Tunnels:
    """Tunnels through one server.

    Args:
        host: of the server.
        port: its UDP port.
        token: who we are, where a certificate (``cert=``) is not enough.
        patience: seconds to hold on without a network. The server must hold on for as long.
        doubt: seconds between questions to a server that is silent: one that was started anew says nothing to a
            connection that it does not know, and answers all the same.
        options: those of `whimbrel.connect`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        token: str | None = None,
        patience: float = PATIENCE,
        doubt: float = DOUBT,
        **options: Unpack[ConnectOptions],
    ) -> None:
        self._host, self._port, self._doubt = host, port, doubt
        self._headers = {} if token is None else {"proxy-authorization": f"Bearer {token}"}
        defaults: ConnectOptions = {
            "idle_timeout": patience,
            "keepalive": min(KEEPALIVE, patience / 3),
            "migration": Migration(outage=patience),
        }
        self._options: ConnectOptions = {**defaults, **options}
        # The next PING and its answer are due by then.
        self._quiet = 1.5 * (self._options["keepalive"] or KEEPALIVE)
        self._client: Client | None = None
        self._clients: dict[Client, asyncio.Task[None]] = {}
        self._connecting = asyncio.Lock()

    @property
    def server(self) -> str:
        """The server, for messages."""
        return f"{self._host}:{self._port}"

    async def open(self, target: Target) -> Tunnel:
        """Open a tunnel.

        Raises:
            Refused: the server does not let us, or does not get there.
            ConnectFailed: there is no connection to the server.
            ConnectionLost: it ended meanwhile.
        """
        while True:
            used_before = self._client is not None
            client = await self._connected()
            try:
                return await client.tunnel(target.authority, headers=self._headers)
            except http.TunnelRefused as error:
                raise refused(error.status, error.headers, target, self.server) from None
            except StreamReset as error:
                raise Refused(Reason.FAILED, f"the server gave the tunnel to {target} up", peer=self.server) from error
            except (ConnectionLost, http.RequestRejected):
                # The server was started anew, or is about to end: another connection may do. Nothing was sent yet.
                self._leave(client)
                if not used_before:
                    raise

    async def close(self) -> None:
        """Close the connection, and with it all tunnels."""
        self._client = None
        await asyncio.gather(*(client.close(linger=1.0) for client in self._clients))
        await asyncio.gather(*self._clients.values())

    async def connect(self) -> None:
        """Have the connection made now, to know that it can be.

        Raises:
            ConnectFailed: it cannot.
        """
        await self._connected()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None:
                await self._close_lost()
                client = await http.connect(self._host, self._port, **self._options)
                self._client = client
                self._clients[client] = asyncio.create_task(self._leave_when_lost(client))
            return self._client

    def _leave(self, client: Client) -> None:
        # Its tunnels go on where they can: a server that takes no more of them lets those end that it has.
        if self._client is client:
            self._client = None

    async def _leave_when_lost(self, client: Client) -> None:
        doubting = asyncio.create_task(self._doubt_silence(client.connection))
        try:
            await client.connection.wait_closed()
        finally:
            doubting.cancel()
            await asyncio.gather(doubting, return_exceptions=True)
            self._leave(client)

    async def _doubt_silence(self, connection: Connection) -> None:
        """Close the connection when the server is there and no longer knows it.

        Nothing else would, before all patience is over: PINGs go unanswered as they do in an outage.
        """
        loop = asyncio.get_running_loop()
        heard, since, doubts = -1, loop.time(), 0
        while doubts < DOUBTS:
            await asyncio.sleep(self._doubt)
            if (now := connection.stats().bytes_received) != heard:
                heard, since, doubts = now, loop.time(), 0
            elif loop.time() - since > self._quiet:
                try:
                    await connection.probe()
                except MigrationError:
                    doubts = 0  # No network, or no server; or nobody may ask, and nothing is known.
                else:
                    doubts += 1
        await connection.close(http.ErrorCode.H3_NO_ERROR, FORGOTTEN, linger=0.0)

    async def _close_lost(self) -> None:
        # Not at once: closing would cancel its tunnels, whose readers are to hear why the connection ended.
        for client in [client for client, watching in self._clients.items() if watching.done()]:
            del self._clients[client]
            await client.close(linger=0.0)
