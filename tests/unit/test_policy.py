"""The judgements of MigrationPolicy: a list of events, plain numbers for the time, and what must come of it."""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from whimbrel._config import Migration
from whimbrel._events import NetworkLost, NetworkRestored, PathProbed, PathRejected
from whimbrel._policy import MigrationPolicy
from whimbrel._policy_words import (
    Accepted,
    Action,
    ApplicationWrote,
    ControlProbe,
    Event,
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
from whimbrel.network import Route

CELLULAR = Route("wwan0", 2, "10.1.0.2")
WIFI = Route("wlan0", 3, "10.2.0.2")
CABLE = Route("eth0", 4, "10.3.0.2")


@dataclass(frozen=True)
class Known:
    """Facts of a healthy connection: 40 ms round trip, an idle application."""

    heard: float = -math.inf
    reached: float = -math.inf
    flowing: float = math.inf
    due: bool = False
    rtt: float = 0.040
    pto: float = 0.100
    spare_ids: int = 3
    peer_forbids: bool = False
    confirmed: bool = True
    best_rtt: float = 0.040
    packets_sent: int = 0
    packets_lost: int = 0


class Journey:
    """A policy and what is known so far; `at` hands in one event after the timers that were due before it."""

    def __init__(
        self, active: Route | None = CELLULAR, *routes: Route, settings: Migration | None = None, **facts: float | bool
    ) -> None:
        self.policy = MigrationPolicy(settings or Migration(), active)
        self.facts = replace(Known(), **facts)  # type: ignore[arg-type]
        self.told: list[tuple[float, Action]] = []
        if routes:
            assert self.at(0.0, RoutesChanged(routes)) == []

    def at(self, now: float, event: Event | None = None, **facts: float | bool) -> list[Action]:
        self.run(now)
        self.facts = replace(self.facts, **facts)  # type: ignore[arg-type]
        actions = self.policy.handle(event or Tick(), self.facts, now)
        self.told += [(round(now, 6), action) for action in actions]
        assert self.policy.deadline is None or self.policy.deadline >= now
        return actions

    def run(self, until: float) -> list[tuple[float, Action]]:
        """Let the timers fire that are due before then; what came of it, with the time."""
        start = len(self.told)
        while self.policy.deadline is not None and self.policy.deadline < until:
            now = self.policy.deadline
            self.told += [(round(now, 6), action) for action in self.policy.handle(Tick(), self.facts, now)]
        return self.told[start:]

    def times(self, kind: type[Action]) -> list[float]:
        return [time for time, action in self.told if isinstance(action, kind)]

    def moves(self) -> list[Migrate]:
        return [action for _, action in self.told if isinstance(action, Migrate)]

    def go_to_wifi(self, now: float) -> None:
        """The usual way there: it appears, is asked, answers, and carries."""
        assert self.at(now, RoutesChanged((WIFI, CELLULAR))) == [Probe(WIFI)]
        assert Migrate(WIFI, "preferred") in self.at(now + 0.01, ProbeAnswered(WIFI, 0.01))
        assert self.at(now + 0.02, heard=now + 0.02) == []


def pauses_between(times: list[float]) -> list[float]:
    return [round(after - before, 6) for before, after in pairwise(times)]


# Rule 1: ask before moving


def test_a_preferred_network_is_asked_while_the_data_stay_and_moved_to_when_it_answers() -> None:
    journey = Journey()
    assert journey.at(1.0, RoutesChanged((WIFI, CELLULAR))) == [Probe(WIFI)]
    assert journey.policy.active == CELLULAR
    assert journey.at(1.012, ProbeAnswered(WIFI, 0.012)) == [
        Report(PathProbed("wlan0", 0.012)),
        Migrate(WIFI, "preferred"),
    ]
    assert journey.policy.active == WIFI


@pytest.mark.parametrize(
    ("old", "new", "rest"), [(0.040, 0.010, 0.008), (0.040, 0.012, 0.005), (0.040, 0.030, 0.0), (0.200, 0.010, 0.015)]
)
def test_a_slow_path_is_left_for_a_fast_one_with_a_rest_for_what_is_under_way(
    old: float, new: float, rest: float
) -> None:
    journey = Journey(rtt=old)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.01, ProbeAnswered(WIFI, new))
    (move,) = journey.moves()
    assert move.rest == pytest.approx(rest)


def test_who_left_a_dead_path_does_not_rest() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, rtt=0.5)
    journey.at(1.0, ProbeAnswered(CELLULAR, 0.01))
    journey.at(1.1, RoutesChanged((CELLULAR,)))
    assert [move.rest for move in journey.moves()] == [0.0]


def test_a_network_that_the_kernel_does_not_prefer_is_no_reason_to_ask() -> None:
    assert Journey().at(1.0, RoutesChanged((CELLULAR, WIFI))) == []


def test_the_same_routes_again_are_no_news() -> None:
    journey = Journey()
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    assert journey.at(1.001, RoutesChanged((WIFI, CELLULAR))) == []


def test_the_same_routes_again_end_no_pause() -> None:
    journey = Journey()
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(2.5)
    assert journey.at(2.5, RoutesChanged((WIFI, CELLULAR))) == []


def test_a_late_or_second_answer_and_one_for_another_route_change_nothing() -> None:
    journey = Journey()
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    assert journey.at(1.01, ProbeAnswered(CABLE, 0.01)) == []
    assert journey.at(1.02, RoutesChanged((CELLULAR,))) == []
    assert journey.at(1.03, ProbeAnswered(WIFI, 0.03)) == []
    journey.go_to_wifi(20.0)
    assert journey.at(20.03, ProbeAnswered(WIFI, 0.03)) == []


def test_without_a_spare_connection_id_it_waits_a_moment_for_one() -> None:
    journey = Journey(spare_ids=0)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    assert journey.at(1.01, ProbeAnswered(WIFI, 0.01)) == [Report(PathProbed("wlan0", 0.01))]
    assert journey.run(1.15) == []
    assert journey.at(1.2, spare_ids=1) == [Migrate(WIFI, "preferred")]


def test_without_a_spare_connection_id_it_moves_all_the_same_after_that_moment() -> None:
    journey = Journey(spare_ids=0)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01))
    ((time, action),) = journey.run(1.6)
    assert action == Migrate(WIFI, "preferred")
    assert time == pytest.approx(1.31)


def test_without_a_spare_connection_id_a_path_that_dies_is_left_at_once() -> None:
    journey = Journey(spare_ids=0)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01))
    assert journey.at(1.02, RoutesChanged((WIFI,))) == [Migrate(WIFI, "dead")]


# Rule 2: dead paths


def test_a_path_whose_route_is_gone_is_left_at_once_without_asking() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR)
    assert journey.at(1.0, RoutesChanged((CELLULAR,))) == [Migrate(CELLULAR, "dead")]


def test_another_address_on_the_same_interface_is_another_route() -> None:
    renewed = replace(WIFI, source="10.2.0.99")
    assert Journey(WIFI).at(1.0, RoutesChanged((renewed,))) == [Migrate(renewed, "dead")]


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.EHOSTUNREACH])
def test_a_path_over_which_the_kernel_refuses_to_send_is_left_at_once(number: int) -> None:
    journey = Journey(WIFI, WIFI, CELLULAR)
    assert journey.at(1.0, SendFailed(WIFI, number)) == [Migrate(CELLULAR, "dead")]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOBUFS, errno.EAGAIN, errno.EMSGSIZE])
def test_an_error_that_passes_is_no_death(number: int) -> None:
    assert Journey(WIFI, WIFI, CELLULAR).at(1.0, SendFailed(WIFI, number)) == []


def test_a_refusal_with_nowhere_to_go_or_on_another_route_changes_nothing() -> None:
    assert Journey(WIFI).at(1.0, SendFailed(WIFI, errno.ENETUNREACH)) == []
    assert Journey(WIFI, WIFI, CELLULAR).at(1.0, SendFailed(CELLULAR, errno.ENETUNREACH)) == []


def test_two_networks_that_both_refuse_are_not_swapped_in_a_circle() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    for step in range(100):
        active = journey.policy.active
        assert active is not None
        journey.at(1.0 + step / 1000, SendFailed(active, errno.ENETUNREACH))
    assert len(journey.moves()) <= 2


def test_a_refused_path_with_only_failed_networks_left_asks_those_again_at_once() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI)
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(0.6, MoveRequested(WIFI))
    journey.run(1.9)  # Wi-Fi does not answer.
    journey.at(1.9, heard=1.9, due=True)
    assert journey.at(1.95, SendFailed(CELLULAR, errno.ENODEV)) == [Probe(WIFI)]


def test_a_network_left_because_of_a_refusal_is_asked_before_it_is_used_again() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR)
    journey.at(1.0, SendFailed(WIFI, errno.ENETUNREACH))
    journey.at(1.1, heard=1.1)
    assert journey.run(3.0)[0] == (2.0, Probe(WIFI))


def test_a_refused_path_is_left_for_a_network_that_did_not_fail_a_moment_ago() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, CABLE)
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(0.6, MoveRequested(WIFI))
    journey.run(1.9)  # Wi-Fi does not answer.
    assert journey.at(1.95, SendFailed(CELLULAR, errno.ENODEV)) == [Migrate(CABLE, "dead")]


# Rule 3: nobody answers


