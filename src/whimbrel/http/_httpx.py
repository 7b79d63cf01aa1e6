"""Transports for httpx (and httpx2): HTTP/3 over connections that follow the machine, and TCP where UDP is blocked.

::

                         ┌─ a connection stands ───────────────────────────────────▶ ask over it
    a request ─ origin? ─┤                           ┌─ QUIC stands first ─────────▶ ask over it
                         ├─ HTTP/3 may be spoken ─ race
                         │                           └─ TCP stands first ──────────▶ httpx's own transport
                         └─ UDP was silent there, on this network, a while ago ────▶ httpx's own transport

The race is one of connections: the request is not sent before it is decided. It is sent again only where the server
has surely done nothing about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import ssl
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, overload

import whimbrel
from whimbrel._config import Migration
from whimbrel._errors import ConnectFailed, ConnectionLost, HandshakeFailed, InsecureWarning, WhimbrelError
from whimbrel._sessions import SessionStore
from whimbrel._tls import trust_roots
from whimbrel.http._client import Client
from whimbrel.http._https_records import look_up
from whimbrel.http._httpx_library import base, library_of, translated
from whimbrel.http._httpx_waiting import Upload, Waiting
from whimbrel.http._origins import Origin, Origins, Place
from whimbrel.http._pool import Pool, Pooled
from whimbrel.http._response import RequestRejected, Response
from whimbrel.http._url import authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
    from types import ModuleType

    import httpx
    import httpx2
    from dns.asyncresolver import Resolver

    from whimbrel._tls import StrPath

    # The two want requests of their own, and `AsyncTransport` takes either.
    class _AsyncBase(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport): ...  # type: ignore[misc]

    class _ContentBase(httpx.AsyncByteStream, httpx2.AsyncByteStream): ...

else:
    _AsyncBase = base("AsyncBaseTransport")
    _ContentBase = base("AsyncByteStream")

HEAD_START = 0.25
"""Seconds that QUIC is alone: as long as RFC 8305 §5 waits between addresses."""
KEPT = 30.0
"""Seconds that a connection waits for another request: as long as many servers keep theirs."""
DIALS_FOR = 120.0
"""Seconds that are spent on QUIC where the request sets no limit: about as long as the kernel tries TCP."""
ATTEMPTS = 3
"""How often a request is sent at most, where servers refuse to look at it."""


class PoolLimits(Protocol):
    """As `httpx.Limits` has them."""

    max_connections: int | None
    max_keepalive_connections: int | None
    keepalive_expiry: float | None


class TransportOptions(TypedDict, total=False):
    """Options of `AsyncTransport`."""

    verify: bool | StrPath
    cert: tuple[StrPath, StrPath] | None
    limits: PoolLimits | None
    head_start: float
    resolver: Resolver | None
    migration: Migration | None
    idle_timeout: float
    keepalive: float | None
    qlog: StrPath | None


class AsyncTransport(_AsyncBase):
    """HTTP/3 for `httpx.AsyncClient` and `httpx2.AsyncClient`: ``AsyncClient(transport=AsyncTransport())``.

    What the client does itself stays as it is: redirects, cookies, authentication, time limits. Its own options
    ``verify``, ``cert``, ``http2``, ``limits`` and ``trust_env`` are for the transport that it would make, not for this
    one. A response's ``extensions`` have "whimbrel" (a `Carrier`: path and moves) and, once its content has ended,
    "trailers"; those that came over TCP have neither. Needs asyncio.

    Args:
        verify: as for `whimbrel.connect`; for TCP as well.
        cert: client certificate chain and key, PEM files.
        limits: `httpx.Limits`, for connections over QUIC and those over TCP apart. By default 100 connections, of which
            20 wait for another request, 30 s at most.
        head_start: seconds that QUIC is tried alone before TCP joins the race.
        resolver: whom to ask for HTTPS records; by default the system's name servers, where dnspython is installed.
        migration: as for `whimbrel.connect`, as are the following.
        idle_timeout: seconds.
        keepalive: seconds.
        qlog: folder or file.
    """

    def __init__(
        self,
        *,
        verify: bool | StrPath = True,
        cert: tuple[StrPath, StrPath] | None = None,
        limits: PoolLimits | None = None,
        head_start: float = HEAD_START,
        resolver: Resolver | None = None,
        migration: Migration | None = Migration(),  # noqa: B008 - frozen
        idle_timeout: float = 90.0,
        keepalive: float | None = None,
        qlog: StrPath | None = None,
    ) -> None:
        if isinstance(verify, ssl.SSLContext):
            raise TypeError("verify is True, False, or a file or folder of certificates: QUIC takes no ssl.SSLContext")
        if not head_start >= 0:
            raise ValueError(f"head_start is seconds, and not less than 0, not {head_start}")
        self._verify, self._cert, self._head_start, self._resolver = verify, cert, head_start, resolver
        self._limits = limits
        self._connect = functools.partial(
            whimbrel.connect,
            alpn="h3",
            verify=verify,
            cert=cert,
            migration=migration,
            idle_timeout=idle_timeout,
            keepalive=keepalive,
            sessions=SessionStore(),
            qlog=qlog,
        )
        self._connect("localhost", 443)  # Describes a connection, and so finds what is wrong with the options.
        self._origins = Origins()
        self._pool = Pool(
            max_connections=100 if limits is None else limits.max_connections,
            max_idle=20 if limits is None else limits.max_keepalive_connections,
            expiry=KEPT if limits is None else limits.keepalive_expiry,
        )
        self._over_tcp: dict[ModuleType, httpx.AsyncHTTPTransport] = {}
        self._contents: weakref.WeakSet[_Content] = weakref.WeakSet()
        self._closed = False

    @overload
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response: ...
    @overload
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response: ...
    async def handle_async_request(self, request: Any) -> Any:
        """Send a request and wait for the head of its response. Called by the client.

        Raises:
            httpx.TransportError: the kind of it that `translated` tells, or httpx's own where TCP was used.
        """
        if self._closed:
            raise RuntimeError("this transport is closed")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("whimbrel's transport runs on asyncio, and no loop of asyncio runs here") from None
        exchange = _Exchange(self, request)
        if request.url.scheme != "https":
            return await self._tcp(exchange.library).handle_async_request(request)
        return await exchange.run()

    async def aclose(self) -> None:
        """Close every connection. May be called twice."""
        self._closed = True
        for content in self._contents:
            content.cut_off()
        await self._pool.close()
        for transport in self._over_tcp.values():
            await transport.aclose()
        self._over_tcp.clear()

    # Inside -----------------------------------------------------------------------------------------------------------

    def _tcp(self, library: ModuleType) -> httpx.AsyncHTTPTransport:
        transport = self._over_tcp.get(library)
        if transport is None:
            limits = {} if self._limits is None else {"limits": self._limits}
            http2 = importlib.util.find_spec("h2") is not None
            made = library.AsyncHTTPTransport(verify=self._ssl_context(), http2=http2, **limits)
            transport = self._over_tcp[library] = made
        return transport

    def _ssl_context(self) -> ssl.SSLContext:
        """For TCP: whoever is trusted over QUIC, and nobody else."""
        if self._verify is True:
            context = ssl.create_default_context()
        elif self._verify is False:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            roots = trust_roots(self._verify) or b""
            context = ssl.create_default_context(cadata=roots.decode("ascii", "ignore"))
        if self._cert is not None:
            context.load_cert_chain(*self._cert)
        return context

    async def _dial(self, origin: Origin, name: str, timeout: float | None) -> Pooled:
        """A connection to an origin, at one of its places.

        Raises:
            ConnectFailed: at none of them, or there is none.
        """
        now = asyncio.get_running_loop().time
        if origin.services is None or origin.services[1] < now():
            services = await look_up(*origin.place, self._resolver, self._head_start or HEAD_START)
            origin.services = services, now() + services.seconds
        origin.dialling()
        failure = ConnectFailed("its HTTPS records name no place that speaks HTTP/3", peer=authority(*origin.place))
        for place in origin.places(now()):
            with warnings.catch_warnings():
                # It was said when the transport was made.
                warnings.simplefilter("ignore", InsecureWarning)
                connecting = self._connect(*place, server_hostname=name, timeout=timeout)
            try:
                connection = await connecting
            except ConnectFailed as error:
                origin.failed(place, now())
                failure = error
            else:
                return Pooled(await Client(connection, authority(*origin.place)).__aenter__(), place)
        raise failure


class _Exchange:
    """One request, until the head of its response is there."""

    def __init__(self, transport: AsyncTransport, request: Any) -> None:
        self.library = library_of(request)
        self._transport, self._request = transport, request
        self._pool = transport._pool
        url = request.url
        host = url.raw_host.decode("ascii")
        self._origin = transport._origins.get(host, url.port or 443)
        self._name: str = request.extensions.get("sni_hostname") or host
        self._key: Hashable = (self._origin.place, self._name)
        self._may_be_repeated = True

    async def run(self) -> Any:
        """The response."""
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                found = self._pool.take(self._key) or await self._reach()
                if not isinstance(found, Pooled):
                    return found
                response = await self._ask(found)
                if response.status_code == 421 and self._disowned(found) and attempts_left:
                    await response.aclose()
                    continue
            except (RequestRejected, _NothingSent) as error:
                if not self._may_be_repeated or not attempts_left:
                    reason = error.reason if isinstance(error, _NothingSent) else error
                    raise translated(reason, self.library, self._request) from error
            except WhimbrelError as error:
                if self._transport._closed:
                    raise self.library.ReadError(_CLOSED, request=self._request) from error
                raise translated(error, self.library, self._request) from error
            else:
                return response
        raise AssertionError("the last attempt returns or raises")

    # Over QUIC --------------------------------------------------------------------------------------------------------

    async def _ask(self, pooled: Pooled) -> Any:
        """Send the request over a connection that stands."""
        request, client = self._request, pooled.client
        waiting = Waiting(self.library, request, "pool")
        upload = Upload(request.stream, waiting) if _has_content(request) else None
        has_stream = False

        def opened() -> None:
            nonlocal has_stream
            has_stream = True
            waiting.now_for("read")

        try:
            async with waiting:
                response = await client.request(
                    request.method,
                    _target(request),
                    headers=self._headers(pooled.place),
                    body=upload,
                    authority=request.headers.get("host"),
                    opened=opened,
                )
        except BaseException as error:
            self._pool.give_back(pooled)
            if upload is not None and upload.has_begun:
                self._may_be_repeated = isinstance(request.stream, self.library.ByteStream)
            if isinstance(error, RequestRejected):
                self._pool.retire(self._key, pooled)
            if isinstance(error, ConnectionLost) and not has_stream:
                raise _NothingSent(error) from error
            raise
        return self._answer(response, pooled)

    def _answer(self, response: Response, pooled: Pooled) -> Any:
        if (field := response.headers.get("alt-svc")) is not None:
            address = pooled.client.connection.path.remote[0]
            self._origin.advertised(field, address, asyncio.get_running_loop().time())
        content = _Content(response, self.library, self._request, functools.partial(self._pool.give_back, pooled))
        made = self.library.Response(
            response.status,
            headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in response.headers.fields()],
            stream=content,
            extensions={"http_version": b"HTTP/3", "whimbrel": pooled.carrier},
        )
        content.extensions = made.extensions
        self._transport._contents.add(content)
        return made

    def _headers(self, place: Place) -> list[tuple[str, str]]:
        """Those that HTTP/3 carries: others are about a connection of HTTP/1.1 (RFC 9114 §4.2)."""
        raw: list[tuple[bytes, bytes]] = self._request.headers.raw
        fields = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw]
        options = self._request.headers.get("connection", "").split(",")
        dropped = _NOT_CARRIED.union(option.strip().lower() for option in options)
        kept = [(n, v) for n, v in fields if n not in dropped and (n != "te" or v.lower() == "trailers")]
        if place != self._origin.place:
            kept.append(("alt-used", authority(*place)))  # RFC 7838 §5
        return kept

    def _disowned(self, pooled: Pooled) -> bool:
        """After 421; returns whether there is another way to ask."""
        if pooled.place == self._origin.place or not self._may_be_repeated or _has_content(self._request):
            return False
        self._origin.disowned(pooled.place, asyncio.get_running_loop().time())
        self._pool.retire(self._key, pooled)
        return True

    # The race ---------------------------------------------------------------------------------------------------------

    async def _reach(self) -> Any:
        """A connection over QUIC, taken from the pool; or the response, where TCP was first."""
        now = asyncio.get_running_loop().time
        if not self._origin.places(now()):
            return await self._ask_over_tcp(self._request)
        async with Waiting(self.library, self._request, "pool"):
            await self._pool.room(self._key)
        limit = (self._request.extensions.get("timeout") or {}).get("connect") or DIALS_FOR
        begun, dial = self._pool.dial(self._key, lambda: self._transport._dial(self._origin, self._name, limit), now())
        async with Waiting(self.library, self._request, "connect") as waiting:
            # Measured from when it began: who comes to a dial that is late already need not wait once more.
            await asyncio.wait({dial}, timeout=max(0.0, begun + self._transport._head_start - now()))
            if not _stands(dial):
                return await self._race(dial, waiting)
        return self._won()

    async def _race(self, dial: asyncio.Task[Pooled], waiting: Waiting) -> Any:
        gate = _Gate(self.library, self._request, lambda: waiting.now_for(None))
        tcp = asyncio.create_task(self._ask_over_tcp(gate.request))
        try:
            while not (gate.passed.done() or _stands(dial)):
                if dial.cancelled():
                    raise self.library.ConnectError(_CLOSED, request=self._request)
                if tcp.done():
                    if tcp.exception() is None:
                        return tcp.result()
                    waiting.note = f"; over TCP: {tcp.exception()}"
                    if dial.done():
                        raise self._neither(tcp, dial)
                running: set[asyncio.Future[Any]] = {each for each in (dial, tcp, gate.passed) if not each.done()}
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if gate.passed.done():
                return await asyncio.shield(tcp)
        except BaseException:
            await gate.undo(tcp)
            raise
        await gate.undo(tcp)
        return self._won()

    def _won(self) -> Pooled:
        pooled = self._pool.take(self._key)
        if pooled is None:
            raise _NothingSent(
                ConnectionLost("the connection ended as soon as it stood", peer=authority(*self._origin.place))
            )
        return pooled

    async def _ask_over_tcp(self, request: Any) -> Any:
        try:
            response = await self._transport._tcp(self.library).handle_async_request(request)
        except (self.library.ConnectError, self.library.ConnectTimeout):
            self._origin.failed_over_tcp()
            raise
        address = response.extensions["network_stream"].get_extra_info("server_addr")
        now = asyncio.get_running_loop().time()
        if address is not None:
            if (field := response.headers.get("alt-svc")) is not None:
                self._origin.advertised(field, address[0], now)
            self._origin.answered_over_tcp(address[0], now)
        return response

    def _neither(self, tcp: asyncio.Task[Any], dial: asyncio.Task[Pooled]) -> BaseException:
        """Why there is no connection, neither way."""
        over_tcp, over_quic = tcp.exception(), dial.exception()
        assert over_tcp is not None, "the race goes on while TCP has an answer to give"
        for mistake in (over_quic, over_tcp):  # What is no verdict on the server is a mistake, here or there.
            if mistake is not None and not isinstance(mistake, WhimbrelError | self.library.TransportError):
                return mistake
        assert isinstance(over_quic, WhimbrelError), "it is no transport error of httpx"
        # Who said something is worth more than who said nothing.
        if isinstance(over_quic, HandshakeFailed):
            error = translated(over_quic, self.library, self._request)
        else:
            kind: Any = type(over_tcp)
            error = kind(f"{over_tcp}; over QUIC: {over_quic}", request=self._request)
        error.__cause__ = over_tcp
        return error


class _Gate:
    """Where a request over TCP passes when a connection is there and it is about to be sent.

    httpcore tells each step to the extension "trace", and waits for it. All that comes after those of the connection
    counts as sending, whatever later versions may call it.
    """

    def __init__(self, library: ModuleType, request: Any, passes: Callable[[], None]) -> None:
        self.passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.request = library.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "trace": self._trace},
        )
        """The same request, that passes here."""
        self._told: Callable[[str, Any], Awaitable[None]] | None = request.extensions.get("trace")
        self._passes = passes
        self._connected: Any = None

    async def undo(self, tcp: asyncio.Task[Any]) -> None:
        """End what was begun over TCP and is not wanted."""
        tcp.cancel()
        await asyncio.wait({tcp})
        if not tcp.cancelled() and tcp.exception() is None:
            with contextlib.suppress(Exception):
                await tcp.result().aclose()
        elif self._connected is not None and not self.passed.done():
            # Cancelled in a TLS handshake, httpcore 1.0 leaves the socket to the garbage collector.
            with contextlib.suppress(Exception):
                await self._connected.aclose()

    async def _trace(self, step: str, facts: Any) -> None:
        if self._told is not None:
            await self._told(step, facts)
        if step == "connection.connect_tcp.complete":
            self._connected = facts["return_value"]
        elif not step.startswith(("connection.", "http2.send_connection_init.")) and not self.passed.done():
            # From here on the request is being sent. No task has a turn in between, so this decides the race.
            self.passed.set_result(None)
            self._passes()


class _Content(_ContentBase):
    """A response's content."""

    extensions: dict[str, Any]
    """Of the response: for the trailers."""

    def __init__(self, response: Response, library: ModuleType, request: Any, done: Callable[[], None]) -> None:
        self._response, self._library, self._request = response, library, request
        self._done: Callable[[], None] | None = done
        self._is_cut_off = False

    def cut_off(self) -> None:
        """The transport is closed: half of it must not look whole."""
        self._is_cut_off = not self._response._ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with Waiting(self._library, self._request, "read"):
                    piece = await anext(self._response)
            except StopAsyncIteration:
                if self._is_cut_off:
                    raise self._library.ReadError(_CLOSED, request=self._request) from None
                break
            except WhimbrelError as error:
                raise translated(error, self._library, self._request) from error
            yield piece
        trailers = self._response.trailers.fields()
        self.extensions["trailers"] = [(name.encode("ascii"), value.encode("latin-1")) for name, value in trailers]
        self._release()

    async def aclose(self) -> None:
        try:
            await self._response.close()
        finally:
            self._release()

    def _release(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()


class _NothingSent(Exception):
    """The connection ended before any of the request was on it."""

    def __init__(self, reason: WhimbrelError) -> None:
        super().__init__(str(reason))
        self.reason = reason


_CLOSED = "the transport was closed meanwhile"
_NOT_CARRIED = frozenset({"host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})


def _has_content(request: Any) -> bool:
    headers = request.headers
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _target(request: Any) -> str:
    target: bytes = request.extensions.get("target") or request.url.raw_path
    return target.decode("ascii")


def _stands(dial: asyncio.Task[Pooled]) -> bool:
    return dial.done() and not dial.cancelled() and dial.exception() is None
