"""connect(): from a name to a connection.

Looks the name up, tries its addresses a quarter of a second apart until one answers (RFC 8305, in ``_dial.py``), and
hands the winner to the driver, which looks after its path.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
import weakref
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from whimbrel import _core
from whimbrel._again import Connections
from whimbrel._attempts import NetworkChanges
from whimbrel._config import Limits, Migration
from whimbrel._dial import Dial
from whimbrel._errors import ConnectFailed, ConnectionLost, ConnectTimeout, address_text
from whimbrel._machine import here
from whimbrel._qlog import qlog_place
from whimbrel._tls import StrPath, identity, trust_roots

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from types import TracebackType

    from whimbrel._attempts import Attempt
    from whimbrel._connection import Connection
    from whimbrel._connection_base import ConnectionBase
    from whimbrel._events import PathChange
    from whimbrel._path import Address
    from whimbrel._sessions import SessionStore


def connect(
    host: str,
    port: int,
    *,
    alpn: str | Sequence[str],
    verify: bool | StrPath = True,
    cert: tuple[StrPath, StrPath] | None = None,
    server_hostname: str | None = None,
    timeout: float | None = 10.0,
    idle_timeout: float = 90.0,
    keepalive: float | None = None,
    migration: Migration | None = Migration(),  # noqa: B008 - frozen
    sessions: SessionStore | None = None,
    early_data: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    qlog: StrPath | None = None,
) -> _Connect:
    """Open a connection: ``await connect(...)``, or ``async with connect(...) as connection``, which closes it as well.

    ``async for connection in connect(...)`` gives one after the other, for work that may be done again: it dials anew
    when the one before is over or the body goes on, closes that one, looks the name up each time, and pauses longer and
    longer (from 0.25 to 30 s, or until the networks change) where that fails. It raises only what no repetition cures:
    HandshakeFailed and its kinds, and what a wrong argument brings. Connections themselves survive moves between
    networks; this is for outages beyond ``migration.outage``, networks with the other family of addresses alone, and
    servers that are started anew. With `sessions` and `early_data` the next one can send at once.

    Args:
        host: a name or an address. All addresses of a name are tried.
        port: UDP port.
        alpn: the application protocols to offer, the favourite first, such as ``"h3"`` (RFC 9001 §8.1).
        verify: True: the system's certificates, where SSL_CERT_FILE and SSL_CERT_DIR count; a CA file or folder; False
            trusts anybody, and warns.
        cert: client certificate chain and key, PEM files, for servers that ask.
        server_hostname: the name to verify, where it differs from `host`.
        timeout: seconds for the whole dial: look-up, handshake, every address. None: no bound of ours.
        idle_timeout: seconds without any packet after which the connection is lost; the smaller of the two ends' holds
            (RFC 9000 §10.1). Never below ``migration.outage``, which could not be held otherwise.
        keepalive: seconds between PINGs; None: none but what `migration` sends while work is pending.
        migration: how to follow the machine between networks; None: stay on the first path for ever. A handshake
            under way when the network changes is tried anew over the other one: it cannot move (RFC 9000 §9).
        sessions: where to remember servers between connections, so that the next handshake is shorter.
        early_data: send at once, before the server has answered (0-RTT, RFC 9001 §4.6), where `sessions` holds a ticket
            that allows it; then this returns without waiting, and an unreachable or unacceptable server shows in the
            next call that needs its answer, at the latest after `timeout`. Only for what may be received twice: whoever
            records the packets can send them again (RFC 9001 §9.2). What the server does not take early is sent again
            by itself, in the same streams; datagrams are not.
        limits: bounds on memory.
        qlog: a file for the connection's log, or a folder to make one in; None: what QLOGDIR says, if anything.

    Raises:
        ConnectTimeout: nobody answered within `timeout`.
        CertificateError: the server's certificate does not prove who it is, or the server refuses ours; ``reason`` says
            why.
        AlpnMismatch: the server speaks none of the protocols offered.
        HandshakeFailed: the server answered, but the handshake failed otherwise.
        ConnectFailed: the look-up failed, no route leads there, or the server refuses.
        OSError: a file named by `verify` or `cert` cannot be read, or `qlog` not be written.
        ValueError: an argument makes no sense; the message says which.
    """
    return _Connect(
        host,
        port,
        alpn=alpn,
        verify=verify,
        cert=cert,
        server_hostname=server_hostname,
        timeout=timeout,
        idle_timeout=idle_timeout,
        keepalive=keepalive,
        migration=migration,
        sessions=sessions,
        early_data=early_data,
        limits=limits,
        qlog=qlog,
    )


class _Connect:
    """A dial that was described and not begun: await it, enter it, or go through its connections."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        alpn: str | Sequence[str],
        verify: bool | StrPath,
        cert: tuple[StrPath, StrPath] | None,
        server_hostname: str | None,
        timeout: float | None,
        idle_timeout: float,
        keepalive: float | None,
        migration: Migration | None,
        sessions: SessionStore | None,
        early_data: bool,
        limits: Limits,
        qlog: StrPath | None,
    ) -> None:
        if not host:
            raise ValueError("host must not be empty")
        if not 0 < port < 65536:
            raise ValueError(f"port must be 1 to 65535, not {port}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is seconds, and more than 0, not {timeout}")
        if early_data and sessions is None:
            raise ValueError("early_data=True needs sessions=, a SessionStore that earlier connections used as well")
        self._host = host
        self._port = port
        self._peer = address_text((host, port))
        self._name = server_hostname or host.partition("%")[0]
        self._timeout = timeout
        self._migration = migration
        self._sessions = sessions
        self._early_data = early_data
        self._server = f"{self._name}:{port}"
        self._connection: Connection | None = None
        if migration is not None:
            idle_timeout = max(idle_timeout, migration.outage)
        chain, key = (None, None) if cert is None else identity(cert, "client certificate")
        self._config = _core.ClientConfig(
            alpn=alpn_bytes(alpn),
            roots=trust_roots(verify),
            certificate=chain,
            key=key,
            transport=transport_config(idle_timeout, keepalive, limits, qlog_place(qlog)),
            sessions=None if sessions is None else (sessions._core, self._server),
            early_data=early_data,
        )

    def __await__(self) -> Generator[object, None, Connection]:
        return self._dial().__await__()

    def __aiter__(self) -> Connections:
        return Connections(self)

    async def __aenter__(self) -> Connection:
        self._connection = await self._dial()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connection is not None, "left without being entered"
        await self._connection.__aexit__(kind, error, trace)

    async def _dial(self) -> Connection:
        tried: list[Address] = []
        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline:
                addresses = await self._look_up()
                connection = await Dial(self, tried).first_to_answer(addresses)
        except TimeoutError as error:
            if not deadline.expired() or isinstance(error, ConnectTimeout):
                raise
            raise ConnectTimeout(self._what_was_tried(tried), peer=self._peer) from None
        try:
            self._look_after(connection, functools.partial(_pass_on, connection._loop, weakref.ref(connection)))
        except BaseException:
            connection._close_now(0, "")
            raise
        until = deadline.when()
        if until is not None:
            self._bound(connection, until - connection._loop.time(), tried)
        return connection

    def _what_was_tried(self, tried: list[Address]) -> str:
        within = f"within {self._timeout:g} s"
        if not tried:
            return f"the look-up of {self._host!r} brought nothing {within}"
        texts = [address_text(address) for address in dict.fromkeys(tried)]
        if texts == [self._peer]:
            return f"no answer {within}"
        return f"no answer {within}; tried {', '.join(texts)}"

    async def _look_up(self) -> list[Address]:
        """The addresses to try, in order."""
        try:
            addresses = await resolve(self._host, self._port)
        except (socket.gaierror, UnicodeError) as error:
            raise self._not_found(error) from error
        return in_turns(addresses)

    def _not_found(self, error: socket.gaierror | UnicodeError) -> ConnectFailed:
        if isinstance(error, UnicodeError):
            return ConnectFailed(f"{self._host!r} is not a valid host name", peer=self._peer)
        return ConnectFailed(f"cannot find {self._host!r}: {error.strerror}", peer=self._peer)

    def _network_changes(self) -> contextlib.AbstractContextManager[NetworkChanges | None]:
        """News of the networks for a dial, where it is to follow them."""
        if self._migration is None or not self._migration.auto:
            return contextlib.nullcontext()
        try:
            return contextlib.closing(NetworkChanges(here.get()))
        except OSError as error:
            text = f"cannot listen for changes of the network: {error.strerror or error}"
            raise ConnectFailed(text, peer=self._peer) from error

    def _known_first(self, addresses: list[Address]) -> tuple[list[Address], Address | None]:
        """In which order to try addresses, and which one may be sent data early.

        Who sends early does not wait to see which address answers: it must be one that did before.
        """
        if self._sessions is None or not self._early_data:
            return list(addresses), None
        known = addresses[0] if len(addresses) == 1 else self._sessions._address(self._server)
        if known not in addresses:
            return list(addresses), None
        return [known, *(other for other in addresses if other != known)], known

    def _answered(self, connection: ConnectionBase, address: Address) -> None:
        if self._sessions is not None and connection._established:
            self._sessions._answered(self._server, address)

    def _open(self, attempt: Attempt) -> tuple[_core.Endpoint, _core.Connection, str | None]:
        """Send the first packet of an attempt; with the interface that it leaves by, where that is ours to choose.

        Raises:
            ConnectFailed: no network leads there, or no socket can be had.
        """
        sockets = "pinned" if self._migration is None else self._migration.sockets
        address, route = attempt.address, attempt.route
        if route is None:
            text = "no network leads there"
            if address_text(address) != self._peer:
                text = f"no network leads to {address[0]}"
            raise ConnectFailed(text, peer=self._peer)
        endpoint = here.get().client_endpoint(self._config)
        try:
            core = endpoint.connect(address, self._name, sockets, (route.index, route.source))
        except OSError as error:
            endpoint.close()
            raise ConnectFailed(f"cannot open a socket: {error.strerror or error}", peer=self._peer) from error
        except ValueError as error:
            endpoint.close()
            raise ConnectFailed(str(error), peer=self._peer) from error
        except BaseException:
            endpoint.close()
            raise
        return endpoint, core, None if sockets == "unconnected" else route.interface

    def _bound(self, connection: ConnectionBase, seconds: float, tried: list[Address]) -> None:
        """Where data are sent early the dial goes on meanwhile: what is left of its time is all that it has."""
        if not connection._established:
            connection._core.bound_handshake(max(0.0, seconds), self._what_was_tried(tried))

    def _look_after(self, connection: ConnectionBase, report: Callable[[PathChange | ConnectionLost], None]) -> None:
        """Hand the connection to the driver, on whose thread it is watched from now on.

        Args:
            connection: which one.
            report: brings the driver's news to it; called on that thread. Must not refer to the connection.
        """
        if self._migration is None:
            return
        core, endpoint = connection._core, connection._pump.endpoint
        connection._attach(here.get().attach(endpoint, core, self._peer, self._migration, report))


