"""Whose judgement a connection follows: whimbrel's, or that of the program. Decides only between the two.

A program's policy is code that nobody here has tested, on a thread that all connections share. So it is asked only when
it may act, it cannot keep that thread busy, and when it fails, whimbrel's own judgement takes over where it left off.
"""

from __future__ import annotations

import logging
import math
from dataclasses import astuple
from typing import TYPE_CHECKING, Final

from whimbrel._policy import MigrationPolicy
from whimbrel._policy_words import (
    Accepted,
    Action,
    Event,
    Facts,
    Hold,
    Migrate,
    MoveCancelled,
    MoveRequested,
    Refuse,
    Resume,
    RoutesChanged,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whimbrel._config import Migration
    from whimbrel.network import Route
    from whimbrel.policy import Policy

logger = logging.getLogger("whimbrel")

LEAST_PAUSE: Final = 0.001
"""Seconds to the next tick at least: a deadline that stays in the past must not keep the thread busy."""


def policy_for(settings: Migration, active: Route | None, peer: str) -> MigrationPolicy | OwnPolicy:
    """What decides about a new connection's path.

    Args:
        settings: of the connection.
        active: the route in use.
        peer: for the log.
    """
    return MigrationPolicy(settings, active) if settings.policy is None else OwnPolicy(settings, active, peer)


class OwnPolicy:
    """A program's policy, until it fails. To the driver it is like `MigrationPolicy`."""

    def __init__(self, settings: Migration, active: Route | None, peer: str) -> None:
        assert settings.policy is not None, "made only where there is one"
        self.active = active
        self.routes: tuple[Route, ...] = () if active is None else (active,)
        self.deadline: float | None = None
        self._settings = settings
        self._peer = peer
        self._programs: Policy = settings.policy(settings, active)
        self._whimbrels = MigrationPolicy(settings, active)
        self._failed = False
        self._begun = False
        self._request: MoveRequested | None = None  # not answered yet

    def handle(self, event: Event, facts: Facts, now: float) -> list[Action]:
        """Take in one event and say what to do, in this order."""
        if isinstance(event, RoutesChanged):
            # Routes are equal whatever their interfaces' names and other addresses, which count as news here.
            if self._begun and [astuple(r) for r in event.routes] == [astuple(r) for r in self.routes]:
                return []
            self.routes = event.routes
        elif isinstance(event, MoveRequested):
            self._request = event
        elif isinstance(event, MoveCancelled):
            self._request = None
        if not facts.confirmed:
            return []
        events: list[Event] = [event]
        if not self._begun:
            self._begun = True
            events = self._so_far() + ([] if isinstance(event, RoutesChanged | MoveRequested) else [event])
        actions: list[Action] = []
        for each in events:
            actions += self._note(self._ask(each, facts, now))
        return actions

    def _so_far(self) -> list[Event]:
        """What whoever decides from now on has to know."""
        return [RoutesChanged(self.routes), *([] if self._request is None else [self._request])]

    def _ask(self, event: Event, facts: Facts, now: float) -> list[Action]:
        if self._failed:
            actions = self._whimbrels.handle(event, facts, now)
            self.deadline = self._whimbrels.deadline
            return actions
        try:
            actions = _checked(self._programs.handle(event, facts, now), facts)
            self.deadline = _later(self._programs.deadline, now + LEAST_PAUSE)
        except Exception:
            logger.exception("%s: its policy failed; from now on whimbrel decides", self._peer)
            return self._take_over(facts, now)
        return actions

    def _take_over(self, facts: Facts, now: float) -> list[Action]:
        self._failed = True
        self._whimbrels = MigrationPolicy(self._settings, self.active)
        # Where there is a way, it moves there at once from none; but it does not know that the clock stands still.
        actions: list[Action] = [Resume(self.routes[0])] if self.active is None and self.routes else []
        for event in self._so_far():
            actions += self._ask(event, facts, now)
        return actions

    def _note(self, actions: list[Action]) -> list[Action]:
        for action in actions:
            match action:
                case Migrate(route) | Resume(route):
                    self.active = route
                case Hold():
                    self.active = None
                case Accepted() | Refuse():
                    self._request = None
                case _:
                    pass
        return actions


def _checked(actions: Sequence[Action], facts: Facts) -> list[Action]:
    for action in actions:
        if not isinstance(action, Action):
            raise TypeError(f"a policy answered {action!r}, which is no action")
        # RFC 9000 §18.2: disable_active_migration is no wish that could be weighed.
        if isinstance(action, Migrate) and facts.peer_forbids:
            raise RuntimeError(f"a policy moves to {action.route.interface}, and the peer forbids it")
    return list(actions)


def _later(deadline: float | None, least: float) -> float | None:
    if deadline is None or deadline == math.inf:
        return None
    if not math.isfinite(deadline):
        raise ValueError(f"a policy's deadline is {deadline}, which no clock will show")
    return max(deadline, least)
