"""The client's end: tunnels through one server, all over one connection, which is made when the first is asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, Unpack

from whimbrel import http
from whimbrel._config import Migration
from whimbrel._errors import ConnectionLost, StreamReset
from whimbrel.tunnel._refusal import Reason, Refused, refused

if TYPE_CHECKING:
    from types import TracebackType

    from whimbrel.http import Client, ConnectOptions, Tunnel
    from whimbrel.tunnel._target import Target

PATIENCE = 3600.0
"""Seconds that a connection outlives the network: a laptop that was shut for lunch finds its shells again."""
KEEPALIVE = 25.0
"""Seconds of silence before a PING: a quiet shell must outlive the idle timeout, and what NATs remember of UDP, which
is 30 seconds in many homes (RFC 4787 REQ-5 asks for two minutes)."""


class Tunnels:
    """Tunnels through one server.

    Args:
        host: of the server.
        port: its UDP port.
        token: who we are, where a certificate (``cert=``) is not enough.
        patience: seconds to hold on without a network. The server must hold on for as long.
        options: those of `whimbrel.connect`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        token: str | None = None,
        patience: float = PATIENCE,
        **options: Unpack[ConnectOptions],
    ) -> None:
        self._host, self._port = host, port
        self._headers = {} if token is None else {"proxy-authorization": f"Bearer {token}"}
        defaults: ConnectOptions = {
            "idle_timeout": patience,
            "keepalive": min(KEEPALIVE, patience / 3),
            "migration": Migration(outage=patience),
        }
        self._options: ConnectOptions = {**defaults, **options}
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
        await client.connection.wait_closed()
        self._leave(client)

    async def _close_lost(self) -> None:
        # Not at once: closing would cancel its tunnels, whose readers are to hear why the connection ended.
        for client in [client for client, watching in self._clients.items() if watching.done()]:
            del self._clients[client]
            await client.close(linger=0.0)
