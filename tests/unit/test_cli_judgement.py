"""What a connection is said to do about a network that changes. The policy itself has its tests in test_policy.py."""

from __future__ import annotations

import pytest

from whimbrel.cli._judgement import Standing, first_step, next_step
from whimbrel.network import Route

_WLAN0 = Route("wlan0", 3, "10.1.0.2")
_WWAN0 = Route("wwan0", 5, "10.2.0.2")


@pytest.mark.parametrize(
    ("before", "now", "step", "sentence"),
    [
        ([_WWAN0], [_WLAN0, _WWAN0], "probe", "would probe wlan0, then move"),
        ([_WWAN0], [_WLAN0], "move", "would move at once to wlan0: wwan0 is gone"),
        ([_WWAN0], [], "hold", "would hold on until there is a network"),
        ([], [_WLAN0], "resume", "would go on over wlan0"),
        ([_WLAN0, _WWAN0], [_WLAN0], "stay", "would stay on wlan0"),
        ([_WLAN0], [Route("wlan0", 3, "10.1.0.9")], "move", "would move at once: 10.1.0.2 is gone from wlan0"),
        (
            [_WLAN0],
            [_WWAN0, Route("wlan0", 3, "10.1.0.9")],
            "move",
            "would move at once to wwan0: 10.1.0.2 is gone from wlan0",
        ),
    ],
)
def test_it_says_what_a_connection_would_do(before: list[Route], now: list[Route], step: str, sentence: str) -> None:
    assert next_step(before, now) == (step, sentence)


def test_it_begins_with_what_is() -> None:
    assert first_step([_WLAN0, _WWAN0]) == ("connect", "would connect over wlan0")
    assert first_step([]) == ("hold", "no way there: would wait for a network")


@pytest.mark.parametrize(
    ("now", "step", "sentence"),
    [
        ([_WWAN0, _WLAN0], "stay", "would stay on wlan0: the server forbids moving"),
        ([_WWAN0], "hold", "would hold on until wlan0 is back: the server forbids moving"),
        ([], "hold", "would hold on until wlan0 is back: the server forbids moving"),
        ([_WLAN0], "stay", "would stay on wlan0"),
    ],
)
def test_a_server_that_forbids_moving_changes_what_is_done(now: list[Route], step: str, sentence: str) -> None:
    assert next_step([_WLAN0, _WWAN0], now, Standing(peer_forbids=True)) == (step, sentence)


def test_without_a_spare_connection_id_only_what_must_be_is_done() -> None:
    none_left = Standing(spare_ids=0)
    assert next_step([_WLAN0], [_WWAN0, _WLAN0], none_left) == (
        "probe",
        "would probe wwan0, then wait for a spare connection ID before it moves",
    )
    assert next_step([_WLAN0], [_WWAN0], none_left) == (
        "move",
        "would move at once to wwan0, with the old connection ID (the server leaves no spare one): wlan0 is gone",
    )