def _pass_on(
    loop: asyncio.AbstractEventLoop, reference: weakref.ref[ConnectionBase], event: PathChange | ConnectionLost
) -> None:
    """Bring the driver's news from its thread to the connection's loop."""
    with contextlib.suppress(RuntimeError):  # The loop is closed: nobody is left to be told.
        loop.call_soon_threadsafe(report_to, reference, event)


def report_to(reference: weakref.ref[ConnectionBase], event: PathChange | ConnectionLost) -> None:
    """Bring the driver's news to a connection, if it is there still."""
    connection = reference()
    if connection is not None:
        connection._report(event)


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a name, in the system's order. An address is its own, without the loop's helper threads.

    Raises:
        socket.gaierror: there is none.
        UnicodeError: it cannot be a name.
    """
    literal = literal_address(host, port)
    if literal is not None:
        return [literal]
    return addresses_of(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM))


async def resolve_all(hosts: Iterable[str], port: int) -> list[Address]:
    """The addresses of several names, each once; raises what `resolve` raises."""
    addresses: dict[Address, None] = {}
    for host in hosts:
        addresses.update(dict.fromkeys(await resolve(host, port)))
    return list(addresses)


def literal_address(host: str, port: int) -> Address | None:
    """An address that was given as such; None: it is a name."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host)), port
    return None


