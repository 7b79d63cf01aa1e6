"""What happens to a connection's path, as told by ``path_changes()``. Values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whimbrel._path import Path

Reason = Literal[
    "preferred", "dead", "silent", "lossy", "restored", "requested", "returned", "rolled-back", "peer", "rebinding"
]
"""Why a connection moved.

``preferred``: the kernel would now use another network; ``dead``: the old network went away; ``silent``: nothing came
over it any more; ``lossy``: it went on losing much of what was sent; ``restored``: a network is back after an outage,
or was entered anew from another port, because it carries and the server did not follow;
``requested``: `Connection.migrate`; ``returned``: the kernel's choice answers again; ``rolled-back``: the new path
carried nothing, or, on a server, the client did not prove in time that it is there (§9.3.2).

On a server: ``peer``: the client was found at another address; ``rebinding``: at another port of the same one, as
happens when a NAT forgets (§9.3), or when the client took a new socket.
"""


@dataclass(frozen=True, slots=True)
class PathProbed:
    """The peer was asked over another network, and answered."""

    interface: str
    rtt: float
    """Of the probe and its answer, seconds."""


@dataclass(frozen=True, slots=True)
class PathMigrated:
    """The connection uses another path from now on (RFC 9000 §9).

    On a server this comes with the first packet from the new address, when ``new.validated`` is False still.
    """

    old: Path
    new: Path
    reason: Reason
    silence: float
    """Seconds since the last packet came over the old path."""
    linkable: bool = False
    """Whether an observer of both networks could link them: the peer had left no spare connection ID (§9.5)."""


@dataclass(frozen=True, slots=True)
class PathRejected:
    """Another network was considered and not used."""

    interface: str
    reason: Literal["no-answer", "no-route", "migration-disabled", "connection-ids-exhausted", "lossy"]
    """``lossy``: it was asked several times, because a path had lost much, and did not always answer."""


@dataclass(frozen=True, slots=True)
class NetworkLost:
    """No network leads to the peer. The connection holds on for ``Migration.outage`` seconds."""


@dataclass(frozen=True, slots=True)
class NetworkRestored:
    """A network leads to the peer again."""

    interface: str
    outage: float
    """Seconds without any."""


PathChange = PathProbed | PathMigrated | PathRejected | NetworkLost | NetworkRestored