def test_three_unanswered_probes_then_it_stays_and_says_so() -> None:
    journey = Journey(heard=0.9)
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))  # This server is known to answer.
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    told = journey.run(2.5)
    assert journey.times(Probe) == pytest.approx([1.0, 1.08, 1.24])
    assert told[-1][1] == Report(PathRejected("wlan0", "no-answer"))
    assert journey.policy.active == CELLULAR


@pytest.mark.parametrize(("best_rtt", "wait"), [(0.001, 0.03), (0.1, 0.2), (5.0, 1.0)])
def test_the_wait_for_an_answer_follows_the_best_round_trip_known_within_bounds(best_rtt: float, wait: float) -> None:
    journey = Journey(best_rtt=best_rtt)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    assert journey.policy.deadline == pytest.approx(1.0 + wait)


def test_a_network_that_did_not_answer_is_asked_again_after_growing_pauses() -> None:
    journey = Journey()
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(600.0)
    rounds = journey.times(Probe)[::3]
    pauses = pauses_between(rounds)
    assert pauses[:4] == pytest.approx([2.24, 3.24, 5.24, 9.24])
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(61.24)
    assert journey.moves() == []


def test_a_network_that_did_not_answer_is_asked_at_once_when_the_network_changes() -> None:
    journey = Journey()
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(100.0)
    assert journey.at(100.0, RoutesChanged((WIFI, CELLULAR, CABLE))) == [Probe(WIFI)]


def test_a_network_that_refuses_the_probe_is_rejected_without_waiting() -> None:
    journey = Journey()
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    refused = journey.at(1.001, SendFailed(WIFI, errno.ENETUNREACH))
    assert refused == [Report(PathRejected("wlan0", "no-route"))]


def test_flapping_ten_times_a_second_moves_there_and_back_once_and_ends_on_the_network_that_stays() -> None:
    journey = Journey()
    for step in range(100):
        now = 1.0 + step / 5
        for action in journey.at(now, RoutesChanged((WIFI, CELLULAR)), heard=now):
            if action == Probe(WIFI):
                journey.at(now + 0.01, ProbeAnswered(WIFI, 0.01))
        journey.at(now + 0.1, RoutesChanged((CELLULAR,)), heard=now + 0.09)
    assert [move.reason for move in journey.moves()] == ["preferred", "dead"]
    journey.at(22.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(27.1)
    assert journey.times(Probe)[-1] >= 22.0
    assert Migrate(WIFI, "preferred") in journey.at(27.1, ProbeAnswered(WIFI, 0.01))


def test_probes_are_bounded_however_fast_networks_come_and_go() -> None:
    journey = Journey()
    for step in range(1000):
        newcomer = Route("wlan0", 3, f"10.2.{step // 250}.{step % 250}")
        journey.at(1.0 + step / 100, RoutesChanged((newcomer, CELLULAR)))
    assert 50 < len(journey.times(Probe)) <= 10 * 10 + 6


# Rule 4: moves that are taken back


def test_a_move_that_brings_no_packet_back_is_taken_back() -> None:
    journey = Journey(heard=1.0)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01), heard=-math.inf)
    assert journey.run(2.0)[:2] == [
        (1.31, Report(PathRejected("wlan0", "no-answer"))),
        (1.31, Migrate(CELLULAR, "rolled-back")),
    ]
    # The next attempt costs another stall, so it is not for the next second.
    journey.at(2.0, heard=2.0)
    assert journey.run(11.3) == []
    assert journey.run(11.4)[0][1] == Probe(WIFI)


def test_a_packet_that_came_over_the_old_path_does_not_prove_the_new_one() -> None:
    journey = Journey(heard=1.01)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01))
    assert Migrate(CELLULAR, "rolled-back") in [action for _, action in journey.run(2.0)]


@pytest.mark.parametrize(("pto", "patience"), [(0.01, 0.3), (0.3, 0.9), (4.0, 1.5)])
def test_patience_is_a_few_ptos_within_bounds(pto: float, patience: float) -> None:
    journey = Journey(pto=pto)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01))
    assert journey.policy.deadline == pytest.approx(1.01 + patience)


def test_patience_allows_for_a_new_path_that_is_slower_than_the_old() -> None:
    journey = Journey(pto=0.01)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.4, ProbeAnswered(WIFI, 0.4))
    assert journey.policy.deadline == pytest.approx(1.4 + 1.2)


def test_a_move_that_failed_without_a_way_back_tries_the_other_networks() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, CABLE, due=True)
    journey.at(1.0, RoutesChanged((CELLULAR, CABLE)))
    told = [action for _, action in journey.run(1.31)]
    assert told == [Ping(), Probe(CELLULAR), Probe(CABLE)]
    assert Migrate(CABLE, "silent") in journey.at(1.32, ProbeAnswered(CABLE, 0.01))


def test_a_move_that_failed_with_nowhere_else_to_go_stays_and_keeps_asking() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR)
    journey.at(1.0, RoutesChanged((CELLULAR,)), due=True)
    journey.run(20.0)
    assert len(journey.moves()) == 1
    pings = journey.times(Ping)
    assert pings[:3] == pytest.approx([1.3, 1.5, 1.9])
    assert len(pings) < 10


def test_a_move_that_brought_the_peers_question_alone_is_made_again_from_another_port() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, RoutesChanged((CELLULAR,)))
    journey.at(1.1, reached=1.04)
    assert journey.run(1.4) == [(1.3, Migrate(CELLULAR, "restored"))]
    journey.at(1.4, reached=1.34, heard=1.38)
    journey.run(1.9)
    assert len(journey.moves()) == 2


def test_a_question_that_took_long_leaves_time_for_the_answer() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, RoutesChanged((CELLULAR,)))
    journey.at(1.25, reached=1.25)
    assert journey.run(1.79) == []
    assert journey.run(1.81) == [(1.8, Migrate(CELLULAR, "restored"))]


def test_a_peer_that_asks_again_and_again_is_not_waited_for() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, RoutesChanged((CELLULAR,)))
    for step in range(2, 100):
        journey.at(1.0 + step / 10, reached=1.0 + step / 10)
    assert journey.moves() == [Migrate(CELLULAR, "dead"), Migrate(CELLULAR, "restored")]
    assert journey.times(Migrate) == [1.0, 4.0]


def test_a_network_that_answers_probes_alone_after_a_move_without_a_way_back_is_entered_anew() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, RoutesChanged((CELLULAR,)))
    assert journey.run(1.31) == [(1.3, Ping()), (1.3, Probe(CELLULAR))]
    assert journey.at(1.34, ProbeAnswered(CELLULAR, 0.04)) == [Migrate(CELLULAR, "restored")]
    journey.at(1.43, reached=1.38, heard=1.42)
    assert len([action for _, action in journey.run(1.9) if isinstance(action, Probe | Migrate)]) == 0
    assert journey.policy.active == CELLULAR


def test_it_is_not_asked_once_more_when_that_was_in_vain() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, RoutesChanged((CELLULAR,)))
    journey.run(1.31)
    journey.at(1.34, ProbeAnswered(CELLULAR, 0.04))
    asked = [at for at, action in journey.run(8.0) if action == Probe(CELLULAR)]
    assert asked[0] >= 3.3


def test_the_same_network_entered_anew_is_left_for_the_old_path_when_that_was_in_vain() -> None:
    journey = Journey(heard=1.0)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01), heard=-math.inf)
    journey.at(1.02, reached=1.02)
    assert journey.run(2.0)[:3] == [
        (1.31, Migrate(WIFI, "restored")),
        (1.61, Report(PathRejected("wlan0", "no-answer"))),
        (1.61, Migrate(CELLULAR, "rolled-back")),
    ]


def test_a_move_that_failed_while_nothing_was_due_is_left_at_that() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, CABLE)
    journey.at(1.0, RoutesChanged((CELLULAR, CABLE)))
    assert journey.run(100.0) == [(1.3, Ping())]


# Rule 5: silence


def test_the_new_path_is_listened_to_from_the_moment_that_it_is_heard() -> None:
    journey = Journey(due=True)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)), heard=1.0)
    journey.at(1.01, ProbeAnswered(WIFI, 0.01))
    journey.at(1.02, heard=1.02)
    assert journey.policy.deadline == pytest.approx(1.22)


def test_a_silent_path_is_not_asked_whether_the_server_answers_probes() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, heard=1.0)
    journey.run(30.0)
    assert journey.times(ControlProbe) == []


def test_silence_where_something_is_due_is_asked_about_and_then_the_others_are() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, CABLE, due=True)
    journey.at(1.0, heard=1.0)
    assert journey.run(1.5) == [
        (1.2, Ping()),
        (1.4, Ping()),
        (1.4, Probe(CELLULAR)),
        (1.4, Probe(CABLE)),
        (1.48, Probe(CELLULAR)),
        (1.48, Probe(CABLE)),
    ]
    assert journey.at(1.5, ProbeAnswered(CABLE, 0.02)) == [Report(PathProbed("eth0", 0.02)), Migrate(CABLE, "silent")]
    assert journey.at(1.51, ProbeAnswered(CELLULAR, 0.03)) == []  # The first to answer has won.


def test_a_flow_that_breaks_off_is_silence_already_and_the_others_are_asked_beside_the_ping() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, heard=1.0, flowing=0.5)
    assert journey.run(1.09) == [(1.08, Ping()), (1.08, Probe(CELLULAR))]
    assert journey.at(1.12, ProbeAnswered(CELLULAR, 0.04)) == [Report(PathProbed("wwan0", 0.04))]
    assert journey.run(1.2) == [(1.13, Ping()), (1.18, Ping()), (1.18, Migrate(CELLULAR, "silent"))]


