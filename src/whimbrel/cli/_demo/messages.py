"""What the clients' processes tell the demo: one JSON object a line, times on the clock of `time.monotonic`."""

from __future__ import annotations

import json
import sys
import time

INTERVAL = 0.05
"""Seconds between reports of progress: seldom enough not to slow down what it reports on."""


class Reporter:
    """A client's end: standard output."""

    def __init__(self) -> None:
        self._due = 0.0

    def ready(self) -> None:
        """Tell that all is loaded, and wait until all are: start-up is not part of the race."""
        _tell(kind="ready")
        sys.stdin.readline()

    def is_due(self, now: float) -> bool:
        """Whether it is time for another report."""
        if now < self._due:
            return False
        self._due = now + INTERVAL
        return True

    def received(self, at: float, received: int, interface: str | None) -> None:
        """So many bytes in all; the network that carries them now."""
        _tell(kind="received", at=at, received=received, interface=interface)

    def changed(self, **facts: object) -> None:
        """Something happened to the path."""
        _tell(kind="changed", at=time.monotonic(), **facts)

    def ended(self, **facts: object) -> None:
        """No more will come."""
        _tell(kind="ended", at=time.monotonic(), **facts)


def _tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)
