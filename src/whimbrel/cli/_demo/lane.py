"""What the demo knows of a client while it runs: its transfers, its path, and the processes that tell of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from whimbrel.cli._demo.gaps import gap_around

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from whimbrel.cli._demo.messages import Direction
    from whimbrel.testing import Sample

RATE_WINDOW = 1.0
"""Seconds that the rate shown is the mean of."""
_SETTLED = 0.5
"""Seconds after a move when its gap is told; the report looks longer."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to a client's path, as its connection told."""

    at: float
    kind: str
    """The name of the event's class, such as ``PathMigrated``; or ``Gap``."""
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes that came one after the other over one network, as far as the client knows."""

    interface: str | None
    size: int


@dataclass
class Progress:
    """How far one transfer of a client is. Pure: told by messages, asked by the terminal and the report.

    Bytes count when their receiver has them: for an upload to our own server, that is the server's word.
    """

    direction: Direction
    total: int | None
    """Bytes that there are; None: not known yet, or never."""
    awaited: set[str] = field(default_factory=lambda: {"ended"})
    """Kinds of messages that are still to come before it is over."""
    began: float = 0.0
    received: int = 0
    last_byte: float = 0.0
    """When more had come than before."""
    ended: float | None = None
    """When it was complete, or failed, or was given up."""
    error: str | None = None
    sha256: str | None = None
    """Of what came, as its receiver says."""
    samples: list[Sample] = field(default_factory=list)
    carried: dict[str, list[Sample]] = field(default_factory=dict)
    """The same, by the network that the client was on."""
    stretches: list[Stretch] = field(default_factory=list)
    longest_stall: float = 0.0
    stalled_at: int = 0
    """Bytes it had when the longest stall began."""
    _recent: deque[Sample] = field(default_factory=deque)

    def begin(self, now: float) -> None:
        """The race is on."""
        self.began = self.last_byte = now

    def take(self, message: dict[str, Any], interface: str | None) -> None:
        """Learn from one message; ``interface``: the client's network."""
        match message["kind"]:
            case "total":
                self.total = message["total"]
            case "received":
                self._came([(at, size) for at, size in message["samples"]], message["received"], interface)
            case "ended" | "answered" as kind:
                self.sha256 = message.get("sha256") or self.sha256
                self._over(kind, message["at"], message["error"])

    def finish(self, now: float, error: str | None) -> None:
        """It is over. Later words do not count."""
        if self.ended is None:
            self.ended, self.error = now, error
            if error is not None:
                self._stalled(now)

    @property
    def fraction(self) -> float:
        """Part of it that has come, 0 to 1; 0 where the whole is not known."""
        return self.received / self.total if self.total else 0.0

    @property
    def whole(self) -> bool:
        return self.ended is not None and self.error is None and self.total in (None, self.received)

    def rate(self, now: float) -> float:
        """Bytes a second lately."""
        while self._recent and self._recent[0][0] < now - RATE_WINDOW:
            self._recent.popleft()
        return sum(size for _, size in self._recent) / min(RATE_WINDOW, max(now - self.began, 0.1))

    def _over(self, kind: str, at: float, error: str | None) -> None:
        if error is not None:
            self.finish(at, error)
        self.awaited.discard(kind)
        if not self.awaited:
            # The last bytes may have come long before: closing the connection afterwards is no part of the transfer.
            self.finish(self.samples[-1][0] if self.samples else at, None)

    def _came(self, samples: list[Sample], received: int, interface: str | None) -> None:
        self.samples += samples
        self.carried.setdefault(interface or "?", []).extend(samples)
        for at, size in samples:
            self._stalled(at)
            self.last_byte = max(at, self.last_byte)
            self._recent.append((at, size))
        if (new := received - self.received) > 0:
            if self.stretches and self.stretches[-1].interface == interface:
                new += self.stretches.pop().size
            self.stretches.append(Stretch(interface, new))
            self.received = received

    def _stalled(self, until: float) -> None:
        if until - self.last_byte > self.longest_stall:
            self.longest_stall, self.stalled_at = until - self.last_byte, self.received