def test_of_two_that_answer_before_a_broken_flow_is_given_up_the_preferred_one_wins() -> None:
    journey = Journey(WIFI, WIFI, CABLE, CELLULAR, due=True)
    journey.at(1.0, heard=1.0, flowing=0.5)
    journey.at(1.11, ProbeAnswered(CELLULAR, 0.03))
    journey.at(1.12, ProbeAnswered(CABLE, 0.04))
    journey.run(1.2)
    assert journey.moves() == [Migrate(CABLE, "silent")]


def test_a_flow_that_goes_on_after_a_break_stays_and_the_next_must_have_been_longer() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, heard=1.0, flowing=0.5)
    journey.at(1.12, ProbeAnswered(CELLULAR, 0.04))
    assert journey.at(1.13, heard=1.13, flowing=1.13) == []
    assert journey.run(1.3) == []
    journey.at(2.1, heard=2.1)  # 0.97 s, of which 1 is needed now.
    assert journey.run(2.29) == []
    journey.at(2.29, heard=2.29)
    assert journey.run(2.4) == [(2.37, Ping()), (2.37, Probe(CELLULAR))]
    journey.at(2.4, heard=2.4, flowing=2.4)
    journey.at(4.3, heard=4.3)
    assert journey.run(4.49) == []


def test_a_network_that_was_left_in_haste_is_given_more_time() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, heard=1.0, flowing=0.5)
    journey.at(1.12, ProbeAnswered(CELLULAR, 0.04))
    journey.run(1.2)
    journey.at(1.3, heard=1.3, flowing=1.3)
    journey.at(2.2, heard=2.2)
    journey.run(2.39)
    assert journey.times(Ping)[-1] < 2.2  # 0.9 s of a flow are too few now.


@pytest.mark.parametrize(
    ("settings", "ways", "flowing"),
    [
        (Migration(), (WIFI, CELLULAR), 0.51),  # not long enough
        (Migration(), (WIFI,), 0.0),  # nobody else to ask
        (Migration(sockets="connected"), (WIFI, CELLULAR), 0.0),
    ],
)
def test_a_break_in_a_flow_is_a_pause_where(settings: Migration, ways: tuple[Route, ...], flowing: float) -> None:
    journey = Journey(WIFI, *ways, settings=settings, due=True)
    journey.at(1.0, heard=1.0, flowing=flowing)
    assert journey.run(1.3) == [(1.2, Ping())]


def test_who_is_patient_with_silence_is_patient_with_breaks() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, settings=Migration(silence=1.6), due=True)
    journey.at(1.0, heard=1.0, flowing=0.5)
    assert journey.run(1.21) == [(1.2, Ping()), (1.2, Probe(CELLULAR))]


def test_a_flow_over_a_short_path_is_given_time_for_the_queue_that_overflowed() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True, rtt=0.004, pto=0.039)
    journey.at(1.0, heard=1.0, flowing=0.5)
    assert journey.run(1.04) == [(1.025, Ping()), (1.025, Probe(CELLULAR))]


def test_silence_where_nothing_is_due_means_nothing_and_costs_no_timer() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR)
    journey.at(1.0, heard=1.0)
    assert journey.policy.deadline is None


def test_the_time_before_something_was_due_is_no_silence() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, heard=0.0)
    assert journey.at(100.0, due=True) == []
    assert journey.policy.deadline == pytest.approx(100.2)


def test_two_probe_timeouts_are_never_less_than_a_tenth_of_a_second() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True, pto=0.001)
    journey.run(0.6)
    assert journey.times(Ping)[:2] == pytest.approx([0.2, 0.3])


def test_a_path_that_is_heard_again_is_not_left() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, heard=1.0)
    journey.run(1.45)
    assert journey.at(1.45, ProbeAnswered(CELLULAR, 0.02), heard=1.449) == [Report(PathProbed("wwan0", 0.02))]
    assert journey.moves() == []
    assert [action for _, action in journey.run(1.6)] == []


def test_with_nobody_else_to_ask_it_goes_on_asking_with_growing_pauses() -> None:
    journey = Journey(WIFI, due=True)
    journey.at(0.0)
    journey.run(200.0)
    pings = journey.times(Ping)
    pauses = pauses_between(pings)
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.2)
    assert pauses[-1] == 15.0
    assert journey.moves() == []


def quiet_but_living(journey: Journey, until: float) -> None:
    """Answers each PING within 50 ms, as a server with nothing to say does."""
    while journey.policy.deadline is not None and journey.policy.deadline < until:
        now = journey.policy.deadline
        if Ping() in journey.at(now):
            journey.at(now + 0.05, heard=now + 0.05)


def test_a_quiet_living_path_is_asked_half_as_often_each_time() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True, heard=0.0)
    quiet_but_living(journey, 100.0)
    pings = journey.times(Ping)
    pauses = pauses_between(pings)
    assert pauses[:3] == pytest.approx([0.45, 0.85, 1.65])
    assert pauses[-1] == pytest.approx(15.05)
    assert journey.times(Probe) == []


@pytest.mark.parametrize("news", [RoutesChanged((WIFI, CELLULAR, CABLE)), ApplicationWrote()])
def test_a_quiet_path_is_watched_closely_again_after_news(news: Event) -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True, heard=0.0)
    quiet_but_living(journey, 60.0)
    journey.at(60.0, news)
    assert journey.policy.deadline is not None
    assert journey.policy.deadline <= 60.2 + 1e-9


def test_a_quiet_path_is_watched_closely_again_when_data_come() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True, heard=0.0)
    quiet_but_living(journey, 60.0)
    journey.at(60.0, heard=60.0)
    assert journey.policy.deadline == pytest.approx(60.2)


def test_a_quiet_path_is_watched_closely_again_when_something_new_is_due() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True, heard=0.0)
    quiet_but_living(journey, 60.0)
    journey.at(60.0, due=False)
    assert journey.policy.deadline is None
    journey.at(61.0, due=True)
    assert journey.policy.deadline == pytest.approx(61.2)


def test_writing_all_the_time_does_not_postpone_the_question() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True, heard=1.0)
    journey.at(1.0)
    for step in range(1, 10):
        journey.at(1.0 + step / 20, ApplicationWrote())
    assert journey.times(Ping)[0] == pytest.approx(1.25)


def test_a_network_that_is_being_asked_in_peace_becomes_one_of_many_when_the_path_falls_silent() -> None:
    journey = Journey(CELLULAR, CELLULAR, CABLE, due=True, best_rtt=1.0)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR, CABLE)), heard=1.0)
    assert journey.run(1.45)[-1] == (1.4, Probe(CABLE))
    assert Migrate(CABLE, "silent") in journey.at(1.5, ProbeAnswered(CABLE, 0.1))


def test_in_a_long_silence_the_others_are_asked_as_often_as_the_path_itself() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(0.1, ProbeAnswered(CELLULAR, 0.04))
    journey.run(600.0)
    probes = journey.times(Probe)
    assert max(pauses_between(probes)) < 16.1


def test_a_path_that_falls_silent_ends_the_pauses_of_the_others() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI)
    journey.at(0.1, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(100.0)  # Wi-Fi carries nothing: the pauses have grown to most of a minute.
    journey.at(100.0, due=True)
    journey.run(100.5)
    assert journey.times(Probe)[-1] > 100.0


def test_a_silent_path_that_was_left_a_moment_ago_keeps_its_pause() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, heard=1.0)
    journey.run(1.45)
    journey.at(1.45, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.5, heard=1.5)
    journey.run(2.4)  # Silence again, on the other.
    assert [time for time in journey.times(Probe) if time > 1.5] == []
    assert journey.run(2.5)[0] == (2.45, Probe(WIFI))


# Rule 6: returning


def test_the_preferred_network_that_fell_silent_is_asked_with_growing_pauses_and_returned_to() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, heard=1.0)
    journey.run(1.45)
    journey.at(1.45, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.5, heard=1.5)
    journey.facts = replace(journey.facts, due=False)
    journey.run(30.0)
    rounds = [time for time in journey.times(Probe) if time > 2.0][::3]
    assert rounds[:3] == pytest.approx([2.45, 2.45 + 3.24, 2.45 + 3.24 + 5.24])
    assert len(journey.moves()) == 1
    asked = journey.policy.deadline
    assert asked is not None
    assert journey.at(asked) == [Probe(WIFI)]
    assert Migrate(WIFI, "returned") in journey.at(asked + 0.01, ProbeAnswered(WIFI, 0.01))


def test_a_portal_that_never_answers_is_never_moved_to() -> None:
    journey = Journey()
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)), heard=1.0, due=True)
    for step in range(1, 600):
        journey.at(1.0 + step / 10, heard=1.0 + step / 10)
    assert journey.moves() == []
    assert journey.times(Ping) == []


