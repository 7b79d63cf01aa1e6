"""ASGI applications over HTTP/3, with HTTP/2 and HTTP/1.1 beside it on the same port."""

from __future__ import annotations

import asyncio
import errno
from importlib.util import find_spec
from typing import TYPE_CHECKING, Unpack

from whimbrel.http import _server as http3
from whimbrel.http.asgi._application import Caller
from whimbrel.http.asgi._lifespan import Lifespan

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Generator, Sequence
    from types import TracebackType

    from whimbrel._connection import Connection
    from whimbrel._path import Address
    from whimbrel._server_stats import ServerStats
    from whimbrel.http.asgi._tcp import TcpServer
    from whimbrel.http.asgi._types import Application

_TRIES = 20
"""Free UDP ports that are tried until one is free for TCP as well."""


def serve(
    app: Application,
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]],
    tcp: bool = True,
    **options: Unpack[http3.ServeOptions],
) -> _Serve:
    """Run an ASGI 3 application: ``async with serve(...) as server``.

    The application's lifespan begins before the server listens, and ends after the last answer. ``scope["extensions"]``
    has ``"whimbrel"``, a `ConnectionView`, where the request came over HTTP/3.

    Args:
        app: the application.
        host: addresses or names to listen on; None: all, IPv4 and IPv6.
        port: UDP port, and TCP port; 0: one that is free for both.
        cert: certificate chain and key, PEM files.
        tcp: whether to serve HTTP/2 and HTTP/1.1 as well, and to announce HTTP/3 there (Alt-Svc, RFC 7838); needs
            ``whimbrel[asgi]``.
        options: those of `whimbrel.serve`.

    Raises:
        LifespanFailed: the application says that it cannot start.
        ModuleNotFoundError: ``whimbrel[asgi]`` is not installed.
        OSError: the port is in use, or a file cannot be read.
        ValueError: an argument or a file's content makes no sense; the message says which.
    """
    return _Serve(app, host, port, cert, options, tcp=tcp)


class Server:
    """A running application. Leaving ``async with serve(...)`` closes it."""

    def __init__(self, lifespan: Lifespan, caller: Caller, quic: http3.Server, tcp: TcpServer | None) -> None:
        """Made by `serve` only."""
        self.http3 = quic
        self._lifespan = lifespan
        self._caller = caller
        self._tcp = tcp

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens; the same for UDP and TCP."""
        return self.http3.addresses

    @property
    def connections(self) -> Collection[Connection]:
        """The HTTP/3 connections that stand now."""
        return self.http3.connections

    def stats(self) -> ServerStats:
        """What the server has done so far over QUIC, packets and connections."""
        return self.http3.stats()

    async def serve_forever(self) -> None:
        """Wait until the server is closed."""
        await self.http3.serve_forever()

    async def close(self, *, drain: float = 0.0) -> None:
        """Take no more requests, let those that run be answered, have the application clean up. May be called twice.

        Args:
            drain: seconds to wait for answers; then applications are cancelled.

        Raises:
            LifespanFailed: the application says that it could not clean up.
        """
        closing_tcp = None if self._tcp is None else asyncio.create_task(self._tcp.close(drain))
        try:
            try:
                await self._caller.part()
            finally:
                # Cancelled before or not, it begins at once: then it closes without waiting.
                await self.http3.close(drain=drain)
            if closing_tcp is not None:
                await closing_tcp
            await self._caller.close()
        except BaseException:
            # Whoever closes will not wait: neither will this.
            if self._tcp is not None and closing_tcp is not None:
                closing_tcp.cancel()
                self._tcp.stop()
            self._caller.cancel()
            await self._lifespan.abandon()
            raise
        await self._lifespan.stop()


class _Serve:
    """A server that was described and does not listen yet: enter it, or await it."""

    def __init__(
        self,
        app: Application,
        host: str | Sequence[str] | None,
        port: int,
        cert: tuple[str | os.PathLike[str], str | os.PathLike[str]],
        options: http3.ServeOptions,
        *,
        tcp: bool,
    ) -> None:
        self._app, self._host, self._port, self._cert, self._options = app, host, port, cert, options
        self._with_tcp = tcp
        self._server: Server | None = None
        self._describe(Caller(app, {}), port)  # Wrong arguments are told now.

    def __await__(self) -> Generator[object, None, Server]:
        return self._start().__await__()

    async def __aenter__(self) -> Server:
        self._server = await self._start()
        return self._server

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None, "entered before it is left"
        await self._server.close()

    async def _start(self) -> Server:
        lifespan = Lifespan(self._app)
        await lifespan.start()
        try:
            return await self._listen(lifespan)
        except BaseException:
            await lifespan.stop()
            raise

    async def _listen(self, lifespan: Lifespan) -> Server:
        caller = Caller(self._app, lifespan.state)
        for tried in range(_TRIES):
            quic = await self._describe(caller, self._port)
            try:
                return Server(lifespan, caller, quic, await self._listen_tcp(lifespan, quic))
            except BaseException as error:
                await quic.close()
                taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
                if not taken or self._port != 0 or tried == _TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _listen_tcp(self, lifespan: Lifespan, quic: http3.Server) -> TcpServer | None:
        if not self._with_tcp:
            return None
        from whimbrel.http.asgi._tcp import TcpServer

        client_ca = self._options.get("client_ca")
        port = quic.addresses[0][1]
        server = TcpServer(self._app, lifespan.state, cert=self._cert, client_ca=client_ca, alt_port=port)
        await server.listen(quic.addresses)
        return server

    def _describe(self, caller: Caller, port: int) -> http3._Serve:
        # Without wsproto, clients are told that there are no WebSockets.
        protocols = {"websocket": caller.talk} if find_spec("wsproto") is not None else None
        return http3.serve(caller.answer, self._host, port, cert=self._cert, protocols=protocols, **self._options)
