"""HTTP/3 servers: one task for each request, on as many connections as there are clients (RFC 9114).

What a handler sees is in `_request`. Here is who calls it, and how a connection ends: by GOAWAY, so that clients know
which of their requests were never looked at and may be sent again elsewhere (§5.2).
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, Unpack, overload

import whimbrel
from whimbrel._config import Limits
from whimbrel._errors import ConnectionLost, StreamReset, StreamStopped, WhimbrelError
from whimbrel.http._protocol import ErrorCode, Extensions
from whimbrel.http._request import Request
from whimbrel.http._session import Session
from whimbrel.http._tunnel import TunnelClosed
from whimbrel.http._webtransport import MAX_SESSIONS, PROTOCOL, WebTransportClosed

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Generator, Mapping, Sequence
    from types import TracebackType

    from whimbrel._connection import Connection
    from whimbrel._path import Address
    from whimbrel._server_stats import ServerStats
    from whimbrel._stream import Stream
    from whimbrel._workers import ServeWorkers

Handler: TypeAlias = Callable[[Request], Awaitable[None]]
"""What answers requests: called with each, in a task of its own."""

_log = logging.getLogger("whimbrel")

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Those that may be done twice without harm, and so at once (RFC 9110 §9.2.1)."""

LINGER = 3.0
"""Seconds that the last answers may take to be acknowledged, where no more are left."""

_NO_STREAM = (1 << 62) - 4
"""The last id that a request's stream could have: nothing is refused yet (RFC 9114 §5.2)."""


class ServeOptions(TypedDict, total=False):
    """Options of `whimbrel.serve` that `serve` passes on."""

    client_ca: str | os.PathLike[str] | None
    sockets: Literal["wildcard", "connected"]
    retry: Literal["auto", "always", "never"]
    early_data: bool
    idle_timeout: float
    limits: Limits
    qlog: str | os.PathLike[str] | None


@overload
def serve(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]],
    connect: Handler | None = None,
    protocols: Mapping[str, Handler] | None = None,
    workers: None = None,
    **options: Unpack[ServeOptions],
) -> _Serve: ...


@overload
def serve(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]],
    connect: Handler | None = None,
    protocols: Mapping[str, Handler] | None = None,
    workers: int,
    **options: Unpack[ServeOptions],
) -> ServeWorkers: ...


def serve(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]],
    connect: Handler | None = None,
    protocols: Mapping[str, Handler] | None = None,
    workers: int | None = None,
    **options: Unpack[ServeOptions],
) -> _Serve | ServeWorkers:
    """Answer requests: ``async with serve(...) as server``.

    Args:
        handler: called with each request, in a task of its own, which is cancelled when the client gives the request
            up. An exception is logged, and answered by status 500; where an answer had begun, its stream is reset.
        host: addresses or names to listen on; None: all, IPv4 and IPv6.
        port: UDP port; 0: a free one, the same for all addresses.
        cert: certificate chain and key, PEM files.
        connect: called instead where the client asks for a tunnel to a host and port (CONNECT, RFC 9114 §4.4): see
            `Request.accept`. None: such requests get status 501.
        protocols: what is called where the client asks for a tunnel to this server, by the name of the protocol to be
            spoken in it, such as ``"websocket"`` (extended CONNECT, RFC 9220). Others get status 501.
        workers: serve by so many processes on the one port: see `whimbrel.serve`. All handlers run there.
        options: those of `whimbrel.serve`. Of `Limits`, ``max_streams`` bounds the requests that one client may have
            at once. With ``early_data``, handlers of safe methods are called at once, others when the handshake is
            complete: see `Request.early`.

    Raises:
        OSError: the port is in use, or a file cannot be read.
        ValueError: an argument or a file's content makes no sense; the message says which.
    """
    described = _Serve(_Handlers(handler, connect, dict(protocols or {})), host, port, cert, options)
    if workers is None:
        return described
    from whimbrel._workers import ServeWorkers, share_of

    sockets = options.pop("sockets", "wildcard")
    options["limits"] = share_of(options.get("limits") or Limits(), workers)
    program = functools.partial(serve, handler, cert=cert, connect=connect, protocols=protocols, **options)
    return ServeWorkers(program, described._quic._hosts, port, workers, sockets)


