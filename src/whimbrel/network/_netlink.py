"""Netlink, the Linux kernel's way to ask about networks (NetlinkLookup) and to be told (NetlinkNews). No privileges.

What the kernel tells is never parsed: any message means "ask again". What it answers is one small message, of which
the interface and the source address are read.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Self

from whimbrel.network._lookup import Found, NetlinkRefused, Peer

# Numbers from linux/netlink.h and linux/rtnetlink.h, part of the kernel's stable interface.
_NETLINK_ROUTE = 0
_NLMSG_ERROR = 2
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST = 1
_RTN_UNICAST, _RTN_MULTICAST = 1, 5  # The types in between lead somewhere as well; those beyond refuse (unreachable …).
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_PREFSRC, _RTA_IP_PROTO, _RTA_DPORT = 1, 2, 4, 7, 27, 29
_RTM_F_FIB_MATCH = 0x2000

_GROUPS = sum(
    1 << group - 1
    for group in (
        1,  # RTNLGRP_LINK: interfaces come, go, go up and down
        5,  # RTNLGRP_IPV4_IFADDR
        7,  # RTNLGRP_IPV4_ROUTE
        8,  # RTNLGRP_IPV4_RULE
        9,  # RTNLGRP_IPV6_IFADDR
        11,  # RTNLGRP_IPV6_ROUTE
        19,  # RTNLGRP_IPV6_RULE
        32,  # RTNLGRP_NEXTHOP: routes may refer to them (Linux 5.3)
    )
)

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ROUTE = struct.Struct("=8BI")  # struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr

# VPNs route by user, protocol or port (`ip rule`), so the question is about the packets that we would send. HTTPS is
# the likeliest port; a rule about another one is not worth a parameter of every function here.
_PROTOCOL, _PORT = b"\x11", struct.pack("!H", 443)

_NO_WAY = frozenset(
    (
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EACCES,  # a "prohibit" route
        errno.EINVAL,  # a "blackhole" route; an address that cannot be sent to
        errno.ENODEV,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
    )
)


class NetlinkLookup:
    """Looks a peer up in the kernel's routing tables. It takes no lock in the kernel, and never waits.

    Raises:
        NetlinkRefused: here, or from the first question.
    """

    def __init__(self) -> None:
        self._socket = _open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def preferred(self, peer: Peer) -> Found | None:
        """The kernel's own choice for a packet to the peer."""
        # A link-local peer is on its interface or nowhere, and the kernel is strict about that.
        return self._ask(peer, index=peer.scope_index)

    def bound(self, peer: Peer, index: int, interface: str) -> Found | None:
        """What a packet that must leave by one interface would use; None where no route leads that way.

        IPv6 is strict about the interface as long as the source address is open, and so is an IPv6 socket bound to
        the interface. (A packet that names both by IPV6_PKTINFO is not: it leaves by another interface whose route
        has a better metric. Linux 6.18.)

        IPv4 takes any peer for a neighbour on an interface that is named, if no route says otherwise: so the tables
        must have an entry. The question about it names the source address, as the pinned packet will, and so finds
        the ways that exist for one address only (`ip rule add from …`).
        """
        if peer.scope and peer.scope_index != index:
            return None
        found = self._ask(peer, index=index)
        if found is None or peer.family == socket.AF_INET6:
            return found
        return found if self._answer(peer, index, found.source, _RTM_F_FIB_MATCH) is not None else None

    def _ask(self, peer: Peer, *, index: int) -> Found | None:
        answer = self._answer(peer, index) or {}
        interface, source = answer.get(_RTA_OIF), answer.get(_RTA_PREFSRC)
        if interface is None or source is None:
            return None  # No way, or no address at all that could be the source.
        return Found(struct.unpack("=i", interface)[0], socket.inet_ntop(peer.family, source))

    def _answer(self, peer: Peer, index: int, source: str = "", flags: int = 0) -> dict[int, bytes] | None:
        """The attributes of the route found, or None where there is none."""
        if index < 0:
            return None
        bits = len(peer.packed) * 8
        request = _ROUTE.pack(peer.family, bits, bits if source else 0, 0, 0, 0, 0, 0, flags)
        request += _attribute(_RTA_DST, peer.packed)
        request += _attribute(_RTA_IP_PROTO, _PROTOCOL) + _attribute(_RTA_DPORT, _PORT)
        if index:
            request += _attribute(_RTA_OIF, struct.pack("=i", index))
        if source:
            request += _attribute(_RTA_SRC, socket.inet_pton(peer.family, source))
        header = _HEADER.pack(_HEADER.size + len(request), _RTM_GETROUTE, _NLM_F_REQUEST, 0, 0)
        try:
            # The kernel answers within the call that asks. An answer that is not there now will never be.
            self._socket.sendto(header + request, (0, 0))
            return _attributes(self._socket.recv(8192, socket.MSG_DONTWAIT))
        except OSError as error:
            raise NetlinkRefused(str(error)) from error


class NetlinkNews:
    """A subscription to all that could change a route: links, addresses, routes, rules, IPv4 and IPv6.

    Raises:
        NetlinkRefused: use `PolledNews`.
        OSError: out of file descriptors.
    """

    interval: float | None = None
    """None: wait until the file descriptor is readable."""

    def __init__(self) -> None:
        self._socket = _open()
        try:
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            self._socket.close()
            raise NetlinkRefused(str(error)) from error
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Throws away what came. Returns whether anything did, that is whether to ask again."""
        heard = False
        while True:
            try:
                self._socket.recv(1)  # The rest of a message goes with its first byte.
            except BlockingIOError:
                return heard
            except OSError as error:
                # ENOBUFS: there was more news than the socket holds, and some is lost. What was lost said "ask again".
                if error.errno != errno.ENOBUFS:
                    raise
            heard = True

    def close(self) -> None:
        """Ends the subscription. May be called twice."""
        self._socket.close()


def _open() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
            raise  # Other kinds of socket would not fare better.
        raise NetlinkRefused(str(error)) from error


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(answer: bytes) -> dict[int, bytes] | None:
    """Reads the answer to RTM_GETROUTE; None where it says that there is no way.

    Raises:
        OSError: the kernel did not understand the question, or we not the answer.
    """
    try:
        length, kind, *_ = _HEADER.unpack_from(answer)
        if kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
            if code in _NO_WAY:
                return None
            raise OSError(code, os.strerror(code))
        route_type = _ROUTE.unpack_from(answer, _HEADER.size)[7]
        if kind != _RTM_NEWROUTE or length > len(answer):
            raise OSError(errno.EBADMSG, "not an answer to RTM_GETROUTE")
        if not _RTN_UNICAST <= route_type <= _RTN_MULTICAST:
            return None
        attributes = {}
        offset = _HEADER.size + _ROUTE.size
        while offset + _ATTRIBUTE.size <= length:
            size, name = _ATTRIBUTE.unpack_from(answer, offset)
            if size < _ATTRIBUTE.size:
                raise OSError(errno.EBADMSG, "an attribute shorter than its header")
            attributes[name] = answer[offset + _ATTRIBUTE.size : offset + size]
            offset += size + 3 & ~3
    except struct.error as error:
        raise OSError(errno.EBADMSG, str(error)) from error
    return attributes
