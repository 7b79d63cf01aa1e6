"""The audit log: who opened which tunnel, for how long and how many bytes; who was refused, and why.

A line is one JSON object, so that nothing a client says can look like another line. Tokens are never in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path


class Audit:
    """Writes lines.

    Args:
        file: where to; None: standard error.
        now: the date.

    Raises:
        OSError: the file cannot be written to.
    """

    def __init__(self, file: Path | None, now: Callable[[], datetime]) -> None:
        self._now = now
        self._file: TextIO | None = None
        if file is not None:
            self._file = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "a")

    def tell(self, event: str, **facts: object) -> None:
        """Write one line; what is None is left out. A full disk is no reason to end the tunnels that stand."""
        told: dict[str, object] = {"time": self._now().isoformat(timespec="milliseconds"), "event": event}
        told |= {name: fact for name, fact in facts.items() if fact is not None}
        with contextlib.suppress(OSError):
            print(json.dumps(told, ensure_ascii=True), file=self._file or sys.stderr, flush=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
