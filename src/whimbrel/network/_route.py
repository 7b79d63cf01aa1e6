"""Which way a packet to a peer would leave this machine: asked of the kernel each time, never remembered or guessed.

When to ask is decided in ``_watch.py``, what to make of the answers in the policy. No packet is ever sent.

The kernel is asked by netlink (``_netlink.py``), whose answer holds interface and source address together, or by
sockets where netlink is refused (``_poll.py``).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from whimbrel.network._lookup import Lookup, NetlinkRefused, Peer
from whimbrel.network._netlink import NetlinkLookup
from whimbrel.network._poll import SocketLookup, addresses

_SIOCGIFFLAGS, _SIOCGIFINDEX = 0x8913, 0x8933
_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0x0A
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x01, 0x08, 0x40
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Route:
    """What a packet to the peer would use: the interface it leaves by, and the source address it carries.

    Routes are equal where packets go the same way. An interface's name is no part of that: it may be renamed in use.
    """

    interface: str = field(compare=False)
    index: int
    """The interface's number, by which packets are pinned to it (IP_PKTINFO). It also scopes a link-local source."""
    source: str
    addresses: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """From `routes_to`: all addresses of the interface, in the peer's family. Packets may carry any of them, also one
    that the kernel no longer chooses because it is deprecated (RFC 4862 §5.5.4, RFC 8981 §3.4)."""


def route_to(peer: str) -> Route | None:
    """What the kernel would use now for a packet to a peer, or None where it has no way.

    An address of this machine itself is reached over the loopback interface.

    Args:
        peer: an IP address; a link-local one names its interface, as in ``"fe80::1%wlan0"``.

    Raises:
        ValueError: not an IP address. Looking names up is the caller's: it can take seconds and give many answers.
        OSError: out of file descriptors.
    """
    asked = Peer.parse(peer)
    return _ask(lambda lookup: _preferred(asked, lookup))


def routes_to(peer: str) -> list[Route]:
    """Every way to a peer, one for each interface that has one, the kernel's choice first.

    Interfaces that are down or without carrier are left out, even where the kernel would still send there: routes
    outlive an unplugged cable by seconds. Loopback is listed only if the peer is on this machine.

    Args:
        peer: as for `route_to`.

    Raises:
        ValueError: not an IP address.
        OSError: out of file descriptors.
    """
    asked = Peer.parse(peer)
    return _ask(lambda lookup: _every_way(asked, lookup))


def _ask(question: Callable[[Lookup], _Answer]) -> _Answer:
    """Asks by netlink, else by sockets. A new one each time: threads may live in different network namespaces."""
    try:
        with NetlinkLookup() as lookup:
            return question(lookup)
    except NetlinkRefused:
        return question(SocketLookup())


def _preferred(peer: Peer, lookup: Lookup) -> Route | None:
    found = lookup.preferred(peer)
    if found is None:
        return None
    try:
        return Route(socket.if_indextoname(found.index), found.index, found.source)
    except OSError:
        return None  # It vanished between two questions.


def _every_way(peer: Peer, lookup: Lookup) -> list[Route]:
    first = _preferred(peer, lookup)
    others = []
    for name, index, flags in _interfaces():
        if first is not None and index == first.index:
            if flags & _IFF_LOOPBACK:
                return [first]  # The peer is on this machine; a packet that left it by an interface would not find it.
            if not _works(name, flags):
                first = None
        elif not flags & _IFF_LOOPBACK and _works(name, flags):
            found = lookup.bound(peer, index, name)
            if found is not None:
                others.append(Route(name, found.index, found.source))
    return _with_addresses(peer, others if first is None else [first, *others])


def _with_addresses(peer: Peer, routes: list[Route]) -> list[Route]:
    if not routes:
        return []
    owned: dict[str, list[str]] = {}
    for interface, address in addresses(peer.family):
        owned.setdefault(interface, []).append(socket.inet_ntop(peer.family, address))
    return [replace(route, addresses=tuple(owned.get(route.interface, ()))) for route in routes]


def _works(interface: str, flags: int) -> bool:
    if flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP:
        # The kernel updates this flag up to a second late (linkwatch), and sends packets meanwhile.
        return _has_carrier(interface)
    return bool(flags & _IFF_UP)


def _has_carrier(interface: str) -> bool:
    """Ask the driver. This waits for the kernel's network lock, unlike the flags, so only where these are in doubt."""
    answer = array.array("I", [_ETHTOOL_GLINK, 0])
    request = struct.pack("16sP16x", os.fsencode(interface), answer.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, contextlib.suppress(OSError):
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        return answer[1] != 0
    return False


def _interfaces() -> Iterator[tuple[str, int, int]]:
    """Name, number and flags of each interface.

    By means that take no lock, unlike `socket.if_nameindex`: the kernel holds its network lock (RTNL) all through a
    change, and it is just then that we ask.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for name in _interface_names():
            request = struct.pack("=16s24x", os.fsencode(name))
            try:
                flags = struct.unpack_from("=H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)[0]
                index = struct.unpack_from("=i", fcntl.ioctl(any_socket, _SIOCGIFINDEX, request), 16)[0]
            except OSError:
                continue  # It vanished since it was listed.
            yield name, index, flags


def _interface_names() -> list[str]:
    try:
        # The calling thread's network namespace; /proc/net is that of the main thread.
        with open("/proc/thread-self/net/dev", "rb") as table:  # noqa: PTH123 (pathlib costs as much as the reading)
            return [os.fsdecode(line.split(b":", 1)[0].strip()) for line in table.readlines()[2:]]
    except OSError:
        return [name for _, name in socket.if_nameindex()]
