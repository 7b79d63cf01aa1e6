"""The client's end of an HTTP/3 connection, and the requests on it (RFC 9114 §3.3).

Each request is read and written by the task that made it (`_response`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Generator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Generic, Self, TypeAlias, TypedDict, TypeVar, Unpack

import whimbrel
from whimbrel._config import Limits, Migration
from whimbrel._errors import (
    LocalProtocolError,
    WhimbrelError,
)
from whimbrel.http._headers import Headers, HeadersLike, connect_headers, field_section, request_headers
from whimbrel.http._protocol import ConnectionFailed, ErrorCode, Event, Extensions, RawHeaders, StreamIntroduced
from whimbrel.http._response import READ_SIZE, RequestRejected, Response
from whimbrel.http._session import Session
from whimbrel.http._tunnel import Tunnel, TunnelRefused
from whimbrel.http._url import DEFAULT_PORT, Url, authority
from whimbrel.http._webtransport import MAX_SESSIONS, PROTOCOL, WebTransportSession

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from whimbrel._connection import Connection
    from whimbrel._sessions import SessionStore
    from whimbrel._stream import Stream

Body: TypeAlias = bytes | bytearray | memoryview | AsyncIterable[bytes] | BinaryIO
"""What a request may carry: bytes, an asynchronous source of them, or a file opened for reading in binary."""

OUR_EXTENSIONS = Extensions(datagrams=True, webtransport_sessions=MAX_SESSIONS)
"""What every client announces, since nobody knows yet what it will be used for."""

REFUSAL_SIZE = 4 << 10
"""Bytes of an answer that refuses a tunnel, at most."""
REFUSAL_PATIENCE = 2.0
"""Seconds that they may take."""

T = TypeVar("T", Tunnel, WebTransportSession)

_log = logging.getLogger("whimbrel")


class ConnectOptions(TypedDict, total=False):
    """Options of `whimbrel.connect` that `connect` passes on."""

    verify: bool | str | os.PathLike[str]
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None
    server_hostname: str | None
    timeout: float | None
    idle_timeout: float
    keepalive: float | None
    migration: Migration | None
    sessions: SessionStore | None
    early_data: bool
    limits: Limits
    qlog: str | os.PathLike[str] | None


def connect(url: str, port: int | None = None, **options: Unpack[ConnectOptions]) -> _Connect:
    """Connect to an HTTP/3 server: ``await connect(...)`` or ``async with connect(...) as client``.

    Args:
        url: an ``https`` URL, of which host and port count, or a host.
        port: for a host; by default 443.
        options: those of `whimbrel.connect`.

    Raises:
        InvalidUrl: it is neither.
        ConnectFailed: as `whimbrel.connect`.
    """
    if "://" in url:
        if port is not None:
            raise LocalProtocolError("give the port in the URL or beside a host, not both")
        return _Connect(*Url.parse(url).origin, options)
    return _Connect(url, DEFAULT_PORT if port is None else port, options)


class Client(Session):
    """Requests over one HTTP/3 connection, as many at once as the server allows.

    Made by `connect`, or over a `whimbrel.Connection` that speaks ``h3``: ``async with Client(connection, "host")``.

    Args:
        connection: the client then owns it and closes it.
        authority: host, and port where it is not 443, as in a URL.
    """

    _other_end = "the server"

    def __init__(self, connection: Connection, authority: str) -> None:
        super().__init__(connection, authority)
        self.authority = authority
        self._responses: dict[int, Response] = {}
        self._tunnels: dict[int, Tunnel] = {}
        self._goaway: int | None = None

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: HeadersLike = (),
        body: Body | None = None,
        trailers: HeadersLike | None = None,
        authority: str | None = None,
        opened: Callable[[], None] | None = None,
    ) -> Response:
        """Send a request and wait for the head of its response. Cancelling this cancels the request.

        Args:
            method: such as ``"GET"``.
            target: path and query, percent-encoded, beginning with ``/``.
            headers: further fields; ``content-length`` is added where the body is bytes.
            body: sent while the response is awaited and read.
            trailers: fields to send after the body.
            authority: what to ask for instead of the client's own `authority`, as ``Host`` is in HTTP/1.1.
            opened: called when the request has its stream. Before that it may wait for the server to allow one more,
                and nothing of it has been sent.

        Raises:
            LocalProtocolError: the request is not one that HTTP/3 can carry, or the client is closed.
            RequestRejected: the server takes no more requests on this connection, and did no work on this one.
            StreamReset: the server gave up on it.
            RemoteProtocolError: the server broke the protocol.
            ConnectionLost: the connection ended.
        """
        self._check_open()
        fields = Headers(headers)
        if isinstance(body, bytes | bytearray | memoryview) and "content-length" not in fields:
            fields = Headers([*fields.fields(), ("content-length", str(memoryview(body).nbytes))])
        section = request_headers(method, self.authority if authority is None else authority, target, fields)
        trailer_section = None if trailers is None else field_section(trailers) or None
        response = await self._begin(method, opened)
        try:
            await response._send(section, _pieces(body), trailer_section)
            await response._receive_headers()
        except BaseException:
            response._cancel(ErrorCode.H3_REQUEST_CANCELLED)
            raise
        return response

    def tunnel(
        self,
        authority: str | None = None,
        *,
        protocol: str | None = None,
        target: str = "/",
        headers: HeadersLike = (),
    ) -> _Opening[Tunnel]:
        """Open a tunnel: ``await client.tunnel(...)`` or ``async with client.tunnel(...) as tunnel`` (CONNECT).

        Without a protocol, the server is asked to connect to a host and port for us (RFC 9114 §4.4); with one, to speak
        that protocol itself (RFC 9220). Cancelling this gives the tunnel up.

        Args:
            authority: host and port to connect to, such as ``"example.org:22"``; with a protocol, the server's own
                name by default.
            protocol: what is to be spoken, such as ``"websocket"``.
            target: path and query, where there is a protocol.
            headers: further fields of the request.

        Raises:
            TunnelRefused: the server answered with another status than 2xx, or knows no extended CONNECT.
            LocalProtocolError, RequestRejected, StreamReset, RemoteProtocolError, ConnectionLost: as `request`.
        """
        if authority is None:
            if protocol is None:
                raise LocalProtocolError("a tunnel leads to a host and port, or speaks a protocol: give one of them")
            authority = self.authority
        section = connect_headers(authority, protocol, target, headers)
        return _Opening(partial(self._tunnel, protocol, section))

    def webtransport(
        self, target: str, *, headers: HeadersLike = (), authority: str | None = None
    ) -> _Opening[WebTransportSession]:
        """Open a WebTransport session: ``await client.webtransport(...)`` or ``async with … as session``.

        Args:
            target: path and query.
            headers: further fields of the request, such as ``origin``.
            authority: what to ask for instead of the client's own `authority`.

        Raises:
            TunnelRefused: the server answered with another status than 2xx, or knows no WebTransport.
            LocalProtocolError, RequestRejected, StreamReset, RemoteProtocolError, ConnectionLost: as `request`.
        """
        fields = [*Headers(headers).fields(), ("sec-webtransport-http3-draft02", "1")]
        section = connect_headers(self.authority if authority is None else authority, PROTOCOL, target, fields)
        return _Opening(partial(self._webtransport, section))

    async def close(self, *, linger: float = 3.0) -> None:
        """Close the connection; what is still going on is cancelled. May be called twice.

        Args:
            linger: seconds to wait for the server to have what was sent.
        """
        self._closed = True
        for response in list(self._responses.values()):
            await response.close()
        for session in list(self.webtransports.values()):
            session.abandon()
        for tunnel in list(self._tunnels.values()):
            tunnel.cancel()
        await self.connection.close(ErrorCode.H3_NO_ERROR, linger=linger)
        await self._stop()

    async def __aenter__(self) -> Self:
        try:
            await self._start(is_client=True, extensions=OUR_EXTENSIONS)
            self.spawn(self._accept)
        except BaseException:
            await self.close(linger=0.0)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(linger=3.0 if exc_type is None else 0.0)

    # For the responses ------------------------------------------------------------------------------------------------

    def stream_done(self, stream: int) -> None:
        """A response or a tunnel is over."""
        self._responses.pop(stream, None)
        self._tunnels.pop(stream, None)

    # Inside -----------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if failure := self.failure():
            raise failure
        if self._closed:
            raise LocalProtocolError("this client is closed", peer=self.authority)
        if self._goaway is not None:
            text = "the server takes no more requests on this connection"
            raise RequestRejected(ErrorCode.H3_REQUEST_REJECTED, text, peer=self.authority)

    async def _begin(self, method: str, opened: Callable[[], None] | None = None) -> Response:
        stream = await self.connection.open_stream()
        try:
            self._check_open()  # Once more: it may have taken long.
        except WhimbrelError:
            stream.reset(ErrorCode.H3_REQUEST_CANCELLED)
            stream.stop(ErrorCode.H3_REQUEST_CANCELLED)
            raise
        if opened is not None:
            opened()
        response = self._responses[stream.id] = Response(self, stream, method)
        return response

    async def _webtransport(self, section: RawHeaders) -> WebTransportSession:
        self._check_open()
        extensions = await self.peer_extensions()
        if extensions is not None and len(self.webtransports) >= extensions.webtransport_sessions:
            allowed = extensions.webtransport_sessions
            text = f"the server allows {allowed} sessions at once" if allowed else "the server knows no WebTransport"
            raise TunnelRefused(0, Headers(), b"", text, peer=self.authority)
        session: WebTransportSession | None = None

        def prepare(stream: int) -> None:
            # The first streams of the server's may overtake its answer.
            nonlocal session
            session = self.webtransports[stream] = WebTransportSession(self, stream)

        try:
            tunnel = await self._tunnel(PROTOCOL, section, prepare)
        except BaseException:
            if session is not None:
                session.abandon()
            raise
        assert session is not None, "its stream was opened"
        session.begin(tunnel)
        return session

    async def _tunnel(
        self, protocol: str | None, section: RawHeaders, prepare: Callable[[int], None] | None = None
    ) -> Tunnel:
        self._check_open()
        if protocol is not None:
            # RFC 8441 §3: not before the server has said that it knows such requests.
            extensions = await self.peer_extensions()
            if extensions is not None and not extensions.extended_connect:
                text = f"the server takes no extended CONNECT, so no {protocol}"
                raise TunnelRefused(0, Headers(), b"", text, peer=self.authority)
        response = await self._begin("CONNECT")
        # Before it is asked for: the first of them may overtake the answer.
        datagrams = None if protocol is None else self.datagrams.expect(response.id)
        if prepare is not None:
            prepare(response.id)
        try:
            await response._send_head(section)
            await response._receive_headers()
            if not 200 <= response.status <= 299:
                raise await self._refusal(response)
        except BaseException:
            self.datagrams.forget(response.id)
            response._cancel(ErrorCode.H3_REQUEST_CANCELLED)
            raise
        stream, received = response._hand_over()
        tunnel = self._tunnels[stream.id] = Tunnel(
            self,
            stream,
            response.status,
            response.headers,
            protocol,
            received=received,
            datagrams=datagrams,
            over=partial(self.stream_done, stream.id),
        )
        return tunnel

    async def _refusal(self, response: Response) -> TunnelRefused:
        body = bytearray()
        # Why it was refused is worth a little time, and no more.
        with suppress(TimeoutError, WhimbrelError):
            async with asyncio.timeout(REFUSAL_PATIENCE):
                async for chunk in response:
                    body += chunk[: REFUSAL_SIZE - len(body)]
                    if len(body) == REFUSAL_SIZE:
                        break
        said = body.decode("utf-8", "replace").strip().partition("\n")[0][:200]
        text = f"the server refused the tunnel with status {response.status}" + (f": {said}" if said else "")
        return TunnelRefused(response.status, response.headers, bytes(body), text, peer=self.authority)

    async def _accepted(self, stream: Stream) -> None:
        if self.webtransports:
            self.spawn(partial(self._read_introduction, stream))
        else:
            self._not_introduced()

    async def _read_introduction(self, stream: Stream) -> None:
        events: list[Event] = []
        while not events:
            data = await stream.read(READ_SIZE)
            events = self.http3.receive(stream.id, data, ended=not data)
            if not data:
                break
        match events:
            case [StreamIntroduced() as event]:
                self.introduced(stream, event)
            case [ConnectionFailed() as failed]:
                self.connection_failed(failed)
            case _:
                self._not_introduced()

    def _not_introduced(self) -> None:
        # RFC 9114 §6.1: only an extension that we asked for may have servers open these.
        reason = "the server opened a bidirectional stream"
        self.connection_failed(ConnectionFailed(ErrorCode.H3_STREAM_CREATION_ERROR, reason))

    def _unwanted_datagram(self, stream: int) -> None:
        # RFC 9297 §2. Of tunnels with a protocol they are wanted; what is over is not here any more.
        if (response := self._responses.get(stream)) is not None:
            response._cancel(ErrorCode.H3_DATAGRAM_ERROR)
        if (tunnel := self._tunnels.get(stream)) is not None:
            tunnel.cancel(ErrorCode.H3_DATAGRAM_ERROR)

    def _going_away(self, first: int) -> None:
        _log.debug("%s takes no more requests on this connection", self.authority)
        self._goaway = first
        for stream, response in list(self._responses.items()):
            if stream >= first:
                response._reject()


class _Opening(Generic[T]):
    """What `Client.tunnel` and `Client.webtransport` return: to be awaited, or entered by ``async with``."""

    def __init__(self, opened: Callable[[], Coroutine[object, None, T]]) -> None:
        self._open: Callable[[], Coroutine[object, None, T]] = opened
        self._opened: T | None = None

    def __await__(self) -> Generator[object, None, T]:
        return self._open().__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._opened is not None, "entered before it is left"
        await self._opened.__aexit__(exc_type, exc, traceback)


class _Connect:
    """What `connect` returns: to be awaited, or entered by ``async with``."""

    def __init__(self, host: str, port: int, options: ConnectOptions) -> None:
        self._host, self._port, self._options = host, port, options
        self._client: Client | None = None

    def __await__(self) -> Generator[None, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._client is not None, "entered before it is left"
        await self._client.__aexit__(exc_type, exc, traceback)

    async def _connect(self) -> Client:
        connection = await whimbrel.connect(self._host, self._port, alpn="h3", **self._options)
        return await Client(connection, authority(self._host, self._port)).__aenter__()


def _pieces(body: Body | None) -> AsyncIterator[bytes | memoryview] | None:
    match body:
        case None:
            return None
        case bytes() | bytearray() | memoryview():
            return _one(memoryview(body).cast("B")) if memoryview(body).nbytes else None
        case AsyncIterable():
            return aiter(body)
        case _:
            return _file(body)


async def _one(body: memoryview) -> AsyncIterator[memoryview]:
    yield body


async def _file(file: BinaryIO) -> AsyncIterator[bytes]:
    # In a thread: it may be a pipe, or lie on a disk that sleeps.
    while piece := await asyncio.to_thread(file.read, 1 << 20):
        yield piece