def test_a_network_that_was_returned_to_and_carried_is_later_preferred_like_any_other() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(1.0, heard=1.0)
    journey.run(1.45)
    journey.at(1.45, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.5, heard=1.5, due=False)
    journey.run(2.46)
    journey.at(2.46, ProbeAnswered(WIFI, 0.01))
    journey.at(2.47, heard=2.47)
    journey.at(50.0, RoutesChanged((CELLULAR, WIFI)))
    journey.at(50.01, ProbeAnswered(CELLULAR, 0.01))
    journey.at(50.02, heard=50.02)
    journey.at(100.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(100.01, ProbeAnswered(WIFI, 0.01))
    assert [move.reason for move in journey.moves()] == ["silent", "returned", "preferred", "preferred"]


# Rule 7: outages


def test_no_route_is_waited_out_and_another_network_is_used_at_once() -> None:
    journey = Journey(WIFI)
    assert journey.at(1.0, RoutesChanged(())) == [Hold(), Report(NetworkLost())]
    assert journey.policy.active is None
    assert journey.run(21.0) == []
    assert journey.at(21.0, RoutesChanged((CELLULAR,))) == [
        Resume(CELLULAR),
        Migrate(CELLULAR, "restored"),
        Report(NetworkRestored("wwan0", 20.0)),
    ]
    assert journey.policy.active == CELLULAR


def test_the_same_network_back_is_entered_by_a_new_port() -> None:
    journey = Journey(WIFI)
    journey.at(1.0, RoutesChanged(()))
    assert Migrate(WIFI, "restored") in journey.at(21.0, RoutesChanged((WIFI,)))


def test_an_outage_that_lasts_too_long_ends_it_once() -> None:
    journey = Journey(WIFI, settings=Migration(outage=5.0))
    journey.at(1.0, RoutesChanged(()))
    assert journey.run(100.0) == [(6.0, GiveUp())]
    assert journey.at(101.0, RoutesChanged((WIFI,))) == []
    assert journey.policy.deadline is None


def test_errors_and_answers_during_an_outage_are_ignored() -> None:
    journey = Journey(WIFI)
    journey.at(1.0, RoutesChanged(()))
    assert journey.at(1.1, SendFailed(WIFI, errno.ENETUNREACH)) == []
    assert journey.at(1.2, ProbeAnswered(WIFI, 0.1)) == []
    assert journey.at(1.3, due=True) == []


# Rule 8: a peer that forbids moving


def test_a_peer_that_forbids_moving_is_never_moved_from_a_living_path() -> None:
    journey = Journey(peer_forbids=True, due=True)
    assert journey.at(1.0, RoutesChanged((WIFI, CELLULAR))) == []
    journey.run(30.0)
    assert {type(action) for _, action in journey.told} == {Ping}
    assert journey.at(31.0, MoveRequested(WIFI)) == [Refuse("migration-disabled")]


def test_a_peer_that_forbids_moving_is_not_moved_from_by_a_refused_packet_either() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, peer_forbids=True)
    assert journey.at(1.0, SendFailed(CELLULAR, errno.ENETUNREACH)) == []


def test_a_peer_that_forbids_moving_is_held_until_the_same_route_returns() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, peer_forbids=True)
    assert journey.at(1.0, RoutesChanged((WIFI,))) == [
        Hold(),
        Report(NetworkLost()),
        Report(PathRejected("wlan0", "migration-disabled")),
    ]
    assert journey.at(2.0, RoutesChanged((WIFI, CABLE))) == []
    assert journey.at(3.0, RoutesChanged((WIFI, CELLULAR))) == [
        Resume(CELLULAR),
        Ping(),
        Report(NetworkRestored("wwan0", 2.0)),
    ]
    journey.at(4.0, RoutesChanged((WIFI,)))
    assert journey.run(100.0) == [(64.0, GiveUp())]


# Rule 9: the handshake


def test_nothing_moves_before_the_handshake_is_confirmed_and_the_newest_routes_count_then() -> None:
    journey = Journey(confirmed=False, due=True)
    assert journey.at(0.1, RoutesChanged((CABLE, CELLULAR))) == []
    assert journey.at(0.2, RoutesChanged((WIFI, CELLULAR))) == []
    assert journey.at(0.3, SendFailed(CELLULAR, errno.ENETUNREACH)) == []
    assert journey.policy.deadline is None
    assert journey.at(0.4, Tick(), confirmed=True) == [Probe(WIFI)]


def test_a_path_that_died_in_the_handshake_is_left_when_it_is_confirmed() -> None:
    journey = Journey(confirmed=False)
    journey.at(0.1, RoutesChanged((WIFI,)))
    assert journey.at(0.4, confirmed=True) == [Migrate(WIFI, "dead")]


def test_a_request_waits_for_the_handshake() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, confirmed=False)
    assert journey.at(0.2, MoveRequested(WIFI)) == []
    assert journey.at(0.4, confirmed=True) == [Probe(WIFI)]


# Rule 10: servers that answer no probes


def test_a_network_that_does_not_answer_makes_it_ask_once_whether_the_server_ever_does() -> None:
    journey = Journey(heard=0.9)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(60.0)
    (asked,) = journey.times(ControlProbe)
    assert asked == pytest.approx(2.24)
    assert (3.74, Report(PathRejected("wlan0", "no-answer"))) in journey.told


def test_where_nothing_is_under_way_a_ping_tells_whether_the_server_could_have_answered() -> None:
    journey = Journey(heard=0.9)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    told = journey.run(2.5)
    assert [action for time, action in told if time > 2.2] == [ControlProbe(CELLULAR), Ping()]


def test_when_the_server_does_answer_the_network_is_rejected_at_once() -> None:
    journey = Journey(heard=0.9)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(2.3)
    rejected = journey.at(2.3, ProbeAnswered(CELLULAR, 0.04))
    assert rejected == [Report(PathRejected("wlan0", "no-answer"))]


def silent_server() -> Journey:
    journey = Journey(heard=0.0)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)), heard=1.0)
    journey.run(2.3)
    assert journey.at(2.3, ServerSilent(CELLULAR), heard=2.3) == [Migrate(WIFI, "preferred")]
    return journey


def test_a_server_that_answers_no_probes_is_moved_on_trust() -> None:
    journey = silent_server()
    assert journey.at(2.35, heard=2.35) == []
    assert journey.policy.active == WIFI
    journey.at(20.0, RoutesChanged((CELLULAR, WIFI)))
    assert journey.moves()[-1] == Migrate(CELLULAR, "preferred")


def test_trust_that_was_disappointed_is_taken_back_and_not_renewed_soon() -> None:
    journey = silent_server()
    journey.run(2.7)
    assert journey.moves()[-1] == Migrate(CELLULAR, "rolled-back")
    journey.at(2.75, heard=2.75)
    journey.at(5.0, RoutesChanged((WIFI, CELLULAR, CABLE)))
    assert journey.run(12.0) == []
    journey.run(12.8)
    assert journey.moves()[-1] == Migrate(WIFI, "preferred")


def test_a_dead_path_is_left_for_a_network_that_did_not_disappoint_trust_a_moment_ago() -> None:
    journey = silent_server()
    journey.run(2.7)
    journey.at(2.75, heard=2.75)
    journey.at(5.0, RoutesChanged((WIFI, CELLULAR, CABLE)))
    assert journey.at(6.0, RoutesChanged((WIFI, CABLE))) == [Migrate(CABLE, "dead")]


def test_trust_needs_a_spare_connection_id() -> None:
    journey = Journey(heard=0.0, spare_ids=0)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)), heard=1.0)
    journey.run(2.3)
    journey.at(2.3, ServerSilent(CELLULAR))
    assert (2.6, Report(PathRejected("wlan0", "connection-ids-exhausted"))) in journey.run(5.0)
    assert journey.moves() == []


def test_trust_in_a_dying_path_waits_for_no_connection_id() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True, spare_ids=0)
    journey.run(3.0)
    assert journey.moves()[0] == Migrate(CELLULAR, "silent")


def test_a_move_that_waits_for_a_connection_id_waits_no_longer_when_the_old_path_falls_silent() -> None:
    journey = Journey(spare_ids=0, due=True, pto=0.5)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)), heard=0.0)
    journey.at(1.19, ProbeAnswered(WIFI, 0.01), heard=1.19)
    journey.facts = replace(journey.facts, pto=0.06)
    told = journey.run(1.7)
    assert (1.51, Migrate(WIFI, "preferred")) in told
    journey.run(2.5)
    assert "rolled-back" not in [move.reason for move in journey.moves()]  # Silent then, silent now.


def test_a_server_that_has_answered_once_is_not_believed_to_be_silent() -> None:
    journey = Journey(heard=0.0)
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.1, ServerSilent(CELLULAR))
    journey.run(60.0)
    assert journey.moves() == []


def test_in_a_silence_where_nobody_answers_it_trusts_the_others_in_turn_with_growing_pauses() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, CABLE, due=True)
    journey.run(300.0)
    moves = [(time, action.route) for time, action in journey.told if isinstance(action, Migrate)]
    assert {route for _, route in moves[:3]} == {CELLULAR, CABLE, WIFI}
    assert moves[0][0] < 2.5
    assert 4 <= len(moves) < 15


def test_in_a_silence_a_server_that_used_to_answer_is_not_moved_on_trust() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(0.1, ProbeAnswered(CELLULAR, 0.04))
    journey.run(300.0)
    assert journey.moves() == []
    assert journey.times(Probe)[-1] > 200.0


def test_two_networks_that_answer_probes_and_carry_nothing_are_not_swapped_all_the_time() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    while journey.policy.deadline is not None and journey.policy.deadline < 100.0:
        now = journey.policy.deadline
        for action in journey.at(now):
            if isinstance(action, Probe):
                journey.at(now, ProbeAnswered(action.route, 0.01))
    assert 2 <= len(journey.moves()) <= 30


