"""Paths: which addresses a connection uses together. Values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Path:
    """A local and a remote address in use together (RFC 9000 §9), as they were when it was asked for."""

    local: Address
    remote: Address
    interface: str | None
    """The network interface that packets leave by; ``None`` where the kernel chooses for each packet."""
    validated: bool
    """Whether the peer is known to be reachable over it: a packet came back. On a server, after its client has moved,
    not before that has answered a challenge (§8.2)."""
    rtt: float
    """Smoothed round-trip time, seconds."""
    mtu: int
    """Largest UDP payload sent on it, bytes."""
    since: float
    """When it became the active path, on the clock of `time.monotonic`."""
