"""HTTP/1.1 and HTTP/2 over TCP, beside HTTP/3: for clients that know no other, and to tell the rest (RFC 7838).

Hypercorn does it, by the part of it that serves one connection: sockets, lifespan and the end are in our hands, since
one loop and one life of the application are shared by all. The only file that knows of it; what it imports is less
public than ``hypercorn.asyncio.serve``, which is why its version is pinned to a minor release.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config

from whimbrel._errors import address_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from whimbrel._path import Address
    from whimbrel.http.asgi._types import Application

MAX_AGE = 86400
"""Seconds that clients may remember that there is HTTP/3: what RFC 7838 §3.1 has them do by default."""

GOODBYE = 1.0
"""Seconds that a client may take to close its half: those that keep idle connections do not look."""

_HEAD_START = 0.1
"""Seconds that connections which were told to end are given beyond the patience of whoever closes."""

_log = logging.getLogger("whimbrel")


class TcpServer:
    """A listening server for those who do not speak HTTP/3.

    Args:
        app: what answers.
        state: what its lifespan left for requests.
        cert: certificate chain and key, PEM files.
        client_ca: require client certificates, and verify them with this file.
        alt_port: the UDP port where HTTP/3 is served.
    """

    def __init__(
        self,
        app: Application,
        state: Mapping[str, Any],
        *,
        cert: tuple[str | os.PathLike[str], str | os.PathLike[str]],
        client_ca: str | os.PathLike[str] | None,
        alt_port: int,
    ) -> None:
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]  # It has a type for each message.
        self._state: Any = state
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.certfile, self._config.keyfile = os.fspath(cert[0]), os.fspath(cert[1])
        if client_ca is not None:
            self._config.ca_certs, self._config.verify_mode = os.fspath(client_ca), ssl.CERT_REQUIRED
        self._config.alt_svc_headers = [f'h3=":{alt_port}"; ma={MAX_AGE}']
        self._config.include_server_header = False
        self._config.errorlog = _log
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, addresses: Iterable[Address]) -> None:
        """Take connections.

        Raises:
            OSError: an address is in use.
        """
        context = self._config.create_ssl_context()
        for address in addresses:
            try:
                self._servers.append(
                    await asyncio.start_server(self._accepted, *address, ssl=context, ssl_shutdown_timeout=GOODBYE)
                )
            except OSError as error:
                await self.close(0.0)
                told = type(error)(f"cannot listen on TCP {address_text(address)}: {os.strerror(error.errno or 0)}")
                told.errno = error.errno
                raise told from None

    async def close(self, drain: float) -> None:
        """Take no more connections, let requests that run be answered, then close.

        Args:
            drain: seconds to wait for answers; what is not answered then is given up.
        """
        for server in self._servers:
            server.close()
        try:
            await self._context.terminated.set()
            if self._tasks:
                await asyncio.wait(set(self._tasks), timeout=drain + _HEAD_START)
        finally:
            while self._tasks:
                self.stop()
                await asyncio.wait(set(self._tasks))

    def stop(self) -> None:
        """Close without waiting."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        server = TCPServer(self._app, loop, self._config, self._context, self._state, reader, writer)
        task = asyncio.create_task(_attend(server), name="whimbrel-tcp")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _attend(server: TCPServer) -> None:
    try:
        with suppress(asyncio.CancelledError):
            await server
    except Exception as error:  # noqa: BLE001 - a peer can end a connection in any way
        _log.debug("a connection over TCP failed: %r", error)
