"""The words in which a policy is asked and answers: facts and events go in, actions come out. Values, no behaviour.

`_steering.py` says the events and carries the actions out. `whimbrel.policy` hands them to programs that decide for
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from whimbrel._events import PathChange, Reason

if TYPE_CHECKING:
    from whimbrel.network import Route

RefusalSlug = Literal["migration-disabled", "no-route", "no-answer", "connection-ids-exhausted"]


# Facts ---------------------------------------------------------------------------------------------------------------


class Facts(Protocol):
    """What the engine knows at the moment of the call. Seconds, on the same clock as ``now``."""

    @property
    def heard(self) -> float: ...  # when an authenticated packet last came over the active path, but for …
    @property
    def reached(self) -> float: ...  # … probing packets (RFC 9000 §9.1), or with them; -inf: none yet
    @property
    def flowing(self) -> float: ...  # since when they have come without a pause; inf: they do not
    @property
    def due(self) -> bool: ...  # streams are open or data is unacknowledged: something is expected
    @property
    def rtt(self) -> float: ...
    @property
    def pto(self) -> float: ...  # of the active path, before any back-off
    @property
    def spare_ids(self) -> int: ...
    @property
    def peer_forbids(self) -> bool: ...  # disable_active_migration, or zero-length connection IDs
    @property
    def confirmed(self) -> bool: ...  # the handshake is (RFC 9001 §4.1.2)
    @property
    def best_rtt(self) -> float: ...  # smallest known to this peer, on any path
    @property
    def packets_sent(self) -> int: ...  # on all paths so far …
    @property
    def packets_lost(self) -> int: ...  # … and of these, how many are taken for lost (RFC 9002 §6)


# Events --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoutesChanged:
    """These lead to the peer now, the kernel's choice first; none: no network."""

    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class SendFailed:
    """The kernel refused a packet on this route."""

    route: Route
    errno: int


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """The server answered a probe over this route."""

    route: Route
    rtt: float


@dataclass(frozen=True, slots=True)
class ServerSilent:
    """The answer to `ControlProbe`: none, although data came over this route at the same time."""

    route: Route


@dataclass(frozen=True, slots=True)
class MoveRequested:
    """The application called ``migrate()``; without a route, to the kernel's choice."""

    route: Route | None


@dataclass(frozen=True, slots=True)
class MoveCancelled:
    """Nobody waits for that move any more."""


@dataclass(frozen=True, slots=True)
class ApplicationWrote:
    """The application opened a stream, or wrote after quiet: an answer is newly expected."""


@dataclass(frozen=True, slots=True)
class Woke:
    """The machine was suspended for so many seconds, which ``now`` does not count."""

    slept: float


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline has come, or the facts have changed."""


Event = (
    RoutesChanged
    | SendFailed
    | ProbeAnswered
    | ServerSilent
    | MoveRequested
    | MoveCancelled
    | ApplicationWrote
    | Woke
    | Tick
)


# Actions -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """Send one version-negotiation probe over this route."""

    route: Route


@dataclass(frozen=True, slots=True)
class ControlProbe:
    """Send probes over this route, which works: does the server answer any? Say so within `CONTROL_WAIT`."""

    route: Route


@dataclass(frozen=True, slots=True)
class Migrate:
    """Send over this route from now on, with the next connection ID and from a new local port, and report it.

    But taken back ("rolled-back"), a move ends on the port that was left.
    """

    route: Route
    reason: Reason
    rest: float = field(default=0.0, compare=False)
    """Send nothing for so long before, seconds: what was sent over the old path is to arrive first."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Send a PING over the active path."""


@dataclass(frozen=True, slots=True)
class Hold:
    """There is no network: stop the engine's clock and send nothing."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Start the clock again; packets leave by this route."""

    route: Route


@dataclass(frozen=True, slots=True)
class Accepted:
    """``migrate()`` is done: this is the active route."""

    route: Route


@dataclass(frozen=True, slots=True)
class Refuse:
    """``migrate()`` failed; the slug of the error to raise."""

    slug: RefusalSlug


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The outage lasted too long: end the connection with OutageTimeout."""


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the application."""

    change: PathChange


Action = Probe | ControlProbe | Migrate | Ping | Hold | Resume | Accepted | Refuse | GiveUp | Report
