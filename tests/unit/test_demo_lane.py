"""What the demo knows of a client from what that tells."""

from __future__ import annotations

import io

import pytest

from tests.unit.demo_crossings import crossing, ended, moved
from whimbrel.cli._demo import live
from whimbrel.cli._demo.lane import Change, Progress, Stretch
from whimbrel.testing import Event


def received(at: float, count: int, interface: str | None = "wwan0") -> dict[str, object]:
    return {"kind": "received", "at": at, "received": count, "interface": interface}


@pytest.fixture
def lane() -> Progress:
    progress = Progress("whimbrel", 1000)
    progress.begin(10.0)
    return progress


def test_bytes_are_counted_by_the_network_that_carried_them(lane: Progress) -> None:
    for message in (received(10.1, 100), received(10.2, 300), received(10.3, 500, "wlan0"), received(10.4, 600)):
        lane.take(message)
    assert lane.stretches == [Stretch("wwan0", 300), Stretch("wlan0", 200), Stretch("wwan0", 100)]
    assert lane.fraction == 0.6


def test_a_client_that_cannot_say_which_network_is_where_it_was(lane: Progress) -> None:
    lane.take(received(10.1, 100))
    lane.take(received(10.2, 200, None))
    assert lane.interface == "wwan0"


def test_the_rate_is_that_of_the_last_second(lane: Progress) -> None:
    lane.take(received(10.5, 100))
    assert lane.rate(10.5) == pytest.approx(200)
    lane.take(received(11.5, 400))
    assert lane.rate(11.6) == pytest.approx(300)
    assert lane.rate(13.0) == 0


def test_the_longest_stall_is_remembered_with_its_place(lane: Progress) -> None:
    lane.take(received(11.0, 400))
    lane.take(received(11.1, 400))  # Nothing new: still stalled.
    lane.take(received(15.0, 500))
    lane.take(ended(15.5, 1000, "abc"))
    assert (lane.longest_stall, lane.stalled_at) == (4.0, 400)
    assert lane.whole


def test_words_after_the_end_add_what_was_received_but_do_not_undo_it(lane: Progress) -> None:
    lane.take(received(11.0, 400))
    lane.finish(20.0, "stalled at 40 %")
    lane.take(ended(20.1, 400, "abc", error="stopped", samples=[[11.0, 400]]))
    assert lane.error == "stalled at 40 %"
    assert lane.ended == 20.0
    assert lane.samples == [(11.0, 400)]
    assert not lane.whole


def test_what_happened_to_the_path_is_handed_on(lane: Progress) -> None:
    change = lane.take({"kind": "changed", "at": 11.0, "change": "PathProbed", "interface": "wlan0", "rtt": 0.011})
    assert change == Change(11.0, "PathProbed", {"interface": "wlan0", "rtt": 0.011})
    assert lane.changes == [change]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (moved(0.0, "wwan0", "wlan0", "preferred"), "moved from 5G to Wi-Fi (preferred)"),
        (Change(0.0, "PathProbed", {"interface": "wlan0", "rtt": 0.011}), "was answered over Wi-Fi in 11 ms"),
        (Change(0.0, "PathRejected", {"interface": "eth7", "reason": "no-route"}), "stays away from eth7 (no-route)"),
        (Change(0.0, "NetworkLost", {}), "has no network, and holds on"),
        (
            Change(0.0, "NetworkRestored", {"interface": "wwan0", "outage": 20.0}),
            "has a network again after 20.0 s: 5G",
        ),
        (Change(0.0, "Gap", {"seconds": 0.0123}), "was 12 ms without data around that move"),
    ],
)
def test_changes_are_told_in_words(change: Change, words: str) -> None:
    assert live.happening(change) == words


def test_without_a_terminal_there_are_plain_lines() -> None:
    output = io.StringIO()
    show = live.show(output)
    made = crossing()
    made.migrating.ended = None
    show.begin(made)
    show.event(2.0, Event(1002.0, "wlan0", "join"))
    show.tick(made, made.began + 0.5)
    show.tick(made, made.began + 1.5)
    show.close()
    first, event, tick = output.getvalue().splitlines()
    assert first.startswith("1.0 MB from caddy over 5G. Wi-Fi appears at 25 %")
    assert event == "  2.00 s  Wi-Fi appears"
    assert tick.startswith("  1.50 s  whimbrel 100 %")


def test_on_a_terminal_the_lanes_are_drawn() -> None:
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    output = Terminal()
    show = live.show(output)
    assert isinstance(show, live.Lanes)
    made = crossing()
    show.begin(made)
    show.event(2.0, made.events[0])
    for change in made.migrating.changes:
        show.change(2.0, change)
    show.tick(made, made.began + 2.0)
    show.close()
    for words in ("Wi-Fi appears", "moved from 5G to Wi-Fi", "http.client", "━"):
        assert words in output.getvalue()