@dataclass(frozen=True, slots=True)
class _Handlers:
    """Who answers what."""

    requests: Handler
    connect: Handler | None
    protocols: Mapping[str, Handler]

    def __call__(self, request: Request) -> Awaitable[None]:
        if request.method != "CONNECT":
            return self.requests(request)
        handler = self.connect if request.protocol is None else self.protocols.get(request.protocol)
        return (handler or _not_served)(request)


async def _not_served(request: Request) -> None:
    what = "CONNECT" if request.protocol is None else f"CONNECT for {request.protocol}"
    await request.respond(501, {"content-type": "text/plain"}, f"{what} is not served here.\n".encode())


class Server:
    """A listening HTTP/3 server. Leaving ``async with serve(...)`` closes it."""

    def __init__(self, handlers: _Handlers, max_requests: int) -> None:
        """Made by `serve` only."""
        self._handlers = handlers
        self._max_requests = max_requests
        self._sessions: set[ServerSession] = set()
        self._quic: whimbrel.Server

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens."""
        return self._quic.addresses

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that stand now."""
        return self._quic.connections

    def stats(self) -> ServerStats:
        """What the server has done so far, packets and connections."""
        return self._quic.stats()

    async def serve_forever(self) -> None:
        """Wait until the server is closed."""
        await self._quic.serve_forever()

    async def close(self, *, drain: float = 0.0) -> None:
        """Take no more requests, let those that run be answered, then close. May be called twice.

        Args:
            drain: seconds to wait for answers; what is not answered then is given up.
        """
        leaving = [asyncio.create_task(session.leave(drain)) for session in self._sessions]
        try:
            await self._quic.close(drain=drain if self._sessions else 0.0)
        finally:
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)

    async def _attend(self, connection: Connection) -> None:
        session = ServerSession(connection, self._handlers, self._max_requests)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)


