"""What a client downloads, as it comes out of a pipe: the same for all clients, whoever wrote them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from whimbrel.testing import Sample

_PIECE = 1 << 16


class Body:
    """A named pipe that a client saves into, as if it were a file. It is read as fast as anything comes."""

    def __init__(self, path: Path, size: int, *, on_progress: Callable[[float], None] = lambda _: None) -> None:
        """Make it.

        Args:
            path: where the client saves.
            size: how much it is to be.
            on_progress: called with the part that has come, 0 to 1, on a thread.
        """
        os.mkfifo(path)
        self.path = path
        self.samples: list[Sample] = []
        """When what came; `time.monotonic`."""
        self.received = 0
        self._size = size
        self._on_progress = on_progress
        self._digest = hashlib.sha256()
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name=f"body in {path.name}")
        self._thread.start()

    @property
    def sha256(self) -> str:
        """The hash of what has come."""
        return self._digest.hexdigest()

    def reaches(self, part: float, timeout: float) -> bool:
        """Wait until so much of it has come, 0 to 1; return whether it has."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self.received >= part * self._size, timeout)
            return self.received >= part * self._size

    def comes_after(self, moment: float, timeout: float) -> bool:
        """Wait until something comes later than that moment, as `time.monotonic` has it; return whether it did.

        Args:
            moment: when.
            timeout: seconds after that moment.
        """
        with self._news:
            left = moment + timeout - time.monotonic()
            self._news.wait_for(lambda: self._ended or (self.samples and self.samples[-1][0] > moment), left)
            return bool(self.samples) and self.samples[-1][0] > moment

    def close(self) -> None:
        """Read what is left. The client has ended."""
        # Who never came to open its end would have us wait for it.
        with contextlib.suppress(OSError):
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        with self.path.open("rb", buffering=0) as pipe:
            while piece := pipe.read(_PIECE):
                now = time.monotonic()
                with self._news:
                    self.samples.append((now, len(piece)))
                    self._digest.update(piece)
                    self.received += len(piece)
                    self._news.notify_all()
                self._on_progress(self.received / self._size)
        with self._news:
            self._ended = True
            self._news.notify_all()
