"""How it is noticed that the machine was suspended."""

from __future__ import annotations

import time

from whimbrel.network import Suspension


class Clocks:
    """A machine's two clocks; each look at one takes some time."""

    def __init__(self) -> None:
        self.awake = 100.0
        self.asleep = 7000.0
        self.interrupted = 0.0

    def monotonic(self) -> float:
        self.awake += 1e-6
        return self.awake

    def boottime(self) -> float:
        now = self.awake + self.asleep
        self.awake += self.interrupted
        return now


def test_time_that_passes_awake_is_none() -> None:
    clocks = Clocks()
    suspension = Suspension(clocks.monotonic, clocks.boottime)
    clocks.awake += 3600.0
    assert suspension.passed() == 0.0


def test_a_suspension_is_told_once_and_the_next_one_as_well() -> None:
    clocks = Clocks()
    suspension = Suspension(clocks.monotonic, clocks.boottime)
    for slept in (30.0, 28_800.0):
        clocks.asleep += slept
        assert abs(suspension.passed() - slept) < 0.001
        assert suspension.passed() == 0.0


def test_many_short_ones_add_up() -> None:
    clocks = Clocks()
    suspension = Suspension(clocks.monotonic, clocks.boottime)
    told = 0.0
    for _ in range(20):
        clocks.asleep += 0.3
        told += suspension.passed()
    assert told > 5.0


def test_a_thread_that_is_interrupted_between_the_clocks_has_not_slept() -> None:
    clocks = Clocks()
    clocks.interrupted = 5.0
    suspension = Suspension(clocks.monotonic, clocks.boottime)
    clocks.interrupted = 0.0
    assert suspension.passed() == 0.0
    clocks.interrupted = 5.0
    assert suspension.passed() == 0.0


def test_this_machine_is_awake() -> None:
    suspension = Suspension()
    assert suspension.passed() == 0.0
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= time.monotonic() - 1.0
