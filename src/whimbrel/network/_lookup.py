"""The question, which way to a peer, and its answer, in the form that kernel interfaces want."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import NamedTuple, Protocol

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96: IPv4 written as IPv6 (RFC 4291 §2.5.5.2)


class Peer(NamedTuple):
    """An IP address, packed, and the interface it is scoped to."""

    family: socket.AddressFamily
    packed: bytes
    scope: str = ""
    """Name or number of the interface, for a link-local IPv6 address; else empty."""

    @property
    def scope_index(self) -> int:
        """The interface's number; 0 without a scope, -1 where no such interface exists."""
        if not self.scope:
            return 0
        if self.scope.isdecimal():
            return int(self.scope)
        try:
            return socket.if_nametoindex(self.scope)
        except OSError:
            return -1  # It may come back; until then nothing leads there.

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Reads an IP address.

        Raises:
            ValueError: it is none, or a link-local one that does not name its interface.
        """
        address, _, scope = text.partition("%")
        try:
            if ":" not in address:
                return cls(socket.AF_INET, socket.inet_pton(socket.AF_INET, text))
            packed = socket.inet_pton(socket.AF_INET6, address)
        except (OSError, ValueError):  # ValueError: a NUL inside.
            raise ValueError(f"{text!r} is not an IP address: look the name up first") from None
        if packed.startswith(_MAPPED):
            # The kernel routes these as IPv4, and an IPv6 socket would report an IPv4 source.
            return cls(socket.AF_INET, packed[12:])
        if packed[0] != 0xFE or packed[1] & 0xC0 != 0x80:
            return cls(socket.AF_INET6, packed)  # A scope on an address that needs none is ignored, as by the kernel.
        if not scope:
            raise ValueError(f"{text!r} is link-local: say on which interface, as in '{address}%wlan0'")
        return cls(socket.AF_INET6, packed, scope)


@dataclass(frozen=True, slots=True)
class Found:
    """The answer: the number of the interface that packets leave by, and the source address they carry."""

    index: int
    source: str


class Lookup(Protocol):
    """A way to ask the kernel's routing tables."""

    def preferred(self, peer: Peer) -> Found | None:
        """The kernel's own choice for a packet to the peer."""

    def bound(self, peer: Peer, index: int, interface: str) -> Found | None:
        """What a packet that must leave by one interface would use; None where no route leads that way."""


class NetlinkRefused(Exception):
    """This process may not use netlink (a sandbox, systemd's RestrictAddressFamilies=), or the kernel lacks it."""
