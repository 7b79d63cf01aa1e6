"""Which targets a tunnel may lead to. Everything else is refused.

A rule about a name is not a rule about every address that this name may come to: whoever answers for the name in the
DNS could else have the server connect to itself, or into its own network (DNS rebinding). So addresses are judged after
the look-up, each by itself, and the tunnel leads to one that was judged, never to a name that is looked up again.
"""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from whimbrel.tunnel._target import (
    BadTarget,
    IpAddress,
    TcpTarget,
    UnixTarget,
    as_address,
    host_name,
    parse_port,
    unix_target,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


class BadRule(ValueError):
    """This is no rule. The message says why."""


@dataclass(frozen=True, slots=True)
class NameRule:
    """``NAME:PORT``, and perhaps where it may lead: ``NAME:PORT=NETWORK``."""

    name: str
    port: int | None
    """None: any."""
    within: Network | None = None
    """Where its addresses must be; None: anywhere on the public Internet, which is nobody's own network."""

    def covers(self, target: TcpTarget) -> bool:
        """Whether it is about this name and port."""
        return self.name == target.host and self.port in (None, target.port)

    def permits(self, address: IpAddress) -> bool:
        """Whether the name may lead there."""
        return address.is_global and not address.is_multicast if self.within is None else address in self.within


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """``ADDRESS:PORT`` or ``NETWORK:PORT``; ``localhost:PORT`` stands for both loopback networks."""

    networks: tuple[Network, ...]
    port: int | None

    def permits(self, address: IpAddress, port: int) -> bool:
        """Whether it is about this address and port."""
        return self.port in (None, port) and any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class SocketRule:
    """``/PATH`` of a UNIX socket."""

    path: str


Rule: TypeAlias = NameRule | NetworkRule | SocketRule


def parse_rule(text: str) -> Rule:
    """One rule as it is written.

    Raises:
        BadRule: it is none.
    """
    try:
        if text.startswith("/"):
            return SocketRule(unix_target(text).path)
        place, equals, within = text.partition("=")
        host, colon, port_text = place.rpartition(":")
        if not colon or not host:
            raise BadTarget("HOST:PORT is wanted, or HOST:* for every port")
        port = None if port_text == "*" else parse_port(port_text)
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise BadTarget("an IPv6 address needs brackets, as in [2001:db8::/32]:22")
        network = _network(host)
        if network is not None and not equals:
            return NetworkRule((network,), port)
        if network is not None:
            raise BadTarget("only a name has an = behind it")
        name = host_name(host)
        if name == "localhost" and not equals:
            return NetworkRule(_LOOPBACK, port)
        return NameRule(name, port, _parse_network(within) if equals else None)
    except BadTarget as error:
        raise BadRule(f"{text!r} is no rule: {error}") from None


class Rules:
    """All rules of a server. Without any, nothing is allowed."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        rules = list(rules)
        self._names = [rule for rule in rules if isinstance(rule, NameRule)]
        self._networks = [rule for rule in rules if isinstance(rule, NetworkRule)]
        self._sockets = frozenset(rule.path for rule in rules if isinstance(rule, SocketRule))

    def may_permit(self, target: TcpTarget) -> bool:
        """Whether it is of use to look a name up: nobody learns by us what is in a DNS that he has no business with."""
        if (address := target.address) is not None:
            return bool(self.permitted(target, [address]))
        by_port = any(rule.port in (None, target.port) for rule in self._networks)
        return by_port or any(rule.covers(target) for rule in self._names)

    def permitted(self, target: TcpTarget, addresses: Sequence[IpAddress]) -> list[IpAddress]:
        """Those of a target's addresses that a tunnel may lead to.

        Args:
            target: what was asked for.
            addresses: all that its host was found to have.
        """
        names = [rule for rule in self._names if rule.covers(target)]
        return [
            address
            for address in addresses
            if any(rule.permits(address, target.port) for rule in self._networks)
            or any(rule.permits(address) for rule in names)
        ]

    def permits_socket(self, target: UnixTarget) -> bool:
        """Whether a tunnel may lead to this UNIX socket."""
        return target.path in self._sockets


def _network(host: str) -> Network | None:
    if (address := as_address(host)) is not None:
        return ipaddress.ip_network(address)
    if "/" not in host:
        return None
    return _parse_network(host)


def _parse_network(text: str) -> Network:
    text = text.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        with contextlib.suppress(ValueError):
            raise BadTarget(f"{error}; perhaps {ipaddress.ip_network(text, strict=False)} is meant") from None
        raise BadTarget(f"{text!r} is no network, such as 10.0.0.0/8") from None
