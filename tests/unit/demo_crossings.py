"""Crossings that never happened, for the tests of what the demo says about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from whimbrel.cli._demo.crossing import BIN, Captured, Crossing, Plan
from whimbrel.cli._demo.lane import Change, Client, Progress
from whimbrel.testing import SCENARIOS, ConnectionIds, Event, Move

if TYPE_CHECKING:
    from whimbrel.cli._demo.messages import Direction

Sockets = Literal["pinned", "unconnected", "connected"]
BEGAN = 1000.0
TOTAL = 1_000_000
WIFI_APPEARS, WIFI_IS_CUT, ENDED = BEGAN + 2.0, BEGAN + 4.0, BEGAN + 6.0


def crossing(sockets: Sockets = "pinned", direction: Direction | Literal["both"] = "down") -> Crossing:
    """One of the scenario `demo`: a kilobyte each 10 ms, 30 ms of nothing after Wi-Fi came, 90 ms after it went.

    An upload is the same, but 40 ms later at each place.
    """
    server = "caddy" if direction == "down" else "whimbrel"
    dispatch: Literal["wildcard"] | None = None if direction == "down" else "wildcard"
    plan = Plan(
        scenario=SCENARIOS["demo"], sockets=sockets, size=TOTAL, direction=direction, server=server, dispatch=dispatch
    )
    samples = _samples(0.030, 0.090)
    migrating, standing = client("whimbrel", *plan.directions), client("http.client", *plan.directions)
    migrating.take(over(BEGAN, "wwan0"))
    standing.take(over(BEGAN, "wwan0"))
    for way, transfer in migrating.transfers.items():
        transfer.take(received(BEGAN + 1, TOTAL // 2, way), "wwan0")
        came = samples if way == "down" else _samples(0.070, 0.130)
        transfer.take(ended(ENDED, "equal", way), "wlan0")
        transfer.received, transfer.samples, transfer.ended = TOTAL, came, came[-1][0]
        transfer.carried = {"wlan0": _during(came, wifi=True), "wwan0": _during(came, wifi=False)}
    migrating.changes = [
        moved(WIFI_APPEARS + 0.020, "wwan0", "wlan0", "preferred"),
        Change(WIFI_IS_CUT, "PathProbed", {"interface": "wwan0", "rtt": 0.040}),
        moved(WIFI_IS_CUT + 0.001, "wlan0", "wwan0", "dead"),
    ]
    for way in plan.directions:
        standing.take(received(BEGAN + 2, TOTAL // 4, way))
    standing.finish(ENDED + 1, "stalled at 25 %, given up after 5 s without a byte")
    made = Crossing(plan, migrating, standing, dict.fromkeys(plan.directions, "equal"), "equal", began=BEGAN)
    made.events = [Event(WIFI_APPEARS, "wlan0", "join"), Event(WIFI_IS_CUT, "wlan0", "down")]
    made.captured_moves = [
        Move(WIFI_APPEARS + 0.005, "wwan0", "wlan0"), Move(WIFI_IS_CUT + 0.200, "wlan0", "wwan0"),
    ]  # fmt: skip
    wifi, cellular = _during(samples, wifi=True), _during(samples, wifi=False)
    made.captured = {
        "wlan0": Captured(ConnectionIds(frozenset({b"b"}), frozenset({b"x"}), 1), 400, wifi, _bins(2, 4), []),
        "wwan0": Captured(
            ConnectionIds(frozenset({b"a", b"c"}), frozenset({b"x", b"y"}), 0), 600, cellular, _bins(0, 2), _bins(0, 2)
        ),
    }
    return made


def moved(since: float, source: str, target: str, reason: str) -> Change:
    return Change(since, "PathMigrated", {"since": since, "source": source, "target": target, "reason": reason})


def client(name: str, *directions: Direction) -> Client:
    """One that has begun."""
    made = Client(name, {way: Progress(way, TOTAL) for way in directions})
    made.begin(BEGAN)
    return made


def over(at: float, interface: str | None) -> dict[str, object]:
    return {"kind": "over", "at": at, "interface": interface}


def received(
    at: float, count: int, direction: Direction = "down", samples: list[tuple[float, int]] | None = None
) -> dict[str, object]:
    told = [(at, count)] if samples is None else samples
    return {"kind": "received", "at": at, "direction": direction, "received": count, "samples": told}


def ended(
    at: float, sha256: str | None, direction: Direction = "down", *, error: str | None = None, kind: str = "ended"
) -> dict[str, object]:
    return {"kind": kind, "at": at, "direction": direction, "sha256": sha256, "error": error}


def _samples(wifi_appears: float, wifi_is_cut: float) -> list[tuple[float, int]]:
    samples, at = [], BEGAN
    while at < ENDED:
        samples.append((at, 1000))
        at += 0.010
        for change, silence in ((WIFI_APPEARS, wifi_appears), (WIFI_IS_CUT, wifi_is_cut)):
            if samples[-1][0] <= change < at:
                at = samples[-1][0] + silence
    return samples


def _during(samples: list[tuple[float, int]], *, wifi: bool) -> list[tuple[float, int]]:
    return [sample for sample in samples if (WIFI_APPEARS <= sample[0] < WIFI_IS_CUT) == wifi]


def _bins(first: int, last: int) -> list[tuple[float, int]]:
    bins = range(round((BEGAN + first) / BIN), round((BEGAN + last) / BIN))
    return [(number * BIN, 100_000) for number in bins]
