"""What a change of networks cost, from what came when."""

from __future__ import annotations

import math

import pytest

from whimbrel.testing import find_gap, handover_gap, resumption


def steady(begin: float, end: float, gap: float) -> list[tuple[float, int]]:
    """So many bytes every gap seconds."""
    return [(begin + number * gap, 1000) for number in range(round((end - begin) / gap))]


def test_a_stream_that_goes_on_as_usual_has_no_gap() -> None:
    assert handover_gap(steady(0, 10, 0.01), change=5.0) == pytest.approx(0, abs=1e-6)


def test_the_gap_is_the_longest_pause_less_the_usual_one() -> None:
    samples = steady(0, 5.0, 0.01) + steady(5.2, 10, 0.01)
    assert handover_gap(samples, change=5.005) == pytest.approx(0.21 - 0.01, abs=1e-6)


def test_a_pause_after_the_change_counts_while_it_is_near() -> None:
    samples = steady(0, 6.0, 0.01) + steady(6.5, 20, 0.01)
    assert handover_gap(samples, change=5.0) == pytest.approx(0.5, abs=1e-6)
    assert handover_gap(samples, change=2.0) == pytest.approx(0, abs=1e-6)
    assert handover_gap(samples, change=5.0, window=0.5) == pytest.approx(0, abs=1e-6)


def test_a_pause_before_the_change_does_not_count() -> None:
    samples = steady(0, 3.0, 0.01) + steady(3.5, 10, 0.01)
    assert handover_gap(samples, change=5.0) == pytest.approx(0, abs=1e-6)


def test_an_outage_is_one_gap_however_long() -> None:
    samples = steady(0, 5.0, 0.01) + steady(25.0, 30, 0.01)
    assert handover_gap(samples, change=5.0) == pytest.approx(20.0, abs=1e-6)


def test_usual_is_what_it_was_on_the_network_before() -> None:
    samples = steady(0, 4.5, 0.1) + steady(4.5, 5.0, 0.01) + steady(5.1, 10, 0.01)
    assert handover_gap(samples, change=5.0) == pytest.approx(0.11 - 0.1, abs=1e-6)
    assert handover_gap(samples, change=5.0, since=4.5) == pytest.approx(0.11 - 0.01, abs=1e-6)


def test_empty_samples_are_no_bytes() -> None:
    samples = [*steady(0, 5.0, 0.01), (5.1, 0), *steady(5.2, 10, 0.01)]
    assert handover_gap(samples, change=5.0) == pytest.approx(0.2, abs=1e-6)


def test_a_stream_that_ends_at_the_change_has_an_infinite_gap() -> None:
    assert handover_gap(steady(0, 5, 0.01), change=5.0) == math.inf
    assert handover_gap([], change=5.0) == math.inf


def test_a_gap_has_a_beginning() -> None:
    samples = steady(0, 5.0, 0.01) + steady(6.0, 10, 0.01)
    gap = find_gap(samples, change=5.2)
    assert gap.begin == pytest.approx(4.99)
    assert gap.seconds == pytest.approx(1.0)
    gap = find_gap(steady(0, 5, 0.01), change=5.0)
    assert gap.begin == pytest.approx(4.99)
    assert gap.seconds == math.inf


def test_what_came_only_after_the_change_has_no_gap() -> None:
    assert handover_gap([(6.0, 1)], change=5.0) == 0.0


def test_resumption_is_the_time_to_the_first_bytes() -> None:
    samples = [(1.0, 10), (5.05, 0), (5.1, 10)]
    assert resumption(samples, restored=5.0) == pytest.approx(0.1)
    assert resumption(samples, restored=6.0) == math.inf
