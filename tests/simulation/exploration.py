"""Journeys in batches, each from one seed: what became of them, and how to repeat what failed."""

from __future__ import annotations

import base64
import os
import resource
import zlib
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.simulation.journey import Journey, Step, journeys
from tests.simulation.traveller import travel

BATCH = 50
"""Journeys of one seed."""


@dataclass(frozen=True)
class Outcome:
    """What became of one batch."""

    seed: int
    journeys: int
    process: int
    memory: int
    """KiB that its process took at the most so far."""
    failure: str = ""


def explore(number: int) -> Outcome:
    """Go on the journeys of one seed, until one fails; then make that as short as can be."""
    gone = 0
    failed: list[tuple[Journey, Exception]] = []

    @seed(number)
    @settings(
        max_examples=BATCH,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(journeys)
    def go(journey: Journey) -> None:
        nonlocal gone
        gone += 1
        try:
            travel(journey)
        except Exception as error:
            failed.append((journey, error))
            raise

    try:
        go()
    except Exception:
        if not failed:
            raise
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The last one that is tried is the shortest that was found.
    return Outcome(number, gone, os.getpid(), memory, told(number, *failed[-1]) if failed else "")


def told(number: int, journey: Journey, error: Exception) -> str:
    """What failed, and the commands that repeat it."""
    return (
        f"{type(error).__name__}: {error}\n  {journey}\n"
        f'  make sim ARGS="--replay {packed(journey)}"\n  make sim ARGS="--seed {number}" # and all that it began with'
    )


def packed(journey: Journey) -> str:
    """A journey as one word."""
    return base64.urlsafe_b64encode(zlib.compress(repr(journey).encode(), 9)).decode()


def unpacked(text: str) -> Journey:
    """The journey of such a word, or of what it stands for.

    Raises:
        ValueError: it is neither.
    """
    try:
        written = text if text.startswith("Journey(") else zlib.decompress(base64.urlsafe_b64decode(text)).decode()
        journey = eval(written, {"Journey": Journey, "Step": Step})
    except Exception as error:
        raise ValueError(f"{text!r} is no journey") from error
    assert isinstance(journey, Journey)
    return journey


def most_growth(outcomes: list[Outcome]) -> int:
    """How much more a process took after its last batch than after its first, KiB."""
    by_process: dict[int, list[int]] = {}
    for outcome in outcomes:
        by_process.setdefault(outcome.process, []).append(outcome.memory)
    return max(max(taken) - min(taken) for taken in by_process.values())
