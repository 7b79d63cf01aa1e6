"""What the processes of the demo tell it: one JSON object a line, times on the clock of `time.monotonic`."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing_extensions import Buffer

Direction = Literal["down", "up"]
"""Which way a transfer's bytes go, as the device sees it."""

INTERVAL = 0.05
"""Seconds between reports of progress: seldom enough not to slow down what it reports on."""


class Reporter:
    """A process's end: standard output."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def ready(self) -> None:
        """Tell that all is loaded, and wait until all are: start-up is not part of the race."""
        self.tell("ready")
        sys.stdin.readline()

    def tell(self, kind: str, **facts: object) -> None:
        """Say something; from any thread."""
        line = json.dumps({"kind": kind, "at": time.monotonic(), **facts}) + "\n"
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()


class Arrival:
    """The bytes of one transfer as they arrive, told of in batches."""

    def __init__(self, reporter: Reporter, direction: Direction) -> None:
        self._reporter = reporter
        self._direction = direction
        self._received = 0
        self._is_here = False  # The bytes themselves, not only their number.
        self._digest = hashlib.sha256()
        self._samples: list[tuple[float, int]] = []
        self._due = 0.0

    def expect(self, total: int) -> None:
        """Tell how many bytes it will be."""
        self._reporter.tell("total", direction=self._direction, total=total)

    def take(self, data: Buffer) -> None:
        """Bytes came."""
        self._is_here = True
        self._digest.update(data)
        self.count(memoryview(data).nbytes)

    def count(self, new: int) -> None:
        """So many bytes came, whatever they are."""
        now = time.monotonic()
        self._received += new
        self._samples.append((now, new))
        if now >= self._due:
            self._due = now + INTERVAL
            self.flush()

    def end(self, error: str | None = None, *, sha256: str | None = None) -> None:
        """No more will come. Without an error this is all there was.

        Args:
            error: what went wrong.
            sha256: the hash, where somebody else had the bytes.
        """
        self.flush()
        if sha256 is None and self._is_here:
            sha256 = self._digest.hexdigest()
        self._reporter.tell("ended", direction=self._direction, error=error, sha256=sha256)

    def flush(self) -> None:
        """Tell of what has come at once."""
        samples, self._samples = self._samples, []
        self._reporter.tell("received", direction=self._direction, received=self._received, samples=samples)
