"""What is left where netlink is refused: sockets tell the way (SocketLookup), and a clock when to ask (PolledNews).

A UDP socket that is connected to a peer, and never used, has the source address that the kernel would choose. The
interface is then whichever owns that address: a guess where two of them do, as two modems may. That, and a route whose
source address is another interface's, only netlink answers for certain.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from time import monotonic as _clock
from typing import Self

from whimbrel.network._lookup import Found, Peer

POLL_INTERVAL = 0.25
"""Seconds between questions, each some 100 us of work."""

_SIOCGIFCONF = 0x8912
_SO_BINDTODEVICE = 25  # Unprivileged since Linux 5.7.
_PORT = 443  # Nothing is sent there. The likeliest one, in case an `ip rule` routes by port.
_RTF_UP, _RTF_REJECT = 0x0001, 0x0200


class SocketLookup:
    """Asks the kernel by connecting UDP sockets that send nothing."""

    def preferred(self, peer: Peer) -> Found | None:
        """The kernel's own choice for a packet to the peer."""
        source = _source(peer)
        if source is None:
            return None
        packed = socket.inet_pton(peer.family, source)
        if packed == peer.packed and not peer.scope:
            return Found(socket.if_nametoindex("lo"), source)
        owners = [interface for interface, address in addresses(peer.family) if address == packed]
        for interface in owners:
            if len(owners) == 1 or _source(peer, interface) == source:
                return Found(socket.if_nametoindex(interface), source)
        return None

    def bound(self, peer: Peer, index: int, interface: str) -> Found | None:
        """What a packet that must leave by one interface would use; None where no route leads that way."""
        if peer.scope and peer.scope_index != index:
            return None
        if peer.family == socket.AF_INET and not _has_route(peer, interface):
            # Without this, any peer would do: on an interface named to it, the kernel takes strangers for neighbours.
            return None
        source = _source(peer, interface)
        return None if source is None else Found(index, source)


class PolledNews:
    """News by the clock: every `interval` seconds something may have changed."""

    interval: float | None = POLL_INTERVAL
    """Seconds after which to call `drain`, since there is no file descriptor to wait for."""

    def __init__(self) -> None:
        self._last = _clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int | None:
        """None: nothing to wait for but time."""
        return None

    def drain(self) -> bool:
        """Whether it is time to ask again."""
        now = _clock()
        due = now - self._last >= POLL_INTERVAL
        if due:
            self._last = now
        return due

    def close(self) -> None:
        """Nothing is held open."""


def _source(peer: Peer, interface: str = "") -> str | None:
    """The source address of a socket connected to the peer, by one interface if named; None if there is no way."""
    address: tuple[str, int] | tuple[str, int, int, int]
    if peer.family == socket.AF_INET:
        address = (socket.inet_ntop(peer.family, peer.packed), _PORT)
    elif peer.scope_index < 0:
        return None
    else:
        address = (socket.inet_ntop(peer.family, peer.packed), _PORT, 0, peer.scope_index)
    try:
        asking = socket.socket(peer.family, socket.SOCK_DGRAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None  # A kernel without IPv6.
        raise
    with asking:
        try:
            if interface:
                asking.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, os.fsencode(interface))
            asking.connect(address)
            source: str = asking.getsockname()[0]
        except OSError:
            return None
        return source


def addresses(family: socket.AddressFamily) -> list[tuple[str, bytes]]:
    """The interfaces' addresses: pairs of name and packed address."""
    if family == socket.AF_INET6:
        rows = [line.split() for line in _table("if_inet6")]
        return [(row[5], bytes.fromhex(row[0])) for row in rows]
    record = struct.calcsize("=16sHH4s16x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        room = 64
        while True:
            records = array.array("B", bytes(room * record))
            asked = struct.pack("@iP", len(records), records.buffer_info()[0])
            length: int = struct.unpack("@iP", fcntl.ioctl(any_socket, _SIOCGIFCONF, asked))[0]
            if length < len(records):
                break
            room *= 2
    # An address may carry a label such as "eth0:1"; no interface has a colon in its name.
    return [
        (os.fsdecode(name.rstrip(b"\0")).partition(":")[0], address)
        for name, _, _, address in struct.iter_unpack("=16sHH4s16x", records.tobytes()[:length])
    ]


def _has_route(peer: Peer, interface: str) -> bool:
    """Whether the main table has an IPv4 route to the peer by this interface."""
    destination = int.from_bytes(peer.packed, "big")
    for line in _table("route")[1:]:
        name, network, _, flags, _, _, _, mask, *_ = line.split()
        if name == interface and int(flags, 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP:
            bits = _from_native(mask)
            if destination & bits == _from_native(network):
                return True
    return False


def _from_native(word: str) -> int:
    """The tables print addresses as the machine's integers whose bytes are in network order."""
    return socket.ntohl(int(word, 16))


def _table(name: str) -> list[str]:
    """A table of the calling thread's network namespace; /proc/net is that of the main thread."""
    try:
        with open(f"/proc/thread-self/net/{name}", encoding="utf-8", errors="surrogateescape") as table:  # noqa: PTH123
            return table.readlines()
    except OSError:
        return []  # if_inet6 is missing where IPv6 is.