def test_a_silent_path_is_asked_itself_and_entered_anew_when_it_answers() -> None:
    journey = Journey(WIFI, WIFI, due=True)
    done = journey.run(30.0)
    asked = [at for at, action in done if action == Probe(WIFI)]
    assert asked
    assert all(later - earlier > 1.99 for earlier, later in pairwise(asked))
    assert journey.moves() == []
    assert Migrate(WIFI, "restored") in journey.at(30.0, ProbeAnswered(WIFI, 0.01))


def test_a_path_that_answers_probes_alone_is_entered_anew_less_and_less_often() -> None:
    journey = Journey(WIFI, WIFI, due=True)
    while journey.policy.deadline is not None and journey.policy.deadline < 100.0:
        now = journey.policy.deadline
        for action in journey.at(now):
            if action == Probe(WIFI):
                journey.at(now, ProbeAnswered(WIFI, 0.01))
    assert 3 <= len(journey.moves()) <= 10


# Rule 11: the application's own moves


def test_an_explicit_move_asks_first_and_then_moves() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI)
    assert journey.at(1.0, MoveRequested(WIFI)) == [Probe(WIFI)]
    assert journey.at(1.01, ProbeAnswered(WIFI, 0.01)) == [
        Report(PathProbed("wlan0", 0.01)),
        Migrate(WIFI, "requested"),
        Accepted(WIFI),
    ]


def test_an_explicit_move_holds_against_the_kernel_until_the_network_changes() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI)
    journey.at(1.0, MoveRequested(WIFI))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01))
    journey.at(1.02, heard=1.02)
    assert journey.run(100.0) == []
    assert journey.policy.active == WIFI
    assert journey.at(100.0, RoutesChanged((CELLULAR, WIFI, CABLE))) == [Probe(CELLULAR)]


def test_to_move_where_we_are_is_done_already() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI)
    assert journey.at(1.0, MoveRequested(CELLULAR)) == [Accepted(CELLULAR)]
    assert journey.at(1.0, MoveRequested(None)) == [Accepted(CELLULAR)]


def test_to_move_without_a_name_is_to_move_where_the_kernel_would() -> None:
    journey = Journey(CELLULAR, settings=Migration(auto=False))
    journey.at(0.5, RoutesChanged((WIFI, CELLULAR)))
    assert journey.at(1.0, MoveRequested(None)) == [Probe(WIFI)]


def test_a_request_for_a_network_that_is_not_there_is_refused() -> None:
    assert Journey().at(1.0, MoveRequested(WIFI)) == [Refuse("no-route")]
    held = Journey()
    held.at(1.0, RoutesChanged(()))
    assert held.at(2.0, MoveRequested(None)) == [Refuse("no-route")]


def test_a_request_for_a_network_in_its_pause_asks_at_once() -> None:
    journey = Journey()
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(100.0)
    journey.at(100.0, MoveCancelled())
    assert journey.at(100.0, MoveRequested(WIFI)) == [Probe(WIFI)]


def test_a_request_in_a_silence_asks_at_once_as_well() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.at(0.1, ProbeAnswered(CELLULAR, 0.04))
    journey.run(100.0)
    journey.run(journey.times(Probe)[-1] + 2.0)
    assert Probe(CELLULAR) in journey.at(max(100.0, journey.told[-1][0] + 1.5), MoveRequested(CELLULAR))


def test_a_request_that_was_cancelled_while_it_waited_for_a_connection_id_is_not_answered() -> None:
    journey = Journey(spare_ids=0)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.001, MoveRequested(WIFI))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01))
    journey.at(1.02, MoveCancelled())
    assert [action for _, action in journey.run(1.5)] == [Migrate(WIFI, "preferred")]


def test_a_request_that_died_on_arrival_without_a_way_back_is_refused() -> None:
    journey = Journey(CELLULAR, CELLULAR, CABLE, WIFI)
    journey.at(1.0, MoveRequested(WIFI))
    journey.at(1.001, RoutesChanged((CABLE, WIFI)))
    assert Refuse("no-answer") in [action for _, action in journey.run(1.4)]


def test_a_request_whose_network_the_kernel_refuses_on_arrival_is_refused() -> None:
    journey = Journey(CELLULAR, CELLULAR, CABLE, WIFI)
    journey.at(1.0, MoveRequested(WIFI))
    journey.at(1.001, RoutesChanged((CABLE, WIFI)))
    refused = journey.at(1.002, SendFailed(WIFI, errno.ENETUNREACH))
    assert refused == [Refuse("no-route"), Migrate(CABLE, "dead")]


def test_a_request_that_nobody_answers_is_refused_and_the_connection_stays() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI)
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, MoveRequested(WIFI))
    told = [action for _, action in journey.run(10.0)]
    assert told[2:] == [Report(PathRejected("wlan0", "no-answer")), Refuse("no-answer")]
    assert journey.policy.deadline is None


def test_a_request_whose_network_goes_away_is_refused() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI)
    journey.at(1.0, MoveRequested(WIFI))
    assert journey.at(1.01, RoutesChanged((CELLULAR,))) == [Refuse("no-route")]


def test_a_request_without_a_spare_connection_id_is_refused_after_a_moment() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, spare_ids=0)
    journey.at(1.0, MoveRequested(WIFI))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01))
    assert [action for _, action in journey.run(2.0)] == [Refuse("connection-ids-exhausted")]
    assert journey.policy.active == CELLULAR


def test_a_request_that_is_cancelled_stops_the_asking() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI)
    journey.at(1.0, MoveRequested(WIFI))
    assert journey.at(1.001, MoveCancelled()) == []
    assert journey.policy.deadline is None
    assert journey.at(1.01, ProbeAnswered(WIFI, 0.01)) == []


def test_a_request_is_fulfilled_by_the_move_that_a_dying_path_forces() -> None:
    journey = Journey(CELLULAR, CELLULAR, CABLE, WIFI)
    journey.at(1.0, MoveRequested(WIFI))
    assert journey.at(1.001, RoutesChanged((CABLE, WIFI))) == [Migrate(WIFI, "dead")]
    assert journey.at(1.05, heard=1.05) == [Accepted(WIFI)]


def test_a_request_on_trust_is_accepted_only_when_something_came_back() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, heard=0.0)
    journey.at(1.0, MoveRequested(WIFI))
    journey.run(2.3)
    assert journey.at(2.3, ServerSilent(CELLULAR)) == [Migrate(WIFI, "requested")]
    assert journey.at(2.35, heard=2.35) == [Accepted(WIFI)]


def test_a_request_on_trust_is_refused_when_nothing_came_back() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, heard=0.0)
    journey.at(1.0, MoveRequested(WIFI))
    journey.run(2.3)
    journey.at(2.3, ServerSilent(CELLULAR))
    told = [action for _, action in journey.run(2.8)]
    assert told == [Report(PathRejected("wlan0", "no-answer")), Refuse("no-answer"), Migrate(CELLULAR, "rolled-back")]


# Rule 12: by hand only


def test_by_hand_only_means_that_nothing_else_moves_it() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, settings=Migration(auto=False), due=True)
    journey.at(1.0, RoutesChanged((WIFI,)))
    journey.at(2.0, SendFailed(CELLULAR, errno.ENETUNREACH))
    journey.at(3.0, RoutesChanged(()))
    journey.at(4.0, RoutesChanged((WIFI, CELLULAR)))
    assert journey.run(1000.0) == []
    assert journey.told == []
    assert journey.at(1000.0, MoveRequested(WIFI)) == [Probe(WIFI)]
    assert Accepted(WIFI) in journey.at(1000.01, ProbeAnswered(WIFI, 0.01))
    assert journey.run(2000.0) == []


def test_by_hand_only_means_no_timers_after_a_move_on_trust_without_a_way_back() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, settings=Migration(auto=False), due=True, heard=0.0)
    journey.at(1.0, MoveRequested(WIFI))
    journey.run(2.3)
    assert journey.at(2.3, ServerSilent(CELLULAR)) == [Migrate(WIFI, "requested")]
    journey.at(2.31, RoutesChanged((WIFI,)))
    assert [action for _, action in journey.run(10.0)] == [Ping(), Refuse("no-answer")]
    assert journey.policy.deadline is None


# Rule 13: connected and unconnected sockets

CONNECTED = Migration(sockets="connected")
UNCONNECTED = Migration(sockets="unconnected")


def test_a_connected_socket_follows_the_kernel_at_once() -> None:
    journey = Journey(settings=CONNECTED)
    assert journey.at(1.0, RoutesChanged((WIFI, CELLULAR))) == [Migrate(WIFI, "preferred")]
    assert journey.at(1.1, RoutesChanged((CELLULAR,))) == [Migrate(CELLULAR, "dead")]


def test_a_connected_socket_follows_the_kernel_however_often_it_changes_its_mind() -> None:
    journey = Journey(settings=CONNECTED)
    for step in range(10):
        routes = (WIFI, CELLULAR) if step % 2 == 0 else (CELLULAR, WIFI)
        assert journey.at(1.0 + step / 10, RoutesChanged(routes)) == [Migrate(routes[0], "preferred")]


def test_a_connected_socket_stays_where_the_user_put_it_until_the_network_changes() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, settings=CONNECTED)
    journey.at(1.0, MoveRequested(WIFI))
    journey.at(1.01, ProbeAnswered(WIFI, 0.01))
    journey.at(1.02, heard=1.02)
    assert journey.run(100.0) == []
    assert journey.policy.active == WIFI
    assert journey.at(100.0, RoutesChanged((CELLULAR, WIFI, CABLE))) == [Migrate(CELLULAR, "preferred")]


