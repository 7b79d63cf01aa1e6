"""What was sent and received on each path of a connection.

The engine counts for the connection as a whole. So its counts are noted whenever a path is left, and a path's share is
the difference.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whimbrel._path import Path

if TYPE_CHECKING:
    from whimbrel import _core

KEPT = 32
"""Paths that were left, the last ones; a network that flaps would otherwise fill memory."""


@dataclass(frozen=True, slots=True)
class PathStats:
    """What one path carried while it was the active one.

    Counted until the move away from it is told: what arrives on it later, or before an event loop that is blocked
    hears of the move, counts for its neighbour.
    """

    path: Path
    bytes_sent: int
    """UDP payload."""
    bytes_received: int
    packets_sent: int
    packets_lost: int
    """Packets declared lost (RFC 9002 §6) in that time."""


class Ledger:
    """The accounts of one connection."""

    __slots__ = ("_closed", "_noted")

    def __init__(self) -> None:
        self._closed: deque[PathStats] | None = None  # Most connections never move.
        self._noted = (0, 0, 0, 0)

    def leave(self, path: Path, totals: _core.Stats) -> None:
        """A path is left: its account is closed."""
        if self._closed is None:
            self._closed = deque(maxlen=KEPT)
        self._closed.append(self._account(path, totals))
        self._noted = _counts(totals)

    def accounts(self, path: Path, totals: _core.Stats) -> tuple[PathStats, ...]:
        """All of them, oldest first, and last that of the active path."""
        return (*(self._closed or ()), self._account(path, totals))

    def _account(self, path: Path, totals: _core.Stats) -> PathStats:
        since = (now - noted for now, noted in zip(_counts(totals), self._noted, strict=True))
        return PathStats(path, *since)


def _counts(totals: _core.Stats) -> tuple[int, int, int, int]:
    return totals.bytes_sent, totals.bytes_received, totals.packets_sent, totals.packets_lost
