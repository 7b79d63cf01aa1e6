"""`Migration`: which settings go together, and the order that `prefer` asks for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest

from tests.unit.test_policy import CELLULAR, WIFI, Known
from whimbrel import Migration
from whimbrel._own_policy import OwnPolicy, policy_for
from whimbrel._policy import MigrationPolicy
from whimbrel.network import Route
from whimbrel.policy import (
    Accepted,
    Action,
    Event,
    Facts,
    Hold,
    Migrate,
    MoveCancelled,
    MoveRequested,
    Ping,
    Policy,
    Probe,
    Refuse,
    Resume,
    RoutesChanged,
    Tick,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CABLE = Route("eth0", 4, "10.3.0.2")
MODEM = Route("wwan1", 5, "10.4.0.2")


# prefer ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ([], [CABLE, CELLULAR, WIFI, MODEM]),
        (["wlan*", "wwan*"], [WIFI, CELLULAR, MODEM, CABLE]),
        (["wwan1", "wwan*"], [MODEM, CELLULAR, CABLE, WIFI]),
        (["tun*"], [CABLE, CELLULAR, WIFI, MODEM]),
        (["*"], [CABLE, CELLULAR, WIFI, MODEM]),
        (["WLAN*"], [CABLE, CELLULAR, WIFI, MODEM]),
    ],
    ids=str,
)
def test_names_order_the_routes_and_the_kernel_does_what_they_leave_open(
    prefer: list[str], expected: list[Route]
) -> None:
    assert list(Migration(prefer=prefer)._in_order([CABLE, CELLULAR, WIFI, MODEM])) == expected


def test_what_is_preferred_does_not_change_with_the_list_that_was_given() -> None:
    names = ["wlan*"]
    settings = Migration(prefer=names)
    names.append("wwan*")
    assert settings.prefer == ("wlan*",)
    assert hash(settings) == hash(Migration(prefer=("wlan*",)))


@pytest.mark.parametrize("prefer", ["wlan*", [""]])
def test_a_name_alone_and_an_empty_one_are_refused(prefer: str | list[str]) -> None:
    with pytest.raises(ValueError, match="sequence of names"):
        Migration(prefer=prefer)


@pytest.mark.parametrize("sockets", ["unconnected", "connected"])
def test_only_pinned_sockets_can_prefer(sockets: Literal["unconnected", "connected"]) -> None:
    with pytest.raises(ValueError, match="pinned"):
        Migration(sockets=sockets, prefer=["wlan*"])


# metered, max_time_on_non_default ---------------------------------------------------------------------------------


def test_metered_networks_come_last_whoever_prefers_them() -> None:
    routes = [CELLULAR, CABLE, MODEM, WIFI]
    assert list(Migration(metered=["wwan*"])._in_order(routes)) == [CABLE, WIFI, CELLULAR, MODEM]
    assert list(Migration(metered=["wwan*"], prefer=["wwan1", "wlan*"])._in_order(routes)) == [
        WIFI,
        CABLE,
        MODEM,
        CELLULAR,
    ]


@pytest.mark.parametrize("sockets", ["connected", "unconnected"])
def test_where_the_kernel_chooses_metered_is_refused(sockets: Literal["connected", "unconnected"]) -> None:
    with pytest.raises(ValueError, match="metered needs"):
        Migration(sockets=sockets, metered=["wwan*"])


def test_metered_is_a_sequence_of_names() -> None:
    with pytest.raises(ValueError, match="metered is a sequence"):
        Migration(metered="wwan*")


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_time_on_non_default_is_more_than_none(seconds: float) -> None:
    with pytest.raises(ValueError, match="max_time_on_non_default"):
        Migration(max_time_on_non_default=seconds)


# A policy of one's own ------------------------------------------------------------------------------------------------


class Scripted(Policy):
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self, *answers: Sequence[Action] | Exception) -> None:
        self.deadline: float | None = None
        self.asked: list[Event] = []
        self._answers = list(answers)

    def handle(self, event: Event, facts: Facts, now: float) -> Sequence[Action]:
        assert facts.confirmed
        self.asked.append(event)
        answer: Sequence[Action] | Exception = self._answers.pop(0) if self._answers else []
        if isinstance(answer, Exception):
            raise answer
        return answer


def asking(*answers: Sequence[Action] | Exception, active: Route | None = CELLULAR) -> tuple[OwnPolicy, Scripted]:
    scripted = Scripted(*answers)
    policy = policy_for(Migration(policy=lambda _settings, _active: scripted), active, "peer")
    assert isinstance(policy, OwnPolicy)
    return policy, scripted


def test_without_one_whimbrel_decides() -> None:
    assert isinstance(policy_for(Migration(), CELLULAR, "peer"), MigrationPolicy)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Migration(policy=MigrationPolicy, sockets="unconnected"), "the kernel moves"),
        (lambda: Migration(policy=MigrationPolicy, auto=False), "auto=False"),
    ],
)
def test_a_policy_that_could_decide_nothing_is_refused(make: Callable[[], Migration], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make()


def test_it_is_made_with_the_settings_and_the_route_in_use() -> None:
    made: list[tuple[Migration, Route | None]] = []

    def make(settings: Migration, active: Route | None) -> Policy:
        made.append((settings, active))
        return Scripted()

    settings = Migration(policy=make)
    policy_for(settings, WIFI, "peer")
    assert made == [(settings, WIFI)]


def test_its_actions_are_carried_out_and_followed() -> None:
    policy, _ = asking([], [Probe(WIFI)], [Migrate(WIFI, "preferred")], [Hold()], [Resume(CELLULAR)])
    in_use: list[Route | None] = []
    events: list[Event] = [
        RoutesChanged((CELLULAR,)),
        RoutesChanged((WIFI, CELLULAR)),
        Tick(),
        RoutesChanged(()),
        Tick(),
    ]
    for now, event in enumerate(events):
        policy.handle(event, Known(), now)
        in_use.append(policy.active)
    assert in_use == [CELLULAR, CELLULAR, WIFI, None, CELLULAR]
    assert policy.routes == ()


def test_it_is_asked_nothing_before_the_handshake_is_confirmed_and_then_told_all_of_it() -> None:
    policy, scripted = asking()
    shaking = Known(confirmed=False)
    for event in (RoutesChanged((WIFI,)), RoutesChanged((WIFI, CELLULAR)), MoveRequested(WIFI)):
        assert policy.handle(event, shaking, 0.0) == []
    assert scripted.asked == []
    policy.handle(Tick(), Known(), 1.0)
    assert scripted.asked == [RoutesChanged((WIFI, CELLULAR)), MoveRequested(WIFI), Tick()]


def test_a_request_that_was_cancelled_before_is_not_told() -> None:
    policy, scripted = asking()
    policy.handle(MoveRequested(WIFI), Known(confirmed=False), 0.0)
    policy.handle(MoveCancelled(), Known(confirmed=False), 0.1)
    policy.handle(Tick(), Known(), 1.0)
    assert scripted.asked == [RoutesChanged((CELLULAR,)), Tick()]


def test_the_same_routes_are_told_once() -> None:
    policy, scripted = asking()
    for _ in range(3):
        policy.handle(RoutesChanged((CELLULAR, WIFI)), Known(), 0.0)
    assert scripted.asked == [RoutesChanged((CELLULAR, WIFI))]


@pytest.mark.parametrize(("deadline", "kept"), [(None, None), (math.inf, None), (9.0, 9.0), (0.5, 1.001)])
def test_a_deadline_is_kept_but_not_in_the_past(deadline: float | None, kept: float | None) -> None:
    policy, scripted = asking()
    scripted.deadline = deadline
    policy.handle(Tick(), Known(), 1.0)
    assert policy.deadline == (None if kept is None else pytest.approx(kept))


@pytest.mark.parametrize("failure", ["raises", "answers nonsense", "has no deadline", "moves where it may not"])
def test_when_it_fails_whimbrel_takes_over_where_it_left_off(failure: str, caplog: pytest.LogCaptureFixture) -> None:
    facts = Known()
    wrong: Sequence[Action] | Exception = []
    match failure:
        case "raises":
            wrong = ZeroDivisionError()
        case "answers nonsense":
            wrong = ["migrate"]  # type: ignore[list-item]
        case "moves where it may not":
            wrong, facts = [Migrate(WIFI, "preferred")], replace(facts, peer_forbids=True)
    policy, scripted = asking([], wrong)
    policy.handle(RoutesChanged((CELLULAR,)), facts, 0.0)
    if failure == "has no deadline":
        scripted.deadline = math.nan
    actions = policy.handle(RoutesChanged((WIFI, CELLULAR)), facts, 1.0)
    assert "peer: its policy failed" in caplog.text
    assert actions == ([] if facts.peer_forbids else [Probe(WIFI)])
    # For good.
    asked = len(scripted.asked)
    policy.handle(Tick(), facts, 2.0)
    assert len(scripted.asked) == asked


def test_a_request_that_waits_is_answered_after_all() -> None:
    policy, _ = asking([], [], ZeroDivisionError())
    policy.handle(RoutesChanged((CELLULAR, WIFI)), Known(), 0.0)
    assert policy.handle(MoveRequested(CELLULAR), Known(), 1.0) == []
    assert Accepted(CELLULAR) in policy.handle(Tick(), Known(), 2.0)


def test_a_request_that_was_answered_is_not_answered_again() -> None:
    policy, _ = asking([], [Refuse("no-route")], ZeroDivisionError())
    policy.handle(RoutesChanged((CELLULAR, WIFI)), Known(), 0.0)
    policy.handle(MoveRequested(WIFI), Known(), 1.0)
    assert policy.handle(Tick(), Known(), 2.0) == []


def test_one_that_fails_while_it_holds_is_brought_back_to_a_network() -> None:
    policy, _ = asking([], [Hold()], ZeroDivisionError())
    policy.handle(RoutesChanged((CELLULAR,)), Known(), 0.0)
    policy.handle(RoutesChanged(()), Known(), 1.0)
    actions = policy.handle(RoutesChanged((WIFI,)), Known(), 2.0)
    assert actions == [Resume(WIFI), Migrate(WIFI, "dead")]
    assert policy.active == WIFI


def test_one_that_fails_without_a_network_holds() -> None:
    policy, _ = asking([], ZeroDivisionError())
    policy.handle(RoutesChanged((CELLULAR,)), Known(), 0.0)
    assert Hold() in policy.handle(RoutesChanged(()), Known(), 1.0)
    assert policy.active is None
    assert Ping() not in policy.handle(Tick(), Known(), 2.0)
