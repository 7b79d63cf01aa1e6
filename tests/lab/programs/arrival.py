"""Bytes as they arrive, at either end, and how programs tell of them: one JSON object a line.

All times are of `time.monotonic`, which is the same clock in all processes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

_INTERVAL = 0.02
"""Seconds between reports of progress: seldom enough not to slow down what is reported on."""


def tell(kind: str, **facts: object) -> None:
    """Say something to the test."""
    sys.stdout.write(json.dumps({"kind": kind, "at": time.monotonic(), **facts}) + "\n")
    sys.stdout.flush()


class Arrival:
    """One transfer at its receiver."""

    def __init__(self, number: int) -> None:
        self.samples: list[tuple[float, int]] = []
        self._number = number
        self._digest = hashlib.sha256()
        self._received = 0
        self._due = 0.0

    def take(self, data: bytes) -> None:
        """Take what came, and tell of it now and then."""
        now = time.monotonic()
        self.samples.append((now, len(data)))
        self._digest.update(data)
        self._received += len(data)
        if now >= self._due:
            self._due = now + _INTERVAL
            tell("progress", number=self._number, received=self._received)

    def result(self) -> dict[str, object]:
        """What came, when it was all."""
        return {"received": self._received, "sha256": self._digest.hexdigest(), "samples": self.samples}