def test_a_connected_socket_moved_by_hand_on_trust_is_given_time_to_arrive() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, settings=CONNECTED, heard=0.0)
    journey.at(1.0, MoveRequested(WIFI))
    journey.run(2.3)
    assert journey.at(2.3, ServerSilent(CELLULAR)) == [Migrate(WIFI, "requested")]
    assert journey.at(2.31) == []


def test_a_connected_socket_to_a_peer_that_forbids_moving_stays() -> None:
    assert Journey(settings=CONNECTED, peer_forbids=True).at(1.0, RoutesChanged((WIFI, CELLULAR))) == []


def test_a_connected_socket_does_not_search_in_a_silence_nor_move_back_against_the_kernel() -> None:
    journey = Journey(settings=CONNECTED, due=True)
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(60.0)
    assert journey.moves() == [Migrate(WIFI, "preferred")]
    assert {type(action) for _, action in journey.told} == {Migrate, Ping}


def test_a_connected_socket_is_moved_by_hand_only_after_asking() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, settings=Migration(sockets="connected", auto=False))
    assert journey.at(1.0, MoveRequested(WIFI)) == [Probe(WIFI)]
    assert Migrate(WIFI, "requested") in journey.at(1.01, ProbeAnswered(WIFI, 0.01))


def test_an_unconnected_socket_sends_one_ping_after_a_change_and_the_kernel_does_the_rest() -> None:
    journey = Journey(settings=UNCONNECTED)
    assert journey.at(1.0, RoutesChanged((WIFI, CELLULAR))) == [Ping()]
    assert journey.at(2.0, RoutesChanged((WIFI,))) == []
    assert journey.at(3.0, RoutesChanged((CELLULAR,))) == [Ping()]
    assert journey.at(4.0, RoutesChanged((CELLULAR, WIFI))) == []
    assert journey.at(4.0, SendFailed(CELLULAR, errno.ENETUNREACH)) == []
    assert journey.at(5.0, MoveRequested(CELLULAR)) == [Refuse("migration-disabled")]


def test_an_unconnected_socket_holds_in_an_outage_and_resumes_wherever_the_kernel_likes() -> None:
    journey = Journey(settings=UNCONNECTED)
    assert journey.at(1.0, RoutesChanged(())) == [Hold(), Report(NetworkLost())]
    restored = journey.at(9.0, RoutesChanged((WIFI,)))
    assert restored == [Resume(WIFI), Ping(), Report(NetworkRestored("wlan0", 8.0))]


def test_an_unconnected_socket_asks_in_a_silence_so_that_a_forgetful_nat_is_reminded() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, settings=UNCONNECTED, due=True)
    journey.run(10.0)
    assert {type(action) for _, action in journey.told} == {Ping}
    assert journey.times(Ping)[0] == pytest.approx(0.2)


def test_an_unconnected_socket_by_hand_is_left_alone_altogether() -> None:
    journey = Journey(settings=Migration(sockets="unconnected", auto=False), due=True)
    for step, routes in enumerate([(WIFI, CELLULAR), (WIFI,), ()]):
        assert journey.at(1.0 + step, RoutesChanged(routes)) == []
    assert journey.run(1000.0) == []


# Rule 12: the same way under another name, or beside another address


def test_a_renamed_interface_is_the_same_way_and_is_told_by_its_new_name() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR)
    renamed = replace(WIFI, interface="home0")
    assert journey.at(1.0, RoutesChanged((renamed, CELLULAR))) == []
    assert journey.policy.active is renamed
    (told,) = journey.at(2.0, RoutesChanged(()))[1:]
    assert told == Report(NetworkLost())


def test_a_return_to_a_renamed_interface_is_told_by_its_new_name() -> None:
    journey = Journey(CELLULAR)
    journey.go_to_wifi(1.0)
    journey.at(20.0, RoutesChanged((CABLE, WIFI, CELLULAR)))
    journey.at(20.01, ProbeAnswered(CABLE, 0.01), heard=20.0)
    journey.at(20.02, RoutesChanged((CABLE, replace(WIFI, interface="home0"), CELLULAR)))
    journey.run(22.0)
    (back,) = [action for _, action in journey.told if isinstance(action, Migrate) and action.reason == "rolled-back"]
    assert back.route.interface == "home0"


def test_an_address_that_is_still_there_is_kept_when_the_kernel_prefers_another() -> None:
    # IPv6 privacy addresses (RFC 8981) are replaced once a day and stay for a week: for what uses them.
    journey = Journey(WIFI, WIFI, CELLULAR, due=True, heard=0.9)
    rotated = replace(WIFI, source="10.2.0.99", addresses=("10.2.0.2", "10.2.0.99"))
    assert journey.at(1.0, RoutesChanged((rotated, CELLULAR)), heard=1.0) == []
    assert journey.policy.active == WIFI
    expired = replace(rotated, addresses=("10.2.0.99",))
    assert journey.at(2.0, RoutesChanged((expired, CELLULAR)), heard=2.0) == [Migrate(rotated, "dead")]


def test_the_same_address_on_another_interface_is_another_way() -> None:
    # USB modems of one make all hand out the same address.
    other = replace(CABLE, addresses=("10.2.0.2", "10.3.0.2"))
    assert Journey(WIFI).at(1.0, RoutesChanged((other,))) == [Migrate(other, "dead")]


def test_an_old_address_that_falls_silent_is_left_for_the_new_one_of_the_same_interface() -> None:
    journey = Journey(WIFI, WIFI)
    rotated = replace(WIFI, source="10.2.0.99", addresses=("10.2.0.2", "10.2.0.99"))
    journey.at(1.0, RoutesChanged((rotated,)), due=True, heard=1.0)
    assert Probe(rotated) in [action for _, action in journey.run(1.5)]
    assert Migrate(rotated, "silent") in journey.at(1.5, ProbeAnswered(rotated, 0.01))


def test_a_way_taken_back_to_keeps_its_old_address_too() -> None:
    journey = Journey(WIFI, WIFI)
    both = ("10.2.0.2", "10.2.0.99")
    journey.at(1.0, RoutesChanged((CABLE, replace(WIFI, source="10.2.0.99", addresses=both))), heard=1.0)
    journey.at(1.01, ProbeAnswered(CABLE, 0.01))
    journey.run(2.0)
    assert [(move.route, move.reason) for move in journey.moves()] == [(CABLE, "preferred"), (WIFI, "rolled-back")]


def test_a_new_connection_to_a_network_takes_the_address_that_the_kernel_prefers_there() -> None:
    rotated = replace(WIFI, source="10.2.0.99", addresses=("10.2.0.2", "10.2.0.99"))
    assert Journey().at(1.0, RoutesChanged((rotated, CELLULAR))) == [Probe(rotated)]


def test_a_connected_socket_keeps_its_address_too() -> None:
    journey = Journey(WIFI, WIFI, settings=Migration(sockets="connected"))
    rotated = replace(WIFI, source="10.2.0.99", addresses=("10.2.0.2", "10.2.0.99"))
    assert journey.at(1.0, RoutesChanged((rotated,))) == []


def test_a_way_that_is_back_in_a_blink_is_the_path_that_it_was() -> None:
    journey = Journey(WIFI, WIFI, due=True, heard=0.9)
    assert journey.at(1.0, RoutesChanged(()), heard=1.0) == [Hold(), Report(NetworkLost())]
    resumed = journey.at(1.0625, RoutesChanged((WIFI,)))
    assert resumed == [Resume(WIFI), Ping(), Report(NetworkRestored("wlan0", 0.0625))]
    assert journey.policy.active == WIFI
    journey.at(2.0, RoutesChanged(()), heard=2.0)
    assert journey.at(2.2, RoutesChanged((WIFI,)))[:2] == [Resume(WIFI), Migrate(WIFI, "restored")]


def test_another_way_in_a_blink_is_another_path() -> None:
    journey = Journey(WIFI, WIFI)
    journey.at(1.0, RoutesChanged(()))
    assert Migrate(CELLULAR, "restored") in journey.at(1.01, RoutesChanged((CELLULAR,)))


# Rule 13: the machine was suspended


def test_a_sleep_is_an_outage_and_the_path_is_entered_anew() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR)
    assert journey.at(5.0, Woke(30.0)) == [
        Hold(),
        Report(NetworkLost()),
        Resume(WIFI),
        Migrate(WIFI, "restored"),
        Report(NetworkRestored("wlan0", 30.0)),
    ]


def test_whoever_wakes_up_elsewhere_goes_on_there() -> None:
    journey = Journey(WIFI, WIFI)
    journey.at(5.0, RoutesChanged(()))
    assert journey.at(5.0, Woke(30.0)) == []
    assert Migrate(CELLULAR, "restored") in journey.at(8.0, RoutesChanged((CELLULAR,)))
    assert journey.told[-1][1] == Report(NetworkRestored("wwan0", 33.0))


def test_a_nap_is_no_reason_for_anything() -> None:
    assert Journey(WIFI, WIFI).at(5.0, Woke(1.9)) == []


def test_sleeping_for_longer_than_an_outage_may_last_ends_it() -> None:
    journey = Journey(WIFI, WIFI)
    assert journey.at(5.0, Woke(60.0)) == [Hold(), Report(NetworkLost()), GiveUp()]
    assert journey.policy.deadline is None
    assert journey.at(6.0, RoutesChanged((CELLULAR,))) == []


