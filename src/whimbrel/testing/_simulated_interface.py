"""A network interface in virtual time: its link, its NAT, and what an observer sees on it.

client ──▶ (captured) ──▶ queue, rate ──▶ latency ──▶ NAT ──▶ server
client ◀── (captured) ◀── latency ◀── queue, rate ◀── NAT ◀── server
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whimbrel.network import Route
from whimbrel.testing._capture import Packet

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from whimbrel._path import Address
    from whimbrel.testing._capture import ConnectionIds, Direction
    from whimbrel.testing._timeline import Timeline

HEADERS = 28
"""Bytes of IPv4 and UDP before the payload."""
CAPTURED = 50
"""Bytes of each payload that an observer keeps: enough for every connection ID."""


@dataclass(slots=True)
class Link:
    """Both directions of a link are alike. May be changed under way."""

    latency: float
    """Seconds, one way."""
    rate: float
    """Bits per second."""
    loss: float
    """The chance of each packet to be lost, 0 to 1."""
    jitter: float
    """Up to so many seconds are added to the latency, packet by packet: they overtake each other."""
    queue: float
    """Seconds that a packet waits for its turn at most; where it would be longer, it is dropped."""
    mtu: int
    """Bytes of the largest IP packet; larger ones vanish."""


class SimulatedInterface:
    """One of the client's interfaces. Made by `SimulatedNetwork.interface`."""

    def __init__(
        self,
        name: str,
        index: int,
        link: Link,
        metric: int,
        timeline: Timeline,
        chance: random.Random,
        changed: Callable[[], None],
        observe: Callable[[SimulatedInterface], ConnectionIds],
    ) -> None:
        self.name = name
        self.link = link
        self.metric = metric
        self.address = f"10.0.{index}.2"
        self.is_up = False
        self.packets: list[Packet] = []
        """What an observer sees between the client and the NAT."""
        self._index = index
        self._timeline = timeline
        self._chance = chance
        self._changed = changed
        self._observe = observe
        self._nat = Nat(index)
        self._silent = False
        self._stopped = -math.inf
        self._free: dict[Direction, float] = {"to_server": 0.0, "to_client": 0.0}

    # What may happen to it --------------------------------------------------------------------------------------------

    def up(self, address: str | None = None) -> None:
        """The link comes up, with an address and a default route.

        Args:
            address: another one than before.
        """
        self.is_up = True
        if address is not None and address != self.address:
            self.address, self._stopped = address, self._timeline.now
        self._changed()

    def down(self) -> None:
        """A hard cut: the link goes down, and with it route, address, and everything under way."""
        self.is_up, self._stopped = False, self._timeline.now
        self._changed()

    def silence(self, silent: bool = True) -> None:
        """Keep address and route but carry nothing: a black hole, or a portal that nobody has passed."""
        self._silent = silent
        if silent:
            self._stopped = self._timeline.now

    def rebind(self, *, address: bool = False) -> None:
        """The NAT forgets: the next packet goes out from another port.

        Args:
            address: from another address as well.
        """
        self._nat.forget(address=address)

    def set_metric(self, metric: int) -> None:
        """Change its rank among the routes; the lowest is preferred."""
        self.metric = metric
        self._changed()

    # What is seen on it -----------------------------------------------------------------------------------------------

    @property
    def connection_ids(self) -> frozenset[bytes]:
        """The connection IDs to the server that an observer saw: those that must differ from network to network."""
        return self._observe(self).to_server

    # What it is to others ---------------------------------------------------------------------------------------------

    @property
    def route(self) -> Route:
        """How the kernel would name it."""
        return Route(self.name, self._index, self.address)

    @property
    def external(self) -> str:
        """The address that the outer world sees."""
        return self._nat.address

    def owns(self, external: str) -> bool:
        """Whether packets to that address of the outer world come here."""
        return external == self._nat.address

    def send(self, data: bytes, source: Address, destination: Address, arrive: Callable[[Address], None]) -> None:
        """Carry a datagram towards the server. `arrive` is called there with the address that it then has."""
        now = self._timeline.now
        self.packets.append(captured(now, "to_server", data, source, destination))
        # No provider carries what has an address of another one.
        if self._silent or source[0] != self.address:
            return
        leaves, arrives = self._pass("to_server", len(data))
        if arrives is None:
            return
        external = self._nat.outward(source)

        def land() -> None:
            # What still waited for its turn when the link stopped has never left.
            if not now <= self._stopped < leaves:
                arrive(external)

        self._timeline.at(arrives, land)

    def receive(self, data: bytes, source: Address, external: Address, arrive: Callable[[Address], None]) -> None:
        """Carry a datagram towards the client. `arrive` is called there, with the local address that it came to."""
        destination = self._nat.inward(external)
        _, arrives = self._pass("to_client", len(data))
        if destination is None or arrives is None:
            return

        def land() -> None:
            if self.is_up and not self._silent and self.address == destination[0]:
                self.packets.append(captured(self._timeline.now, "to_client", data, source, destination))
                arrive(destination)

        self._timeline.at(arrives, land)

    def _pass(self, direction: Direction, length: int) -> tuple[float, float | None]:
        """When a packet has left the queue, and when it arrives, if ever."""
        now, link, size = self._timeline.now, self.link, length + HEADERS
        begins = max(now, self._free[direction])
        if begins - now > link.queue or size > link.mtu:
            return now, None
        self._free[direction] = leaves = begins + size * 8 / link.rate
        lost = link.loss > 0 and self._chance.random() < link.loss
        jitter = self._chance.random() * link.jitter if link.jitter > 0 else 0.0
        return leaves, None if lost else leaves + link.latency + jitter


class Nat:
    """Address and port translation of one provider."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._addresses = itertools.count(1)
        self._ports = itertools.count(1024)
        self._outward: dict[Address, Address] = {}
        self._inward: dict[Address, Address] = {}
        self.address = self._new_address()

    def _new_address(self) -> str:
        return f"203.0.{self._number}.{next(self._addresses)}"

    def outward(self, internal: Address) -> Address:
        """The external address of an internal one."""
        if internal not in self._outward:
            external = self.address, next(self._ports)
            self._outward[internal], self._inward[external] = external, internal
        return self._outward[internal]

    def inward(self, external: Address) -> Address | None:
        """The internal address of an external one; None: no longer known."""
        return self._inward.get(external)

    def forget(self, *, address: bool) -> None:
        """Lose all translations."""
        self._outward.clear()
        self._inward.clear()
        if address:
            self.address = self._new_address()


def captured(now: float, direction: Direction, data: bytes, source: Address, destination: Address) -> Packet:
    """A datagram as an observer notes it."""
    length = len(data)
    return Packet(now, direction, "udp", source, destination, length + HEADERS, length, data[:CAPTURED])
