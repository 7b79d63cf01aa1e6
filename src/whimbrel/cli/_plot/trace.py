"""What a log tells of paths: how much each carried, its RTT and congestion window, and the moves between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from whimbrel.cli._plot.records import NotReadableError

if TYPE_CHECKING:
    from whimbrel.cli._plot.records import Event, Json, Log

Series = list[tuple[float, float]]
"""Times, in seconds since the beginning, and values."""

_OUTCOMES = {"migration_complete": "complete", "migration_abandoned": "abandoned"}


@dataclass(slots=True)
class PathTrace:
    """One path's part of the log."""

    name: str
    local: str | None = None
    remote: str | None = None
    """IP address and port, as far as the log has them."""
    received: Series = field(default_factory=list)
    sent: Series = field(default_factory=list)
    """Packets: bytes."""
    rtt: Series = field(default_factory=list)
    """Smoothed: seconds."""
    window: Series = field(default_factory=list)
    in_flight: Series = field(default_factory=list)
    """Congestion control: bytes."""


@dataclass(slots=True)
class Move:
    """From one path to another."""

    time: float
    path: PathTrace
    complete: float | None = None
    """When the new path was known to work; None: never, or the log does not say."""
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """All of it."""

    side: str
    paths: list[PathTrace]
    """In the order in which they were used."""
    moves: list[Move]
    probes: list[float]
    """When another path began to be asked."""
    ended: float
    """Seconds from the first event to the last."""


def follow(log: Log) -> Trace:
    """Sort a log's events by path.

    Raises:
        NotReadableError: there is nothing to draw, or a value is not what it should be.
    """
    following = _Following()
    for event in log.events:
        try:
            following.take(event)
        except (AttributeError, TypeError, ValueError) as error:
            raise NotReadableError(f"{event.name} at {event.time:.3f} s is not as qlog has it: {error}") from None
    paths = [path for path in following.paths.values() if path.received or path.sent or path.rtt or path.window]
    if not paths:
        raise NotReadableError("nothing in this qlog tells of packets, RTT or congestion")
    return Trace(log.side, paths, following.moves, following.probes, max(event.time for event in log.events))


class _Following:
    def __init__(self) -> None:
        self.paths: dict[str, PathTrace] = {}
        self.moves: list[Move] = []
        self.probes: list[float] = []
        self._active = ""
        self._tells_moves = False

    def take(self, event: Event) -> None:
        data = event.data
        match event.name:
            case "path_assigned":
                path = self._path(_id(data) or "")
                path.local, path.remote = _end(data, "local") or path.local, _end(data, "remote") or path.remote
            case "migration_state_updated":
                self._migration(event)
            case "packet_received":
                self._path(event.path).received.append((event.time, _size(data)))
            case "packet_sent":
                self._path(event.path).sent.append((event.time, _size(data)))
                # A server's challenge to the path before is not a move, but it tells moves.
                if not self._tells_moves and event.path != self._active:
                    self.moves.append(Move(event.time, self._path(event.path)))
                    self._active = event.path
            case "metrics_updated":
                path = self._path(event.path)
                for series, name, unit in (
                    (path.rtt, "smoothed_rtt", 1000),
                    (path.window, "congestion_window", 1),
                    (path.in_flight, "bytes_in_flight", 1),
                ):
                    if data.get(name) is not None:
                        series.append((event.time, float(data[name]) / unit))

    def _migration(self, event: Event) -> None:
        state, name = event.data["new"], _id(event.data)
        if state == "probing_started":
            self.probes.append(event.time)
        elif state == "migration_started" and name is not None:
            self._tells_moves, self._active = True, name
            self.moves.append(Move(event.time, self._path(name)))
        elif state in _OUTCOMES and self.moves and self.moves[-1].path.name == name:
            move = self.moves[-1]
            move.abandoned = state == "migration_abandoned"
            move.complete = None if move.abandoned else event.time

    def _path(self, name: str) -> PathTrace:
        return self.paths.setdefault(name, PathTrace(name))


def _id(data: Json) -> str | None:
    name = data.get("path_id", data.get("tuple_id"))
    return None if name is None else str(name)


def _end(data: Json, half: str) -> str | None:
    end = data.get(f"path_{half}") or data.get(f"tuple_{half}") or {}
    for family in ("v4", "v6"):
        ip, port = end.get(f"ip_{family}"), end.get(f"port_{family}")
        if ip is not None:
            literal = f"[{ip}]" if ":" in ip and port is not None else ip
            return literal if port is None else f"{literal}:{port}"
    return None


def _size(data: Json) -> float:
    """Of a packet; 0 where the log does not say."""
    raw, header = data.get("raw") or {}, data.get("header") or {}
    return float(raw.get("length") or header.get("packet_size") or header.get("length") or 0)
