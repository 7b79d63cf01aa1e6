"""What became of one cell of the matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["client", "server"]
"""Whimbrel's."""
Journey = Literal["there and back", "silence", "rebinding"]
Result = Literal["works", "fails", "cannot", "not here"]

JOURNEYS: dict[Journey, str] = {
    "there and back": "5G → Wi-Fi appears → its link is cut → 5G",
    "silence": "5G → Wi-Fi appears → it carries nothing more, with link and address as they were → 5G",
    "rebinding": "the NAT forgets its translations, twice (for Chromium once; gtlsclient changes its own port, once)",
}
SIZE = 3_000_000
"""Bytes of the file that is downloaded."""
RATE = 10e6
"""Bits a second of either radio: slow enough that a step that is late still falls on its place."""
PATIENCE = 30.0
"""Seconds for a download of two or three."""


class Failed(Exception):
    """It did not work. The message says what did not."""


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """A download that came whole, with the moves that it should have."""

    moves: list[str]
    """What is on record of them."""
    linkable: dict[str, int]
    """How many connection IDs an observer saw on both networks, by direction."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One cell, filled in."""

    role: Role
    peer: str
    journey: Journey
    result: Result
    why: str = ""
    """Where it is not "works"; where it is, what else is to be known."""
    version: str = ""
    moves: list[str] = field(default_factory=list)
    linkable: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def expect(condition: bool, otherwise: str) -> None:
    """Hold the outcome to something.

    Raises:
        Failed: it is not so.
    """
    if not condition:
        raise Failed(otherwise)
