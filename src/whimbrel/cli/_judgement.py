"""What a connection would do when the network changes: the policy is asked, and its answer put into words.

Shared by ``whimbrel watch``, which knows the network alone, and ``whimbrel doctor``, which knows the server as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whimbrel._config import Migration
from whimbrel._policy import MigrationPolicy
from whimbrel._policy_words import Hold, Migrate, Probe, ProbeAnswered, Resume, RoutesChanged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whimbrel._policy_words import Action
    from whimbrel.network import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the policy knows of a connection; by default one whose server allows all and answers."""

    peer_forbids: bool = False
    spare_ids: int = 1
    rtt: float = 0.05
    heard: float = 0.0
    reached: float = 0.0
    flowing: float = math.inf
    due: bool = False
    confirmed: bool = True
    packets_sent: int = 0
    packets_lost: int = 0

    @property
    def pto(self) -> float:
        return 3 * self.rtt

    @property
    def best_rtt(self) -> float:
        return self.rtt


def first_step(routes: Sequence[Route]) -> tuple[str, str]:
    """What a connection that starts now would do: a word for programs and a sentence."""
    if not routes:
        return "hold", "no way there: would wait for a network"
    return "connect", f"would connect over {routes[0].interface}"


def next_step(before: Sequence[Route], now: Sequence[Route], standing: Standing = Standing()) -> tuple[str, str]:
    """What a connection on the first of the former routes would do: a word for programs and a sentence."""
    policy = MigrationPolicy(Migration(), before[0] if before else None)
    policy.handle(RoutesChanged(tuple(before)), standing, 0.0)
    actions = policy.handle(RoutesChanged(tuple(now)), standing, 1.0)
    for action in actions:
        match action:
            case Resume(route):
                return "resume", f"would go on over {route.interface}"
            case Hold():
                return "hold", _holding(before, now, standing)
            case Migrate(route):
                return "move", _moving(before[0], route, now, standing)
            case Probe(route):
                moves = policy.handle(ProbeAnswered(route, standing.rtt), standing, 1.0 + standing.rtt)
                return "probe", _probing(route, moves)
            case _:
                pass
    where = before[0].interface if before else "nothing"
    forbidden = standing.peer_forbids and bool(now) and now[0] != before[0]
    return "stay", f"would stay on {where}{': the server forbids moving' if forbidden else ''}"


def _holding(before: Sequence[Route], now: Sequence[Route], standing: Standing) -> str:
    if standing.peer_forbids and before:
        return f"would hold on until {before[0].interface} is back: the server forbids moving"
    assert not now, "a network that may be used is used"
    return "would hold on until there is a network"


def _moving(old: Route, new: Route, now: Sequence[Route], standing: Standing) -> str:
    linkable = "" if standing.spare_ids else ", with the old connection ID (the server leaves no spare one)"
    if new.interface == old.interface:
        return f"would move at once{linkable}: {old.source} is gone from {old.interface}"
    gone = f"{old.source} is gone from {old.interface}"
    if all(route.interface != old.interface for route in now):
        gone = f"{old.interface} is gone"
    return f"would move at once to {new.interface}{linkable}: {gone}"


def _probing(route: Route, then: Sequence[Action]) -> str:
    if any(isinstance(action, Migrate) for action in then):
        return f"would probe {route.interface}, then move"
    return f"would probe {route.interface}, then wait for a spare connection ID before it moves"
