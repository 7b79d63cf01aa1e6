"""What the demo knows of a client while it runs: its process, and what that has told."""

from __future__ import annotations

import json
import os
import subprocess
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whimbrel.testing import Sample

RATE_WINDOW = 1.0
"""Seconds that the rate shown is the mean of."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to a client's path, as its connection told."""

    at: float
    kind: str
    """The name of the event's class, such as ``PathMigrated``."""
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes that came one after the other over one network, as far as the client knows."""

    interface: str | None
    size: int


@dataclass
class Progress:
    """How far a client is. Pure: told by messages, asked by the terminal and the report."""

    name: str
    total: int
    began: float = 0.0
    received: int = 0
    interface: str | None = None
    last_byte: float = 0.0
    """When more had come than before."""
    ended: float | None = None
    """When it had all, or failed, or was given up."""
    error: str | None = None
    sha256: str | None = None
    samples: list[Sample] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    longest_stall: float = 0.0
    stalled_at: int = 0
    """Bytes it had when the longest stall began."""
    _recent: deque[Sample] = field(default_factory=deque)

    def begin(self, now: float) -> None:
        """The race is on."""
        self.began = self.last_byte = now

    def take(self, message: dict[str, Any]) -> Change | None:
        """Learn from one message; return what happened to the path, if that is what it tells."""
        match message["kind"]:
            case "received":
                self.interface = message["interface"] or self.interface
                self._advance(message["at"], message["received"])
            case "changed":
                facts = {name: value for name, value in message.items() if name not in ("kind", "at", "change")}
                change = Change(message["at"], message["change"], facts)
                self.changes.append(change)
                return change
            case "ended":
                self.samples = [(at, size) for at, size in message["samples"]]
                # The last bytes may have come long before the end.
                last = self.samples[-1][0] if self.samples else message["at"]
                self._advance(last, message["received"])
                self.sha256 = message["sha256"]
                # Closing the connection afterwards is no part of the transfer.
                self.finish(message["at"] if message["error"] else last, message["error"])
        return None

    def finish(self, now: float, error: str | None) -> None:
        """It is over. Later words do not count."""
        if self.ended is None:
            self.ended, self.error = now, error
            if error is not None:
                self._stalled(now)

    @property
    def fraction(self) -> float:
        return self.received / self.total

    @property
    def whole(self) -> bool:
        return self.ended is not None and self.error is None and self.received == self.total

    def rate(self, now: float) -> float:
        """Bytes a second lately."""
        while self._recent and self._recent[0][0] < now - RATE_WINDOW:
            self._recent.popleft()
        return sum(size for _, size in self._recent) / min(RATE_WINDOW, max(now - self.began, 0.1))

    def _advance(self, at: float, received: int) -> None:
        new = received - self.received
        if new <= 0:
            return
        self._stalled(at)
        self._recent.append((at, new))
        if self.stretches and self.stretches[-1].interface == self.interface:
            new += self.stretches.pop().size
        self.stretches.append(Stretch(self.interface, new))
        self.received, self.last_byte = received, at

    def _stalled(self, until: float) -> None:
        if until - self.last_byte > self.longest_stall:
            self.longest_stall, self.stalled_at = until - self.last_byte, self.received


class Lane:
    """A client's process, and its progress."""

    def __init__(self, progress: Progress, process: subprocess.Popen[bytes]) -> None:
        self.progress = progress
        self.is_ready = False
        self.is_closed = False
        self._process = process
        self._rest = b""
        assert process.stdout is not None, "the demo reads what its clients tell"
        self._output = process.stdout.fileno()

    def fileno(self) -> int:
        return self._output

    def go(self) -> None:
        """Let the client begin."""
        assert self._process.stdin is not None, "the demo tells its clients when to begin"
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def read(self, now: float) -> list[Change]:
        """Take what has come from the process; return what happened to its path."""
        data = os.read(self._output, 1 << 20)
        *lines, self._rest = (self._rest + data).split(b"\n")
        changes = []
        for line in lines:
            message = json.loads(line)
            if message["kind"] == "ready":
                self.is_ready = True
            elif (change := self.progress.take(message)) is not None:
                changes.append(change)
        if not data:
            self.is_ready = self.is_closed = True
            self.progress.finish(now, "its process ended without a word")
        return changes

    def stop(self) -> None:
        """Ask the process to end."""
        self._process.terminate()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
