"""What is known of origins: where they speak HTTP/3, and where they do not seem to.

Both depend on the network that the machine is in, so each fact remembers by which route its server was reached, and
holds only while the kernel would go the same way.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from whimbrel._machine import here
from whimbrel.http import _alt_svc

if TYPE_CHECKING:
    from whimbrel.http._https_records import Services
    from whimbrel.network import Route

ORIGINS = 1024
"""How many are remembered; the one not asked for the longest is forgotten first."""
FORGIVEN_AFTER = 300.0
"""Seconds until a place that did not answer over UDP is asked again, on the same network."""

Place: TypeAlias = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class _Fact:
    """Something that was learned from a server at an address."""

    until: float
    address: str
    route: Route | None

    def holds(self, now: float) -> bool:
        return now < self.until and (not self.address or here.get().route_to(self.address) == self.route)


@dataclass
class Origin:
    """One of them."""

    host: str
    port: int
    services: tuple[Services, float] | None = None
    """From the DNS, and until when."""
    _alternatives: list[tuple[Place, _Fact]] = field(default_factory=list)
    _silent: dict[Place, _Fact] = field(default_factory=dict)
    _failed: set[Place] = field(default_factory=set)
    _tcp_address: str = ""

    @property
    def place(self) -> Place:
        """Where its URL points."""
        return self.host, self.port

    def advertised(self, header: str, address: str, now: float) -> None:
        """A response came with Alt-Svc.

        Args:
            header: the field.
            address: of the server that sent it.
            now: seconds.
        """
        found = _alt_svc.parse(header)
        if found is not None:
            route = here.get().route_to(address)
            self._alternatives = [
                (
                    (other.host or self.host, other.port),
                    _Fact(now + other.max_age, "" if other.persist else address, route),
                )
                for other in found
            ]

    def places(self, now: float) -> list[Place]:
        """Where to ask over QUIC, the favourite first; empty: nowhere, for now."""
        found = [place for place, fact in self._alternatives if fact.holds(now)]
        if not found and self.services is not None and self.services[0].places:
            found = [(service.host, service.port) for service in self.services[0].places if service.speaks_http3]
        elif not found:
            found = [self.place]  # RFC 9114 §3.1.1: it may be tried unasked.
        return [place for place in dict.fromkeys(found) if not self._is_silent(place, now)]

    def dialling(self) -> None:
        """It is asked over QUIC, anew."""
        self._failed.clear()
        self._tcp_address = ""

    def failed(self, place: Place, now: float) -> None:
        """No connection came about there. That is its fault, or that of UDP, only if TCP gets through meanwhile."""
        self._failed.add(place)
        self._judge(now)

    def answered_over_tcp(self, address: str, now: float) -> None:
        """A server at that address did."""
        self._tcp_address = address
        self._judge(now)

    def failed_over_tcp(self) -> None:
        """Not even TCP gets through: what was thought of UDP is of no use any more."""
        self._silent.clear()

    def disowned(self, place: Place, now: float) -> None:
        """A place said that it does not answer for this origin (421, RFC 7838 §6)."""
        self._alternatives = [known for known in self._alternatives if known[0] != place]
        self._silent[place] = _Fact(now + FORGIVEN_AFTER, "", None)

    def _judge(self, now: float) -> None:
        if self._tcp_address:
            for place in self._failed:
                route = here.get().route_to(self._tcp_address)
                self._silent[place] = _Fact(now + FORGIVEN_AFTER, self._tcp_address, route)
            self._failed.clear()

    def _is_silent(self, place: Place, now: float) -> bool:
        fact = self._silent.get(place)
        if fact is not None and not fact.holds(now):
            del self._silent[place]
            return False
        return fact is not None


class Origins:
    """As many as `ORIGINS`."""

    def __init__(self) -> None:
        self._known: OrderedDict[Place, Origin] = OrderedDict()

    def get(self, host: str, port: int) -> Origin:
        """One of them, known before or not."""
        origin = self._known.setdefault((host, port), Origin(host, port))
        self._known.move_to_end((host, port))
        if len(self._known) > ORIGINS:
            self._known.popitem(last=False)
        return origin