class ServerSession(Session):
    """The server's end of one connection."""

    _other_end = "the client"

    def __init__(self, connection: Connection, handlers: _Handlers, max_requests: int) -> None:
        super().__init__(connection, connection.peer)
        self._handlers = handlers
        # Streams that were cancelled are no more counted by QUIC, while their handlers may still clean up.
        self._free = asyncio.Semaphore(max_requests)
        self._requests: dict[asyncio.Task[None], Request] = {}
        self._next = 0  # The first stream that was not looked at.
        self._last: int | None = None  # What GOAWAY said; from there on, requests are refused.

    async def run(self) -> None:
        """Answer requests until the connection ends."""
        try:
            served = self._handlers.protocols
            extensions = Extensions(
                extended_connect=bool(served),
                datagrams=bool(served),
                webtransport_sessions=MAX_SESSIONS if PROTOCOL in served else 0,
            )
            await self._start(is_client=False, extensions=extensions)
            await self._accept()
        except ConnectionLost as lost:
            _log.debug("%s", lost)
        finally:
            # First: so a client hears of the server's end, and not of its request's where a reset has room to leave.
            self._closed = True
            await self.connection.close(ErrorCode.H3_NO_ERROR, linger=0.0)
            for task in self._requests:
                task.cancel()
            if self._requests:
                await asyncio.wait(set(self._requests))
            await self._stop()

    async def leave(self, patience: float) -> None:
        """Take no more requests, wait for those that run, and close the connection.

        Args:
            patience: seconds to wait, at most.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        with suppress(WhimbrelError, TimeoutError):
            async with asyncio.timeout(patience):
                # First without a number: requests that are on their way now are still answered (RFC 9114 §5.2).
                await self._go_away(_NO_STREAM)
                await asyncio.sleep(min(2 * self.connection.path.rtt, patience / 2))
                await self._go_away(self._next)
                while self._requests:
                    await asyncio.wait(set(self._requests))
        # What was answered may still be on its way: megabytes, and a slow network.
        left = patience - (loop.time() - began)
        await self.connection.close(ErrorCode.H3_NO_ERROR, linger=min(patience, max(LINGER, left)))

    async def _go_away(self, stream: int) -> None:
        if stream != _NO_STREAM:
            self._last = stream
        self.http3.go_away(stream)
        self.control_ready()

    async def _accepted(self, stream: Stream) -> None:
        self._next = max(self._next, stream.id + 4)
        if self._last is not None and stream.id >= self._last:
            # RFC 9114 §4.1.1: nothing was done, so the client may try elsewhere.
            stream.stop(ErrorCode.H3_REQUEST_REJECTED)
            stream.reset(ErrorCode.H3_REQUEST_REJECTED)
            return
        await self._free.acquire()
        request = Request(self, stream)
        task = asyncio.create_task(self._attend(request, stream), name=f"whimbrel-request-{stream.id}")
        self._requests[task] = request
        task.add_done_callback(self._done)
        stream.on_stopped(task.cancel)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._requests[task]
        self._free.release()

    def _unwanted_datagram(self, stream: int) -> None:
        for request in self._requests.values():
            # RFC 9297 §2: of what is known to have no datagrams; others may be about to be accepted, or are over.
            if request.id == stream and request.method and request.protocol is None:
                request.abort(ErrorCode.H3_DATAGRAM_ERROR)

    def _going_away(self, first: int) -> None:
        _log.debug("%s takes no more pushes, of which there are none", self._peer)

    async def _attend(self, request: Request, stream: Stream) -> None:
        """One request, from its first byte to its end."""
        try:
            introduced = await request.receive_head()
        except WhimbrelError as error:
            _log.debug("%s: %s", self._peer, error)
            request.abort(ErrorCode.H3_REQUEST_INCOMPLETE)
            return
        except BaseException:
            request.abort(ErrorCode.H3_REQUEST_CANCELLED)
            raise
        if introduced is not None:
            stream.on_stopped(None)
            self.introduced(stream, introduced)
            return
        try:
            await self._answer(request)
        except BaseException:
            request.abort(ErrorCode.H3_REQUEST_CANCELLED)
            raise
        request.end_reading()

    async def _answer(self, request: Request) -> None:
        try:
            if request.early and request.method not in SAFE_METHODS:
                # Somebody may have recorded it and sent it again: the client must prove to be there (RFC 8470 §3).
                await self.connection.wait_handshake()
            if self._has_too_many(request):
                request.abort(ErrorCode.H3_REQUEST_REJECTED)
                return
            await self._handlers(request)
            if request.status is None:
                raise RuntimeError("the handler returned without an answer")
            await request.leave()
        except Exception as error:  # noqa: BLE001 - a handler may fail in any way
            if _is_departure(error):
                _log.debug("%s %s of %s: %s", request.method, request.target, self._peer, error)
                request.abort(ErrorCode.H3_REQUEST_CANCELLED)
                return
            # What a handler says after the answer was given up, by itself or by a client's mistake, is no news.
            if not request.is_aborted:
                _log.exception("the handler of %s %s failed", request.method, request.target)
                await self._fail(request)

    def _has_too_many(self, request: Request) -> bool:
        # Of WebTransport's sessions a client may have no more than it was told (§5.2).
        sessions = sum(other.protocol == PROTOCOL for other in self._requests.values())
        return request.protocol == PROTOCOL and sessions > MAX_SESSIONS

    async def _fail(self, request: Request) -> None:
        if request.status is not None:
            request.abort(ErrorCode.H3_INTERNAL_ERROR)
            return
        with suppress(WhimbrelError):
            await request.respond(500, {"content-type": "text/plain"}, b"The server failed.\n")


def _is_departure(error: BaseException) -> bool:
    """Whether the client went away while the handler was at it: its own business."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_departure, error.exceptions))
    return isinstance(error, StreamReset | StreamStopped | TunnelClosed | WebTransportClosed | ConnectionLost)


class _Serve:
    """A server that was described and does not listen yet: enter it, or await it."""

    def __init__(
        self,
        handlers: _Handlers,
        host: str | Sequence[str] | None,
        port: int,
        cert: tuple[str | os.PathLike[str], str | os.PathLike[str]],
        options: ServeOptions,
    ) -> None:
        limits = options.get("limits") or Limits()
        self._server = Server(handlers, limits.max_streams)
        self._quic = whimbrel.serve(self._server._attend, host, port, cert=cert, alpn="h3", **options)

    def __await__(self) -> Generator[object, None, Server]:
        return self._listen().__await__()

    async def __aenter__(self) -> Server:
        return await self._listen()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.close()

    async def _listen(self) -> Server:
        self._server._quic = await self._quic
        return self._server