def test_sleep_counts_as_a_part_of_the_outage_that_it_falls_into() -> None:
    journey = Journey(WIFI, WIFI)
    journey.at(5.0, RoutesChanged(()))
    journey.at(20.0, Woke(40.0))
    assert journey.run(25.5) == [(25.0, GiveUp())]


def test_a_peer_that_forbids_moving_is_woken_by_a_ping() -> None:
    journey = Journey(WIFI, WIFI, peer_forbids=True)
    assert journey.at(5.0, Woke(30.0))[2:4] == [Resume(WIFI), Ping()]


def test_an_unconnected_socket_is_woken_by_a_ping() -> None:
    journey = Journey(WIFI, WIFI, settings=Migration(sockets="unconnected"))
    assert journey.at(5.0, Woke(30.0))[2:4] == [Resume(WIFI), Ping()]


def test_by_hand_only_a_sleep_is_left_to_the_hand() -> None:
    assert Journey(WIFI, WIFI, settings=Migration(auto=False)).at(5.0, Woke(30.0)) == []


# Rule 14: a path that loses much


def busy(*routes: Route, settings: Migration | None = None) -> Journey:
    """An upload over the first of them."""
    return Journey(routes[0], *routes, settings=settings, due=True, heard=0.0)


def send(
    journey: Journey, begin: float, until: float, *, lost: float = 0.0, pace: int = 20, missing: int = 0
) -> list[tuple[float, Action]]:
    """Some packets ten times a second, of which a share is lost. Probes are answered, but one in so many."""
    start = looked = len(journey.told)
    for step in range(round((until - begin) * 10)):
        now, known = begin + step / 10, journey.facts
        sent, gone = known.packets_sent + pace, known.packets_lost + round(pace * lost)
        journey.at(now, heard=now, packets_sent=sent, packets_lost=gone)
        asked = [action.route for _, action in journey.told[looked:] if isinstance(action, Probe)]
        looked = len(journey.told)
        for route in asked:
            if not missing or len(journey.times(Probe)) % missing:
                journey.at(now + 0.02, ProbeAnswered(route, 0.02))
    return journey.told[start:]


def test_a_path_that_goes_on_losing_much_is_left_for_one_that_answers_each_time() -> None:
    journey = busy(WIFI, CELLULAR)
    told = send(journey, 0.0, 10.0, lost=0.15)
    assert journey.moves() == [Migrate(CELLULAR, "lossy")]
    asked = [time for time, action in told if action == Probe(CELLULAR)]
    assert pauses_between(asked) == pytest.approx([0.2] * 4)
    assert 4.0 <= asked[0] < 4.5
    assert journey.times(Migrate) == [pytest.approx(asked[-1] + 0.07, abs=0.06)]


def test_a_path_that_loses_what_a_full_queue_does_is_not_left() -> None:
    journey = busy(WIFI, CELLULAR)
    assert send(journey, 0.0, 60.0, lost=0.05) == []


def test_losses_of_a_moment_are_forgotten() -> None:
    journey = busy(WIFI, CELLULAR)
    for second in range(0, 60, 6):
        assert send(journey, second, second + 1.9, lost=0.5) == []
        assert send(journey, second + 1.9, second + 6.0) == []


def test_what_few_packets_do_is_chance() -> None:
    journey = busy(WIFI, CELLULAR)
    assert send(journey, 0.0, 4.9, lost=0.5, pace=2) == []
    assert send(journey, 4.9, 9.0, lost=0.5, pace=2) != []


def test_another_network_that_misses_one_probe_is_not_entered_and_asked_again_after_growing_pauses() -> None:
    journey = busy(WIFI, CELLULAR)
    told = send(journey, 0.0, 200.0, lost=0.15, missing=5)
    assert journey.moves() == []
    assert Report(PathRejected("wwan0", "lossy")) in [action for _, action in told]
    trials = [time for time, action in told if action == Report(PathRejected("wwan0", "lossy"))]
    assert pauses_between(trials) == pytest.approx([11.8, 21.8, 41.8, 61.8], abs=0.3)
    probes = len(journey.times(Probe))
    assert probes == 5 * (len(trials) + 1) or probes == 5 * len(trials)


def test_who_stops_losing_is_not_left() -> None:
    journey = busy(WIFI, CELLULAR)
    send(journey, 0.0, 4.3, lost=0.15, missing=1)
    assert len(journey.times(Probe)) > 1
    send(journey, 4.3, 6.3, missing=1)
    assert [action for _, action in send(journey, 6.3, 60.0) if isinstance(action, Probe | Migrate)] == []


def test_back_on_a_network_that_was_left_for_its_losses_only_when_it_answers_each_time() -> None:
    journey = busy(WIFI, CELLULAR)
    send(journey, 0.0, 6.0, lost=0.15)
    assert journey.policy.active == CELLULAR
    told = send(journey, 6.0, 60.0)
    assert [action for _, action in told if isinstance(action, Migrate)] == [Migrate(WIFI, "returned")]
    asked = [time for time, action in told if action == Probe(WIFI)]
    assert len(asked) == 5
    assert 34.0 < asked[0] < 36.0


def test_it_does_not_return_to_a_network_that_answers_now_and_then() -> None:
    journey = busy(WIFI, CELLULAR)
    send(journey, 0.0, 6.0, lost=0.15)
    told = send(journey, 6.0, 600.0, missing=5)
    assert [action for _, action in told if isinstance(action, Migrate)] == []
    assert len([action for _, action in told if isinstance(action, Probe)]) <= 5 * 6


def test_who_lost_much_and_answers_nothing_now_is_asked_as_often_as_any() -> None:
    journey = busy(WIFI, CELLULAR)
    send(journey, 0.0, 6.0, lost=0.15)
    told = send(journey, 6.0, 900.0, missing=1)
    rejected = [time for time, action in told if action == Report(PathRejected("wlan0", "no-answer"))]
    assert len(rejected) >= 12
    assert max(pauses_between(rejected)) < 60.0 + 3.0


def test_two_networks_that_lose_much_under_load_are_not_swapped_all_the_time() -> None:
    journey = busy(WIFI, CELLULAR)
    send(journey, 0.0, 1800.0, lost=0.15)  # Probes pass, on both.
    assert 3 <= len(journey.moves()) <= 16
    assert len(journey.times(Probe)) <= 5 * 16


def test_news_of_a_third_network_end_no_pause_of_one_that_was_left_for_its_losses() -> None:
    journey = busy(WIFI, CELLULAR)
    send(journey, 0.0, 6.0, lost=0.15)
    journey.at(6.0, RoutesChanged((WIFI, CELLULAR, CABLE)))
    assert [action for _, action in send(journey, 6.1, 20.0) if isinstance(action, Probe)] == []


def test_a_network_that_was_left_for_its_losses_and_came_anew_is_as_good_as_any() -> None:
    journey = busy(WIFI, CELLULAR)
    send(journey, 0.0, 6.0, lost=0.15)
    journey.at(6.0, RoutesChanged((CELLULAR,)))
    send(journey, 6.1, 17.0)
    assert journey.at(17.0, RoutesChanged((WIFI, CELLULAR))) == [Probe(WIFI)]
    assert Migrate(WIFI, "preferred") in journey.at(17.02, ProbeAnswered(WIFI, 0.02))


def test_a_preferred_network_that_appears_while_much_is_lost_is_moved_to_at_its_first_answer() -> None:
    journey = busy(CELLULAR)
    send(journey, 0.0, 6.0, lost=0.15)
    assert journey.at(6.0, RoutesChanged((WIFI, CELLULAR))) == [Probe(WIFI)]
    assert Migrate(WIFI, "preferred") in journey.at(6.02, ProbeAnswered(WIFI, 0.02))


def test_what_the_old_path_lost_is_not_held_against_the_new_one() -> None:
    journey = busy(CELLULAR, CELLULAR, CABLE)
    send(journey, 0.0, 2.2, lost=0.15)
    journey.at(2.2, RoutesChanged((WIFI, CELLULAR, CABLE)))
    journey.at(2.22, ProbeAnswered(WIFI, 0.02))
    assert journey.policy.active == WIFI
    journey.at(2.3, heard=2.3, packets_lost=journey.facts.packets_lost + 400)
    assert [action for _, action in send(journey, 2.4, 5.4, lost=0.15) if isinstance(action, Probe)] == []


def test_a_new_path_that_carries_nothing_is_left_for_the_one_that_lost_much() -> None:
    journey = busy(WIFI, CELLULAR)
    now = 0.0
    while not journey.moves():
        send(journey, now, now + 0.1, lost=0.15)
        now += 0.1
    journey.run(now + 5.0)
    assert journey.moves()[:2] == [Migrate(CELLULAR, "lossy"), Migrate(WIFI, "rolled-back")]


def test_a_path_that_loses_much_and_then_all_is_left_at_the_first_answer() -> None:
    journey = busy(WIFI, CELLULAR)
    now = 0.0
    while not journey.times(Probe):
        send(journey, now, now + 0.1, lost=0.15, missing=1)
        now += 0.1
    told = journey.run(now + 0.7)  # Nothing comes any more: a PING, and two PTOs later the next.
    suspected = [time for time, action in told if isinstance(action, Ping)][1]
    assert [time for time, action in told if action == Probe(CELLULAR)][-1] >= suspected
    assert Migrate(CELLULAR, "silent") in journey.at(now + 0.71, ProbeAnswered(CELLULAR, 0.02))


