"""Crossings that never happened, for the tests of what the demo says about them."""

from __future__ import annotations

from typing import Literal

from whimbrel.cli._demo.crossing import BIN, Captured, Crossing, Plan
from whimbrel.cli._demo.lane import Change, Progress
from whimbrel.testing import SCENARIOS, ConnectionIds, Event, Move

Sockets = Literal["pinned", "unconnected", "connected"]
BEGAN = 1000.0
TOTAL = 1_000_000
WIFI_APPEARS, WIFI_IS_CUT, ENDED = BEGAN + 2.0, BEGAN + 4.0, BEGAN + 6.0


def crossing(sockets: Sockets = "pinned") -> Crossing:
    """One of the scenario `demo`: a kilobyte each 10 ms, 30 ms of nothing after Wi-Fi came, 90 ms after it went."""
    samples, at = [], BEGAN
    while at < ENDED:
        samples.append((at, 1000))
        at += 0.010
        for change, silence in ((WIFI_APPEARS, 0.030), (WIFI_IS_CUT, 0.090)):
            if samples[-1][0] <= change < at:
                at = samples[-1][0] + silence
    migrating = Progress("whimbrel", TOTAL)
    migrating.begin(BEGAN)
    migrating.take({"kind": "received", "at": BEGAN + 1, "received": TOTAL // 2, "interface": "wwan0"})
    migrating.changes = [
        moved(WIFI_APPEARS + 0.020, "wwan0", "wlan0", "preferred"),
        Change(WIFI_IS_CUT, "PathProbed", {"interface": "wwan0", "rtt": 0.040}),
        moved(WIFI_IS_CUT + 0.001, "wlan0", "wwan0", "dead"),
    ]
    migrating.take(ended(ENDED, TOTAL, "equal", samples=[list(sample) for sample in samples]))
    standing = Progress("http.client", TOTAL)
    standing.begin(BEGAN)
    standing.take({"kind": "received", "at": BEGAN + 2, "received": TOTAL // 4, "interface": "wwan0"})
    standing.finish(ENDED + 1, "stalled at 25 %, given up after 5 s without a byte")
    plan = Plan(scenario=SCENARIOS["demo"], sockets=sockets, size=TOTAL)
    made = Crossing(plan, migrating, standing, "equal", began=BEGAN)
    made.events = [Event(WIFI_APPEARS, "wlan0", "join"), Event(WIFI_IS_CUT, "wlan0", "down")]
    made.captured_moves = [
        Move(WIFI_APPEARS + 0.005, "wwan0", "wlan0"), Move(WIFI_IS_CUT + 0.200, "wlan0", "wwan0"),
    ]  # fmt: skip
    wifi = [sample for sample in samples if WIFI_APPEARS <= sample[0] < WIFI_IS_CUT]
    cellular = [sample for sample in samples if sample not in wifi]
    made.captured = {
        "wlan0": Captured(ConnectionIds(frozenset({b"b"}), frozenset({b"x"}), 1), 400, wifi, _bins(2, 4), []),
        "wwan0": Captured(
            ConnectionIds(frozenset({b"a", b"c"}), frozenset({b"x", b"y"}), 0), 600, cellular, _bins(0, 2), _bins(0, 2)
        ),
    }
    return made


def moved(since: float, source: str, target: str, reason: str) -> Change:
    return Change(since, "PathMigrated", {"since": since, "source": source, "target": target, "reason": reason})


def ended(
    at: float, received: int, sha256: str, *, error: str | None = None, samples: object = ()
) -> dict[str, object]:
    return {"kind": "ended", "at": at, "received": received, "sha256": sha256, "error": error, "samples": samples}


def _bins(first: int, last: int) -> list[tuple[float, int]]:
    bins = range(round((BEGAN + first) / BIN), round((BEGAN + last) / BIN))
    return [(number * BIN, 100_000) for number in bins]