@dataclass
class Client:
    """A client, as its process and its server's tell: one connection, one transfer in each direction or in one."""

    name: str
    transfers: dict[Direction, Progress]
    interface: str | None = None
    """The network it is on."""
    changes: list[Change] = field(default_factory=list)
    crossed: list[tuple[float, str, str]] = field(default_factory=list)
    """When it was found to be on another network, and which it was and is: where nobody else tells."""
    _moves: list[tuple[float, float]] = field(default_factory=list)  # When, and when the old network fell silent.
    _gaps_told: dict[Direction, int] = field(default_factory=dict)

    def begin(self, now: float) -> None:
        """The race is on."""
        for transfer in self.transfers.values():
            transfer.begin(now)

    def take(self, message: dict[str, Any]) -> list[Change]:
        """Learn from one message; return what happened to the path, if it tells of that."""
        match message["kind"]:
            case "over":
                self._is_over(message["at"], message["interface"])
            case "changed":
                facts = {name: value for name, value in message.items() if name not in ("kind", "at", "change")}
                return [self._changed(Change(message["at"], message["change"], facts))]
            case _:
                transfer = self.transfers[message["direction"]]
                transfer.take(message, self.interface)
                return list(self._gaps(transfer, message["at"]))
        return []

    def finish(self, now: float, error: str) -> None:
        """Nothing more will come of what is not over yet."""
        for transfer in self.transfers.values():
            transfer.finish(now, error)

    @property
    def ended(self) -> float | None:
        """When all was over; None: it is not yet."""
        ends = [transfer.ended for transfer in self.transfers.values()]
        return None if None in ends else max(filter(None, ends))

    @property
    def error(self) -> str | None:
        """What went wrong first."""
        failed = [transfer for transfer in self.transfers.values() if transfer.error is not None]
        return min(failed, key=lambda transfer: transfer.ended or math.inf).error if failed else None

    @property
    def whole(self) -> bool:
        return all(transfer.whole for transfer in self.transfers.values())

    @property
    def received(self) -> int:
        return sum(transfer.received for transfer in self.transfers.values())

    @property
    def fraction(self) -> float:
        """Part that is done of the transfer that is ahead: while it is not 1, all of them are under way."""
        return max(transfer.fraction for transfer in self.transfers.values())

    def _is_over(self, at: float, interface: str | None) -> None:
        if interface is None:
            return
        if self.interface not in (None, interface):
            self.crossed.append((at, self.interface or "", interface))
        self.interface = interface

    def _changed(self, change: Change) -> Change:
        self.changes.append(change)
        if change.kind == "PathMigrated":
            self.interface = change.facts["target"] or self.interface
            self._moves.append((change.facts["since"], change.facts["since"] - change.facts.get("silence", 0.0)))
        return change

    def _gaps(self, transfer: Progress, now: float) -> Iterator[Change]:
        """The gaps that can be told by now."""
        number = self._gaps_told.get(transfer.direction, 0)
        last = transfer.samples[-1][0] if transfer.samples else -math.inf
        while number < len(self._moves) and last > self._moves[number][0] + _SETTLED:
            since = self._moves[number - 1][1] if number else -math.inf
            until = self._moves[number + 1][1] if number + 1 < len(self._moves) else math.inf
            gap = gap_around(transfer.samples, self._moves[number][1], since=since, until=until)
            number = self._gaps_told[transfer.direction] = number + 1
            yield Change(now, "Gap", {"seconds": gap.seconds, "direction": transfer.direction})


class Teller:
    """A process that tells of a client: the client's own, or its server's."""

    def __init__(self, client: Client, process: subprocess.Popen[bytes], directions: Collection[Direction]) -> None:
        """Listen to a process.

        Args:
            client: whom it tells of.
            process: started, with pipes.
            directions: the transfers that cannot end without it.
        """
        self.client = client
        self.is_ready = False
        self.is_closed = False
        self._directions = directions
        self._process = process
        self._rest = b""
        assert process.stdout is not None, "the demo reads what its processes tell"
        self._output = process.stdout.fileno()

    def fileno(self) -> int:
        return self._output

    def go(self) -> None:
        """Let it begin."""
        if self._process.stdin is not None:
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()

    def read(self, now: float) -> list[Change]:
        """Take what has come from the process; return what happened to the client's path."""
        data = os.read(self._output, 1 << 20)
        *lines, self._rest = (self._rest + data).split(b"\n")
        changes = []
        for line in lines:
            message = json.loads(line)
            if message["kind"] == "ready":
                self.is_ready = True
            else:
                changes += self.client.take(message)
        if not data:
            self.is_ready = self.is_closed = True
            for direction in self._directions:
                self.client.transfers[direction].finish(now, "its process ended without a word")
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
