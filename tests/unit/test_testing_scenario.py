"""Scenarios and radios as values. What they do to a network is tested in tests/lab/."""

from __future__ import annotations

import pytest

from whimbrel.testing import SCENARIOS, Radio, Step, flapping, outage


def test_every_scenario_has_a_network_before_the_transfer_begins() -> None:
    for name, scenario in SCENARIOS.items():
        assert scenario.name == name
        assert scenario.about
        assert scenario.steps[0] == Step("cellular", "join")


def test_steps_come_in_the_order_of_the_transfer() -> None:
    for scenario in SCENARIOS.values():
        parts = [step.at for step in scenario.steps if step.at]
        assert parts == sorted(parts)
        assert all(0 <= part < 1 for part in parts)


def test_an_outage_ends_with_the_same_network_or_the_other() -> None:
    assert outage(5).steps[-1] == Step("wifi", "join", after=5)
    assert outage(5, back="cellular").steps[-1] == Step("cellular", "join", after=5)
    assert outage(5).name != outage(5, back="cellular").name


def test_flapping_is_as_many_changes_as_asked_for() -> None:
    changes = [step.action for step in flapping(6).steps if step.network == "wifi"]
    assert changes == ["join", "down"] * 3


@pytest.mark.parametrize("bad", [{"rtt": -1}, {"rate": 0}, {"loss": 1.5}, {"loss": -0.1}, {"queue": 0}])
def test_a_radio_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a radio's"):
        Radio(**bad)
