"""What lies between the client's providers and the server, where somebody may look, copy, hold back and lie.

client ──▶ its interface, its NAT ──▶ meddle ──▶ server
                                 ◀── meddle ◀──
anybody ─────────── spoof ───────────────────▶ server
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from tests.simulation.support import Options
from whimbrel import Migration
from whimbrel.testing._capture import Packet, connection_ids
from whimbrel.testing._simulated_interface import captured
from whimbrel.testing._simulation import SimulatedNetwork

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from whimbrel import _core
    from whimbrel._path import Address, Path
    from whimbrel.testing._capture import Direction
    from whimbrel.testing._simulated_interface import SimulatedInterface

ELSEWHERE: Address = ("192.0.2.66", 6666)
"""Somewhere on the Internet: an attacker's address, or a victim's. What is sent there never comes back."""
BY_HAND = Migration(auto=False)
"""The client stays where it is until the test moves it: what is tested is what the server makes of it."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A datagram that is about to reach the server, or has just left it."""

    time: float
    direction: Direction
    peer: Address
    """The client's address as the server sees it."""
    data: bytes

    @property
    def is_long(self) -> bool:
        return bool(self.data[0] & 0x80)


class Internet(SimulatedNetwork):
    """A simulated network with an observer, who is not always honest, in front of the server."""

    def __init__(self, *, seed: int | None = None, **options: Unpack[Options]) -> None:
        options.setdefault("migration", BY_HAND)
        super().__init__(**options, seed=seed)
        self.datagrams: list[Datagram] = []
        """Everything that came to the server or left it, in order."""
        self.meddle: Callable[[Datagram], bool] | None = None
        """Called for each; with True it goes no further."""

    def spoof(self, data: bytes, source: Address) -> None:
        """Let the server have a datagram, as if from that address."""
        self.datagrams.append(Datagram(self.now, "to_server", source, data))
        super()._at_server(data, source)

    def forward(self, data: bytes, destination: Address) -> None:
        """Send a datagram on to the client, past whoever meddles, as if from the server."""
        super()._to_client(data, destination)

    def move(self, interface: SimulatedInterface) -> bool:
        """Have the client use that interface from now on, asking nobody. False: it had no fresh connection ID."""
        return self.client.pin(interface.index, interface.address, True)

    def ping(self) -> None:
        """Have the client send something that is to be answered."""
        self.client.ping()

    def close_client(self, code: int = 0) -> None:
        """Have the client close."""
        self.client.close(code, b"")

    def close_server(self, code: int = 0) -> None:
        """Have the server close."""
        self.server.close(code, b"")

    def stop_reading(self) -> Callable[[], None]:
        """Have the client read nothing more, until the result is called."""
        self._bearer.reading.clear()
        return self._bearer.reading.set

    def cancel_move(self, moving: Future[Path]) -> None:
        """Nobody waits for that move any more."""
        connection = self._there.connection
        if connection is not None and connection._attachment is not None:
            connection._attachment.cancel_move(moving)

    @property
    def is_connected(self) -> bool:
        """Whether the client has a connection, ended or not."""
        return self._traffic is not None and self._traffic.connection is not None

    @property
    def path(self) -> Path:
        """The one that the client uses."""
        connection = self._there.connection
        assert connection is not None
        return connection.path

    @property
    def client(self) -> _core.Connection:
        """The client's end of the connection."""
        connection = self._there.connection
        assert connection is not None
        return connection._core

    @property
    def server(self) -> _core.Connection:
        """The server's end of the connection."""
        return self._there.server._endpoint.connection(0)

    @property
    def tally(self) -> _core.ServerStats:
        """What the server has counted."""
        return self._there.server._endpoint.server_stats()

    @property
    def seen_at(self) -> Address:
        """Where the server believes the client to be."""
        return self.server.remote_address()

    # What was seen ----------------------------------------------------------------------------------------------------

    def of(self, direction: Direction, peer: Address | None = None, *, since: float = 0.0) -> list[Datagram]:
        """What went that way: to or from one address, or any."""
        return [
            each
            for each in self.datagrams
            if each.direction == direction and each.time >= since and (peer is None or each.peer == peer)
        ]

    def peers(self) -> list[Address]:
        """Every address that spoke to the server, in order."""
        return list(dict.fromkeys(each.peer for each in self.of("to_server")))

    def most_owed(self, peer: Address, *, until: float | None = None) -> int:
        """How many bytes the server sent to an address beyond three times what had come from there, at the worst."""
        balance = worst = 0
        for each in self.datagrams:
            if each.peer == peer and (until is None or each.time < until):
                balance += -3 * len(each.data) if each.direction == "to_server" else len(each.data)
                worst = max(worst, balance)
        return worst

    def ids_by_peer(self, direction: Direction) -> list[frozenset[bytes]]:
        """The connection IDs of one direction, for each IP address of a client."""
        hosts = dict.fromkeys(host for host, _ in self.peers())
        views = [[self._captured(each) for each in self.datagrams if each.peer[0] == host] for host in hosts]
        return [ids.of(direction) for ids in connection_ids(*views, port=self.server_address[1])]

    def _captured(self, datagram: Datagram) -> Packet:
        ends = datagram.peer, self.server_address
        source, destination = ends if datagram.direction == "to_server" else ends[::-1]
        return captured(datagram.time, datagram.direction, datagram.data, source, destination)

    # Inside -----------------------------------------------------------------------------------------------------------

    def _at_server(self, data: bytes, source: Address, destination: Address | None = None) -> None:
        if self._passes(Datagram(self.now, "to_server", source, data)):
            super()._at_server(data, source, destination)

    def _to_client(self, data: bytes, destination: Address, source: Address | None = None) -> None:
        if self._passes(Datagram(self.now, "to_client", destination, data)):
            super()._to_client(data, destination, source)

    def _passes(self, datagram: Datagram) -> bool:
        if self.meddle is not None and self.meddle(datagram):
            # What the server sent counts as sent; what never reached it does not.
            if datagram.direction == "to_client":
                self.datagrams.append(datagram)
            return False
        self.datagrams.append(datagram)
        return True