def test_a_trial_that_is_almost_over_does_not_keep_a_silent_path_waiting() -> None:
    journey = busy(WIFI, CELLULAR)
    send(journey, 0.0, 5.0, lost=0.15, missing=5)
    assert len(journey.times(Probe)) == 5
    journey.run(5.5)
    assert len(journey.times(Probe)) > 5
    assert Migrate(CELLULAR, "silent") in journey.at(5.5, ProbeAnswered(CELLULAR, 0.02))


def test_a_path_that_lost_much_before_it_fell_silent_has_to_answer_each_time() -> None:
    journey = busy(WIFI, CELLULAR)
    send(journey, 0.0, 2.2, lost=0.15)
    journey.run(2.7)
    journey.at(2.7, ProbeAnswered(CELLULAR, 0.02))
    assert journey.moves() == [Migrate(CELLULAR, "silent")]
    told = send(journey, 2.8, 10.0)
    assert [action for _, action in told if isinstance(action, Migrate)] == [Migrate(WIFI, "returned")]
    assert len([action for _, action in told if action == Probe(WIFI)]) == 5


def test_where_the_user_chose_to_be_losses_are_no_reason_to_leave() -> None:
    journey = busy(WIFI, CELLULAR)
    journey.at(0.0, MoveRequested(WIFI))
    assert send(journey, 0.1, 20.0, lost=0.15) == []


def test_losses_move_nobody_where_the_peer_forbids_it_or_a_program_decides() -> None:
    journey = busy(WIFI, CELLULAR)
    journey.facts = replace(journey.facts, peer_forbids=True)
    assert send(journey, 0.0, 20.0, lost=0.15) == []
    assert send(busy(WIFI, CELLULAR, settings=Migration(auto=False)), 0.0, 20.0, lost=0.15) == []
    for sockets in ("connected", "unconnected"):
        assert send(busy(WIFI, CELLULAR, settings=Migration(sockets=sockets)), 0.0, 20.0, lost=0.15) == []


def test_a_server_that_answers_no_probes_is_not_moved_for_losses() -> None:
    journey = busy(WIFI, CELLULAR)
    journey.at(0.0, ServerSilent(WIFI))
    assert send(journey, 0.1, 20.0, lost=0.15) == []


# Rule 15: metered networks

MODEM_LAST = Migration(metered=["wwan*"])


def test_a_metered_network_is_not_taken_for_losses() -> None:
    assert send(busy(WIFI, CELLULAR, settings=MODEM_LAST), 0.0, 20.0, lost=0.15) == []
    journey = busy(WIFI, CELLULAR, CABLE, settings=MODEM_LAST)
    send(journey, 0.0, 20.0, lost=0.15)
    assert journey.moves()[0] == Migrate(CABLE, "lossy")


def test_in_a_silence_a_metered_network_is_asked_when_the_others_do_not_answer() -> None:
    journey = Journey(WIFI, WIFI, CABLE, CELLULAR, settings=MODEM_LAST, due=True)
    journey.policy.handle(ProbeAnswered(CABLE, 0.02), journey.facts, 0.0)  # So it is the network, not the server.
    told = journey.run(1.7)
    cable = [time for time, action in told if action == Probe(CABLE)]
    cellular = [time for time, action in told if action == Probe(CELLULAR)]
    assert len(cable) == 3
    assert cellular[0] == pytest.approx(cable[-1] + 1.0)
    assert Migrate(CELLULAR, "silent") in journey.at(1.7, ProbeAnswered(CELLULAR, 0.02))


def test_in_a_silence_the_only_other_network_is_asked_at_once_though_it_is_metered() -> None:
    metered, plain = (Journey(WIFI, WIFI, CELLULAR, settings=it, due=True) for it in (MODEM_LAST, Migration()))
    assert metered.run(1.0) == plain.run(1.0)
    assert metered.times(Probe)


def test_on_trust_a_metered_network_is_entered_last() -> None:
    journey = Journey(WIFI, WIFI, CABLE, CELLULAR, settings=MODEM_LAST, due=True)
    journey.run(10.0)
    assert journey.moves()[0] == Migrate(CABLE, "silent")


# Rule 16: max_time_on_non_default

BRIEFLY = Migration(max_time_on_non_default=60.0)


def test_what_the_user_chose_lasts_so_long() -> None:
    for settings, returns in ((BRIEFLY, True), (Migration(), False)):
        journey = Journey(WIFI, WIFI, CELLULAR, settings=settings)
        journey.at(1.0, MoveRequested(CELLULAR))
        journey.at(1.02, ProbeAnswered(CELLULAR, 0.02))
        journey.at(1.04, heard=1.04)
        asked = [time for time, action in journey.run(1000.0) if action == Probe(WIFI)]
        assert bool(asked) is returns
        assert not asked or asked[0] == pytest.approx(61.0, abs=0.1)


def test_a_network_that_was_left_for_its_losses_is_returned_to_at_its_first_answer_by_then() -> None:
    journey = busy(WIFI, CELLULAR, settings=BRIEFLY)
    send(journey, 0.0, 6.0, lost=0.15)
    left = journey.times(Migrate)[0]
    told = send(journey, 6.0, left + 59.5, missing=5) + send(journey, left + 59.5, 100.0)
    (returned,) = (time for time, action in told if action == Migrate(WIFI, "returned"))
    assert returned == pytest.approx(left + 60.0, abs=0.3)


def test_a_network_that_does_not_answer_is_not_returned_to_however_long_that_takes() -> None:
    journey = Journey(CELLULAR, CELLULAR, settings=BRIEFLY)
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    told = journey.run(500.0)
    assert journey.moves() == []
    assert len([action for _, action in told if action == Probe(WIFI)]) <= 3 * 16
    told = send(journey, 500.0, 600.0, missing=1)
    assert len([action for _, action in told if action == Probe(WIFI)]) <= 3 * 3


def test_the_time_begins_anew_with_each_stay() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, settings=BRIEFLY)
    for begin in (1.0, 50.0):
        journey.at(begin, MoveRequested(CELLULAR))
        journey.at(begin + 0.02, ProbeAnswered(CELLULAR, 0.02))
        journey.at(begin + 0.04, heard=begin + 0.04)
        if begin < 50.0:
            journey.at(40.0, MoveRequested(WIFI))
            journey.at(40.02, ProbeAnswered(WIFI, 0.02))
            journey.at(40.04, heard=40.04)
    told = journey.run(200.0)
    assert next(time for time, action in told if action == Probe(WIFI)) == pytest.approx(110.0, abs=0.1)


# What tests of the rules above would not miss, if it were gone


def test_a_question_to_a_network_that_another_replaces_is_given_up() -> None:
    journey = Journey(CELLULAR, CELLULAR, WIFI, CABLE)
    assert journey.at(1.0, RoutesChanged((WIFI, CELLULAR, CABLE))) == [Probe(WIFI)]
    assert journey.at(1.01, RoutesChanged((CABLE, WIFI, CELLULAR))) == [Probe(CABLE)]
    assert journey.at(1.03, ProbeAnswered(WIFI, 0.03)) == []
    assert Migrate(CABLE, "preferred") in journey.at(1.04, ProbeAnswered(CABLE, 0.03))


def test_pauses_are_short_again_after_a_good_while_without_a_failure() -> None:
    journey = Journey()
    journey.at(0.5, ProbeAnswered(CELLULAR, 0.04))
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.run(30.0)  # Wi-Fi does not answer: the pauses have grown.
    journey.at(30.0, RoutesChanged((CELLULAR, WIFI)))
    assert journey.at(200.0, RoutesChanged((WIFI, CELLULAR))) == [Probe(WIFI)]
    asked = [time for time, action in journey.run(202.3) if isinstance(action, Probe)]
    assert asked == pytest.approx([200.08, 200.24, 202.24])


def test_a_server_that_was_thought_silent_and_answers_late_is_asked_from_then_on() -> None:
    journey = silent_server()
    journey.at(2.35, heard=2.35)
    journey.at(2.4, ProbeAnswered(CELLULAR, 0.1))
    assert journey.at(20.0, RoutesChanged((CELLULAR, WIFI))) == [Probe(CELLULAR)]


def test_a_request_for_a_network_that_flaps_asks_at_once() -> None:
    journey = Journey()
    journey.at(1.0, RoutesChanged((WIFI, CELLULAR)))
    journey.at(1.01, RoutesChanged((CELLULAR, WIFI)))
    assert journey.at(1.02, RoutesChanged((WIFI, CELLULAR))) == []
    assert journey.at(1.03, MoveRequested(WIFI)) == [Probe(WIFI)]


def test_in_a_silence_nobody_is_asked_twice_before_a_move_on_trust() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.run(1.6)
    journey.at(1.6, RoutesChanged((WIFI, CELLULAR, CABLE)))  # Cellular is about to be given up by then.
    told = journey.run(4.0)
    assert next(time for time, action in told if action == Migrate(CELLULAR, "silent")) == pytest.approx(2.84)
    assert Probe(CELLULAR) not in [action for _, action in told]


def test_in_a_long_silence_the_others_are_asked_again_between_two_moves_on_trust() -> None:
    journey = Journey(WIFI, WIFI, CELLULAR, due=True)
    journey.run(200.0)
    left, entered = (time for time, action in journey.told if isinstance(action, Migrate) and 60.0 < time < 150.0)
    asked = [time for time, action in journey.told if action == Probe(WIFI) and left < time < entered]
    assert max(pauses_between([left, *asked, entered])) < 17.0
