"""What is asked of the machine this runs on: its time, its ways to a peer, its sockets, and who looks after paths.

All of it goes through one object, so that `whimbrel.testing` can put a simulated machine there, with everything above
and below as it is. `here` says which one; a task hands it on to those that it makes.
"""

from __future__ import annotations

import socket
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Protocol

from whimbrel import _core
from whimbrel.network import Route, route_to, routes_to, subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whimbrel._config import Migration
    from whimbrel._connection_base import Attachment
    from whimbrel._errors import ConnectionLost
    from whimbrel._events import PathChange
    from whimbrel._path import Address
    from whimbrel.network import NetworkNews


class ProbeWire(Protocol):
    """Where a probe leaves from and its answer comes to."""

    def fileno(self) -> int:
        """Readable when an answer may be there."""

    def send(self, datagram: bytes) -> None:
        """Send it (OSError: the kernel refuses)."""

    def receive(self) -> list[bytes]:
        """Whatever has come."""

    def close(self) -> None:
        """Close it."""


class Machine(Protocol):
    """A machine with networks."""

    def now(self) -> float:
        """Seconds, on the clock that connections on this machine go by."""

    def route_to(self, peer: str) -> Route | None:
        """The way to a peer that the kernel would choose."""

    def routes_to(self, peer: str) -> Sequence[Route]:
        """All ways to a peer, the kernel's choice first."""

    def dialled(self, core: _core.Connection) -> Route | None:
        """The route that a new connection is pinned to, whether it is still there or not; None: to none."""

    def subscribe(self) -> NetworkNews:
        """Start to listen for changes (OSError: out of file descriptors)."""

    def open_probe(self, remote: Address, route: Route) -> ProbeWire:
        """Something to ask a server by, over that route (OSError: it is gone)."""

    def client_endpoint(self, config: _core.ClientConfig) -> _core.Endpoint:
        """The sockets of a connection to be (OSError: there is none to be had)."""

    def server_endpoint(
        self,
        config: _core.ServerConfig,
        addresses: Sequence[Address],
        *,
        connected: bool,
        retry: str,
        max_connections: int | None,
    ) -> _core.Endpoint:
        """The sockets of a server (OSError: an address is in use)."""

    def attach(
        self,
        endpoint: _core.Endpoint,
        core: _core.Connection,
        peer: str,
        settings: Migration,
        report: Callable[[PathChange | ConnectionLost], None],
    ) -> Attachment:
        """Have a connection's path looked after. `report` may be called on any thread, and must not wait."""


class _ThisMachine:
    """The one that is there."""

    def now(self) -> float:
        return time.monotonic()

    def route_to(self, peer: str) -> Route | None:
        return route_to(peer)

    def routes_to(self, peer: str) -> Sequence[Route]:
        return routes_to(peer)

    def dialled(self, core: _core.Connection) -> Route | None:
        interface = core.interface()
        if interface is None:
            return None
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            index = 0  # It is gone; 0 is the number of none.
        return Route(interface, index, core.local_address()[0])

    def subscribe(self) -> NetworkNews:
        return subscribe()

    def open_probe(self, remote: Address, route: Route) -> ProbeWire:
        from whimbrel._probe import ProbeSocket

        return ProbeSocket(remote, route)

    def client_endpoint(self, config: _core.ClientConfig) -> _core.Endpoint:
        return _core.Endpoint.client(config)

    def server_endpoint(
        self,
        config: _core.ServerConfig,
        addresses: Sequence[Address],
        *,
        connected: bool,
        retry: str,
        max_connections: int | None,
    ) -> _core.Endpoint:
        return _core.Endpoint.server(
            config, addresses, connected=connected, retry=retry, max_connections=max_connections
        )

    def attach(
        self,
        endpoint: _core.Endpoint,
        core: _core.Connection,
        peer: str,
        settings: Migration,
        report: Callable[[PathChange | ConnectionLost], None],
    ) -> Attachment:
        from whimbrel._driver import driver

        return driver.attach(endpoint, core, peer, settings, report)


THIS_MACHINE: Final = _ThisMachine()
here: Final[ContextVar[Machine]] = ContextVar("whimbrel-machine", default=THIS_MACHINE)
