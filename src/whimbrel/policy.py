"""Deciding for oneself when a connection moves: what `whimbrel.Migration.policy` makes, and the words that it speaks.

    class StayUntilTold(Policy):
        def __init__(self, settings, active):
            self.deadline = None

        def handle(self, event, facts, now):
            match event:
                case MoveRequested(route) if route is not None:
                    return [Migrate(route, "requested"), Accepted(route)]
                case MoveRequested():
                    return [Refuse("no-route")]
            return []

    whimbrel.connect(..., migration=Migration(policy=StayUntilTold))

Events and facts go in, actions come out, and the driver carries them out, in their order. It is called on whimbrel's
control thread, never on an event loop, and must not wait there: the process's other connections would, too.

Whoever wants to change but a little derives from `MigrationPolicy`, whimbrel's own judgement, and looks at what goes
into its `handle` or comes out of it. How it judges may change with each version; the words do not but for a good
reason, which the changelog says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from whimbrel._policy import MigrationPolicy
from whimbrel._policy_words import (
    Accepted,
    Action,
    ApplicationWrote,
    ControlProbe,
    Event,
    Facts,
    GiveUp,
    Hold,
    Migrate,
    MoveCancelled,
    MoveRequested,
    Ping,
    Probe,
    ProbeAnswered,
    Refuse,
    Report,
    Resume,
    RoutesChanged,
    SendFailed,
    ServerSilent,
    Tick,
    Woke,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Accepted",
    "Action",
    "ApplicationWrote",
    "ControlProbe",
    "Event",
    "Facts",
    "GiveUp",
    "Hold",
    "Migrate",
    "MigrationPolicy",
    "MoveCancelled",
    "MoveRequested",
    "Ping",
    "Policy",
    "Probe",
    "ProbeAnswered",
    "Refuse",
    "Report",
    "Resume",
    "RoutesChanged",
    "SendFailed",
    "ServerSilent",
    "Tick",
    "Woke",
]


class Policy(Protocol):
    """Decides about the path of one connection.

    What is guaranteed:

    - Nothing is asked before the handshake is confirmed, since nothing may move before (RFC 9000 §9). What happened
      until then is told first: the routes, and a waiting `MoveRequested`.
    - `RoutesChanged` brings the routes in the order of preference, that of ``Migration.prefer`` included. Its first
      comes at once; the same routes are not told twice in a row.
    - One `MoveRequested` at a time. `Connection.migrate` waits until it is answered, by `Accepted` or `Refuse`.
    - A policy that raises, or moves where the peer forbids it (`Facts.peer_forbids`, RFC 9000 §18.2), is asked no more:
      that is logged as an error, and whimbrel's own judgement takes over.
    """

    deadline: float | None
    """When to hand in a `Tick` at the latest, on the clock of ``now``; None: never. Looked at after each `handle`, and
    taken for a millisecond later than that at least."""

    def handle(self, event: Event, facts: Facts, now: float) -> Sequence[Action]:
        """Take in one event and say what to do, in this order.

        Args:
            event: what happened.
            facts: what the engine knows at this moment.
            now: seconds, on the clock of `time.monotonic`; never goes back.
        """
