"""A network interface in virtual time: its link, its NAT, and what an observer sees on it.

client ──▶ (captured) ──▶ queue, rate ──▶ latency ──▶ NAT ──▶ server
client ◀── (captured) ◀── latency ◀── queue, rate ◀── NAT ◀── server
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whimbrel.network import Route
from whimbrel.testing._capture import Packet
from whimbrel.testing._simulated_nat import Nat

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from whimbrel._path import Address
    from whimbrel.testing._capture import ConnectionIds, Direction
    from whimbrel.testing._simulated_link import Link
    from whimbrel.testing._timeline import Timeline

HEADERS = {4: 28, 6: 48}
"""Bytes of IP and UDP before the payload."""
CAPTURED = 50
"""Bytes of each payload that an observer keeps: enough for every connection ID."""


class SimulatedInterface:
    """One of the device's interfaces. Made by `SimulatedNetwork.interface`."""

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
        self.index = index
        self.link = link
        """How it is. May be changed under way: ``interface.link.loss = 0.1``."""
        self.metric = metric
        self.address = f"10.0.{index}.2"
        """The IPv4 address."""
        self.address6 = f"2001:db8:{index}::2"
        """The IPv6 address."""
        self.is_up = False
        self.has_ipv4 = True
        self.has_ipv6 = False
        self.packets: list[Packet] = []
        """What an observer sees between the device and the NAT."""
        self._timeline = timeline
        self._chance = chance
        self._changed = changed
        self._observe = observe
        self._nat = Nat(index)
        self._silent = False
        self._stops: list[float] = []  # when what was under way in it was lost

    # What may happen to it --------------------------------------------------------------------------------------------

    def up(self, address: str | None = None) -> None:
        """The link comes up, with its addresses and default routes.

        Args:
            address: another one than before, IPv4 or IPv6.
        """
        self.is_up = True
        if address is not None and address not in (self.address, self.address6):
            if ":" in address:
                self.address6 = address
            else:
                self.address = address
            self._stops.append(self._timeline.now)
        self._changed()

    def down(self) -> None:
        """A hard cut: the link goes down, and with it routes, addresses, and everything under way."""
        self.is_up = False
        self._stops.append(self._timeline.now)
        self._changed()

    def silence(self, silent: bool = True) -> None:
        """Keep addresses and routes but carry nothing: a black hole, or a portal that nobody has passed."""
        self._silent = silent
        if silent:
            self._stops.append(self._timeline.now)

    def rebind(self, *, address: bool = False) -> None:
        """The NAT forgets: the next packet goes out from another port.

        Args:
            address: from another address as well.
        """
        self._nat.forget(address=address)

    def forget_after(self, seconds: float) -> None:
        """From now on the NAT forgets a translation that was not used for so long."""
        self._nat.timeout = seconds

    def set_metric(self, metric: int) -> None:
        """Change its rank among the routes; the lowest is preferred."""
        self.metric = metric
        self._changed()

    def set_families(self, *, ipv4: bool, ipv6: bool) -> None:
        """Change which of the two the network offers: addresses and routes of the other are gone."""
        self.has_ipv4, self.has_ipv6 = ipv4, ipv6
        self._changed()

    # What is seen on it -----------------------------------------------------------------------------------------------

    @property
    def connection_ids(self) -> frozenset[bytes]:
        """The connection IDs to the server that an observer saw: those that must differ from network to network."""
        return self._observe(self).to_server

    # What it is to others ---------------------------------------------------------------------------------------------

    @property
    def route(self) -> Route:
        """How the kernel would name it, for IPv4."""
        return Route(self.name, self.index, self.address)

    @property
    def addresses(self) -> list[str]:
        """Those that it has now."""
        offered = ((self.address, self.has_ipv4), (self.address6, self.has_ipv6))
        return [address for address, has in offered if has and self.is_up]

    def source(self, family: int) -> str | None:
        """What packets of that family leave with; None: none do."""
        return next((address for address in self.addresses if (6 if ":" in address else 4) == family), None)

    @property
    def external(self) -> str:
        """The IPv4 address that the outer world sees."""
        return self._nat.address

    def owns(self, external: str) -> bool:
        """Whether packets to that address of the outer world come here."""
        return external in (self._nat.address, self.address6)

    def send(self, data: bytes, source: Address, destination: Address, arrive: Callable[[Address], None]) -> None:
        """Carry a datagram towards the server. `arrive` is called there with the address that it then has."""
        now = self._timeline.now
        packet = captured(now, "to_server", data, source, destination)
        self.packets.append(packet)
        # No provider carries what has an address of another one.
        if self._silent or source[0] not in self.addresses:
            return
        passage = self.link.carry("to_server", packet.size, now, self._chance)
        if not passage.arrives:
            return
        external, stops = self._nat.outward(source, now), len(self._stops)

        def land() -> None:
            # What still waited for its turn when the link stopped has never left.
            if len(self._stops) == stops or self._stops[stops] >= passage.leaves:
                arrive(external)

        for time in passage.arrives:
            self._timeline.at(time, land)

    def receive(self, data: bytes, source: Address, external: Address, arrive: Callable[[Address], None]) -> None:
        """Carry a datagram towards the client. `arrive` is called there, with the local address that it came to."""
        now = self._timeline.now
        destination = self._nat.inward(external, now)
        passage = self.link.carry("to_client", len(data) + _headers(source), now, self._chance)
        if destination is None:
            return

        def land() -> None:
            if not self._silent and destination[0] in self.addresses:
                self.packets.append(captured(self._timeline.now, "to_client", data, source, destination))
                arrive(destination)

        for time in passage.arrives:
            self._timeline.at(time, land)


def _headers(address: Address) -> int:
    return HEADERS[6 if ":" in address[0] else 4]


def captured(now: float, direction: Direction, data: bytes, source: Address, destination: Address) -> Packet:
    """A datagram as an observer notes it."""
    length = len(data)
    size = length + _headers(source)
    return Packet(now, direction, "udp", source, destination, size, length, data[:CAPTURED])
