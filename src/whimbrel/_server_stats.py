"""What a server has counted. Values, no behaviour."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from whimbrel import _core


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStats:
    """What a server has done so far: plain numbers, taken at one moment."""

    connections: int
    """Standing now, their handshake complete."""
    accepted: int
    """Newcomers let in, whatever became of them."""
    refused: int
    """Newcomers told to go away (CONNECTION_REFUSED): there were too many, or the server was closing."""
    retried: int
    """Newcomers asked to prove their address first (Retry, RFC 9000 §8.1.2)."""
    handshakes_failed: int
    """Of those accepted and ended since: their handshake was never complete."""
    moves: int
    """How often a client was found at another address, or was not found there after all."""
    datagrams_received: int
    """UDP datagrams, of all connections and of none."""
    datagrams_sent: int
    bytes_received: int
    """UDP payload."""
    bytes_sent: int
    dropped: Mapping[str, int]
    """Datagrams that belonged to no connection, by reason: ``malformed``; ``unknown-connection``; ``small-initial``, an
    Initial in less than 1200 bytes (§14.1); ``unknown-version``, in less than that; ``invalid-token``, of another
    address or too old, which is told."""
    version_negotiations: int
    """Answers to versions that are not spoken (§6)."""
    stateless_resets: int
    """Answers to packets of connections that are not known any more (§10.3)."""
    connected_sockets: int
    """Open now for one client each: see ``serve(sockets="connected")``."""


def server_stats(endpoint: _core.Endpoint, connections: int) -> ServerStats:
    """The core's counts, and how many connections stand."""
    now = endpoint.server_stats()
    return ServerStats(
        connections=connections,
        accepted=now.accepted,
        refused=now.refused,
        retried=now.retried,
        handshakes_failed=now.handshakes_failed,
        moves=now.moves,
        datagrams_received=now.datagrams_received,
        datagrams_sent=now.datagrams_sent,
        bytes_received=now.bytes_received,
        bytes_sent=now.bytes_sent,
        dropped=now.dropped,
        version_negotiations=now.version_negotiations,
        stateless_resets=now.stateless_resets,
        connected_sockets=now.connected_sockets,
    )


def summed(stats: Sequence[ServerStats]) -> ServerStats:
    """What several servers have done together."""
    dropped: Counter[str] = Counter()
    for each in stats:
        dropped.update(each.dropped)
    counts = (field.name for field in fields(ServerStats) if field.name != "dropped")
    return ServerStats(**{name: sum(getattr(each, name) for each in stats) for name in counts}, dropped=dict(dropped))