def addresses_of(found: Sequence[tuple[object, object, object, object, tuple[object, ...]]]) -> list[Address]:
    """What `socket.getaddrinfo` says, each once."""
    return list(dict.fromkeys((str(entry[4][0]), int(str(entry[4][1]))) for entry in found))


def in_turns(addresses: list[Address]) -> list[Address]:
    """Addresses with the families taking turns, beginning with that of the first (RFC 8305 §4)."""
    first = [address for address in addresses if (":" in address[0]) == (":" in addresses[0][0])]
    second = [address for address in addresses if address not in first]
    return [address for address in chain.from_iterable(zip_longest(first, second)) if address is not None]


def alpn_bytes(alpn: str | Sequence[str]) -> list[bytes]:
    """Application protocols as TLS wants them.

    Raises:
        ValueError: there is none, or one is empty, too long or not ASCII.
    """
    names = [alpn] if isinstance(alpn, str) else list(alpn)
    if not names or not all(name.isascii() and 0 < len(name) < 256 for name in names):
        raise ValueError("alpn must name at least one protocol, each 1 to 255 ASCII characters")
    return [name.encode("ascii") for name in names]


def transport_config(
    idle_timeout: float, keepalive: float | None, limits: Limits, qlog: str | None = None
) -> _core.TransportConfig:
    """The engine's settings.

    Raises:
        ValueError: a duration is not positive.
    """
    if not idle_timeout > 0 or (keepalive is not None and not keepalive > 0):
        raise ValueError("idle_timeout and keepalive are seconds, and more than 0")
    return _core.TransportConfig(
        idle_timeout=idle_timeout,
        keepalive=keepalive,
        stream_window=limits.stream_window,
        connection_window=limits.connection_window,
        max_streams=limits.max_streams,
        send_buffer=limits.send_buffer,
        qlog=qlog,
    )
