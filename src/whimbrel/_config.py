"""What a caller may choose, each default with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whimbrel.network import Route
    from whimbrel.policy import Policy

Sockets = Literal["pinned", "unconnected", "connected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """How a client's connection follows the machine from network to network.

    Raises:
        ValueError: a duration is not positive, the mode is unknown, or two settings contradict each other.
    """

    sockets: Sockets = "pinned"
    """``pinned``: each packet names interface and source address, the library decides (unlinkable, RFC 9000 §9.5);
    ``unconnected``: the kernel routes each packet; ``connected``: a new connected socket for each path."""
    auto: bool = True
    """Watch the network and act. With ``False``, ``unconnected`` leaves all to the kernel, the others to `migrate`."""
    outage: float = 60.0
    """Seconds without any network to hold on. The peer's idle timeout may end it sooner (RFC 9000 §10.1)."""
    silence: float = 0.2
    """Seconds without a packet, while one is due, before asking (PING). Chromium's network stack waits as long.
    Where packets came in an unbroken flow, an eighth of it is a break to ask about, if that is two round trips."""
    prefer: Sequence[str] = ()
    """Names of interfaces, the favourite first, matched as by a shell: ``["wlan*", "wwan*"]``. The kernel's preference
    orders those that match the same name, and then those that match none. No interface is avoided: with its betters
    gone or silent, the last one is used. `Connection.migrate` goes elsewhere all the same. Pinned sockets only."""
    metered: Sequence[str] = ()
    """Names of interfaces whose use costs, matched likewise: ``["wwan*"]``. They come after all others in the order of
    preference, are asked in a silence when no other network answers, and never taken because another loses packets.
    Linux itself knows of no such mark, only daemons like NetworkManager do, so whoever knows has to say. Pinned sockets
    only."""
    max_time_on_non_default: float = math.inf
    """Seconds after which the preferred network (the kernel's default, but for `prefer` and `metered`) is asked again
    whatever led away from it, and returned to when it answers. Without bound, what `Connection.migrate` chose lasts
    until the network changes, and a network that lost many packets is tried again after pauses that grow to ten
    minutes. One that does not answer is not returned to, however long that takes. The name is Cronet's, which lets
    such connections end; here they go on where they are."""
    policy: Callable[[Migration, Route | None], Policy] | None = None
    """Makes, for each connection, what decides about its path instead of whimbrel's own judgement: called with these
    settings and with the route in use. See `whimbrel.policy`. Not for unconnected sockets, which the kernel moves."""

    def __post_init__(self) -> None:
        if self.sockets not in ("pinned", "unconnected", "connected"):
            raise ValueError(f"sockets must be 'pinned', 'unconnected' or 'connected', not {self.sockets!r}")
        if not self.outage > 0 or not self.silence > 0:
            raise ValueError("outage and silence are seconds, and more than 0")
        if not self.max_time_on_non_default > 0:
            raise ValueError("max_time_on_non_default is seconds, and more than 0")
        for option in ("prefer", "metered"):
            names = getattr(self, option)
            if isinstance(names, str) or not all(names):
                raise ValueError(f"{option} is a sequence of names such as ['wlan*', 'wwan*'], not {names!r}")
            object.__setattr__(self, option, tuple(names))
            if names and self.sockets != "pinned":
                text = f"{option} needs sockets='pinned': with {self.sockets!r} the kernel's preference counts"
                raise ValueError(text)
        if self.policy is not None and self.sockets == "unconnected":
            raise ValueError("policy needs sockets='pinned' or 'connected': the kernel moves unconnected ones")
        if self.policy is not None and not self.auto:
            raise ValueError("with auto=False nobody decides: give a policy, or auto=False, not both")

    def _in_order(self, routes: Sequence[Route]) -> Sequence[Route]:
        """Ways to a peer, the favourite first, when they come as the kernel prefers them."""
        if not self.prefer and not self.metered:
            return routes
        return sorted(routes, key=lambda route: self._rank(route.interface))

    def _rank(self, interface: str) -> tuple[bool, int]:
        matching = (rank for rank, pattern in enumerate(self.prefer) if fnmatchcase(interface, pattern))
        return self._is_metered(interface), next(matching, len(self.prefer))

    def _is_metered(self, interface: str) -> bool:
        return any(fnmatchcase(interface, pattern) for pattern in self.metered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a connection may hold in memory, and a server in all: bytes and counts.

    Raises:
        ValueError: a bound is not positive.
    """

    stream_window: int = 8 << 20
    """Bytes a peer may send on one stream before they are read: 500 Mbit/s at 130 ms."""
    connection_window: int = 16 << 20
    """The same for all streams together, at most. A client begins each path with 512 KiB under way, and follows what
    comes, so that queues stay short."""
    max_streams: int = 100
    """Streams of each kind that the peer may have open at once: as many as RFC 9114 §6.1 asks for. The engine keeps a
    place for each of them, so that an idle connection takes 25 KiB more with 256 (27 in all, or 53)."""
    send_buffer: int = 8 << 20
    """Bytes written and not yet acknowledged before `write` waits."""
    max_connections: int = 10_000
    """Of a server, handshakes included; newcomers beyond are refused (CONNECTION_REFUSED, RFC 9000 §20.1) and counted.
    An idle one takes tens of kilobytes, so that these fit into a gigabyte. Clients make no use of it."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")
