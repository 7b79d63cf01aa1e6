"""What the demo knows of a client from what its processes tell."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from tests.unit.demo_crossings import BEGAN, client, crossing, ended, moved, over, received
from whimbrel.cli._demo import live
from whimbrel.cli._demo.crossing import Plan
from whimbrel.cli._demo.lane import Change, Client, Progress, Stretch, Teller
from whimbrel.testing import Event


@pytest.fixture
def lane() -> Client:
    lane = Client("whimbrel", {"down": Progress("down", 1000)})
    lane.begin(10.0)
    return lane


def test_bytes_are_counted_by_the_network_that_carried_them(lane: Client) -> None:
    for message in (
        over(10.0, "wwan0"), received(10.1, 100), received(10.2, 300),
        over(10.2, "wlan0"), received(10.3, 500),
        over(10.3, "wwan0"), received(10.4, 600),
    ):  # fmt: skip
        lane.take(message)
    transfer = lane.transfers["down"]
    assert transfer.stretches == [Stretch("wwan0", 300), Stretch("wlan0", 200), Stretch("wwan0", 100)]
    assert [at for at, _ in transfer.carried["wwan0"]] == [10.1, 10.2, 10.4]
    assert transfer.fraction == 0.6
    assert lane.crossed == [(10.2, "wwan0", "wlan0"), (10.3, "wlan0", "wwan0")]


def test_a_client_that_cannot_say_which_network_is_where_it_was(lane: Client) -> None:
    lane.take(over(10.1, "wwan0"))
    lane.take(over(10.2, None))
    assert lane.interface == "wwan0"


def test_a_move_says_which_network_carries_what_follows(lane: Client) -> None:
    lane.take(over(10.1, "wwan0"))
    lane.take(_told(moved(10.2, "wwan0", "wlan0", "preferred")))
    lane.take(received(10.3, 100))
    assert list(lane.transfers["down"].carried) == ["wlan0"]


def test_the_rate_is_that_of_the_last_second(lane: Client) -> None:
    transfer = lane.transfers["down"]
    lane.take(received(10.5, 100))
    assert transfer.rate(10.5) == pytest.approx(200)
    lane.take(received(11.5, 400, samples=[(11.5, 300)]))
    assert transfer.rate(11.6) == pytest.approx(300)
    assert transfer.rate(13.0) == 0


def test_the_longest_stall_is_remembered_with_its_place(lane: Client) -> None:
    transfer = lane.transfers["down"]
    lane.take(received(11.0, 400))
    lane.take(received(11.1, 400, samples=[]))  # Nothing new: still stalled.
    lane.take(received(15.0, 1000, samples=[(15.0, 600)]))
    lane.take(ended(15.5, "abc"))
    assert (transfer.longest_stall, transfer.stalled_at) == (4.0, 400)
    assert transfer.ended == 15.0  # Closing the connection is no part of it.
    assert lane.whole


def test_words_after_the_end_add_what_was_received_but_do_not_undo_it(lane: Client) -> None:
    lane.take(received(11.0, 400))
    lane.finish(20.0, "stalled at 40 %")
    lane.take(received(20.1, 500, samples=[(11.1, 100)]))
    lane.take(ended(20.1, "abc", error="stopped"))
    assert lane.error == "stalled at 40 %"
    assert lane.ended == 20.0
    assert lane.transfers["down"].samples == [(11.0, 400), (11.1, 100)]
    assert not lane.whole


def test_an_upload_is_over_when_its_server_has_it_and_the_client_knows() -> None:
    lane = client("whimbrel", "up")
    lane.transfers["up"].awaited = {"ended", "answered"}
    lane.take(received(BEGAN + 1, 1_000_000, "up"))
    lane.take(ended(BEGAN + 1, "abc", "up"))
    assert not lane.whole
    lane.take(ended(BEGAN + 2, None, "up", kind="answered"))
    assert lane.ended == BEGAN + 1
    assert lane.transfers["up"].sha256 == "abc"
    assert lane.whole


def test_what_went_wrong_in_one_direction_is_the_clients_error() -> None:
    lane = client("whimbrel", "down", "up")
    lane.take(ended(BEGAN + 2, "abc", "up", error="no more room"))
    assert lane.transfers["down"].ended is None
    lane.take(received(BEGAN + 3, 1_000_000))
    lane.take(ended(BEGAN + 3, "abc"))
    assert lane.ended == BEGAN + 3
    assert lane.error == "no more room"
    assert not lane.whole


def test_while_both_directions_are_under_way_the_one_that_is_ahead_counts() -> None:
    lane = client("whimbrel", "down", "up")
    lane.take(received(BEGAN + 1, 250_000))
    lane.take(received(BEGAN + 1, 600_000, "up"))
    assert lane.fraction == 0.6
    assert lane.received == 850_000


def test_what_happened_to_the_path_is_handed_on(lane: Client) -> None:
    [change] = lane.take({"kind": "changed", "at": 11.0, "change": "PathProbed", "interface": "wlan0", "rtt": 0.011})
    assert change == Change(11.0, "PathProbed", {"interface": "wlan0", "rtt": 0.011})
    assert lane.changes == [change]


def test_the_gap_around_a_move_is_told_for_each_direction_once_the_data_has_settled() -> None:
    lane = client("whimbrel", "down", "up")
    lane.take(_told(moved(BEGAN + 1.2, "wwan0", "wlan0", "dead")) | {"silence": 0.2})
    steady = [(BEGAN + number / 100, 100) for number in range(100)]
    assert lane.take(received(BEGAN + 1.3, 10_000, samples=[*steady, (BEGAN + 1.3, 100)])) == []
    [down] = lane.take(received(BEGAN + 1.8, 20_000, samples=[(BEGAN + 1.31, 100), (BEGAN + 1.8, 100)]))
    assert (down.kind, down.facts["direction"]) == ("Gap", "down")
    [up] = lane.take(received(BEGAN + 1.8, 200, "up", samples=[(BEGAN + 0.9, 100), (BEGAN + 1.8, 100)]))
    assert up.facts == {"seconds": pytest.approx(0.9), "direction": "up"}
    assert lane.take(received(BEGAN + 1.9, 300, "up")) == []


def test_a_process_that_ends_without_a_word_ends_what_cannot_go_on_without_it() -> None:
    lane = client("whimbrel", "down", "up")
    script = 'print(\'{"kind": "ready"}\')'
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    server = Teller(lane, process, ["up"])
    try:
        while not server.is_closed:
            server.read(BEGAN + 1)
    finally:
        server.close()
    assert lane.transfers["up"].error == "its process ended without a word"
    assert lane.transfers["down"].ended is None


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
        (Change(0.0, "Gap", {"seconds": 0.0123, "direction": "down"}), "was 12 ms without data around that move"),
        (
            Change(0.0, "Gap", {"seconds": 0.0123, "direction": "up"}),
            "was 12 ms without uploaded data around that move",
        ),
    ],
)
def test_changes_are_told_in_words(change: Change, words: str) -> None:
    assert live.happening(change) == words


def test_without_a_terminal_there_are_plain_lines() -> None:
    output = io.StringIO()
    show = live.show(output)
    made = crossing()
    made.migrating.transfers["down"].ended = None
    show.begin(made)
    show.event(2.0, Event(1002.0, "wlan0", "join"))
    show.tick(made, made.began + 0.5)
    show.tick(made, made.began + 1.5)
    show.close()
    first, event, tick = output.getvalue().splitlines()
    assert first.startswith("1.0 MB from caddy over 5G. Wi-Fi appears at 25 %")
    assert event == "  2.00 s  Wi-Fi appears"
    assert tick.startswith("  1.50 s  whimbrel 100 %")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_lanes_are_drawn() -> None:
    pytest.importorskip("rich")
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


@pytest.mark.parametrize("output", [io.StringIO(), Terminal()])
def test_each_direction_has_its_lane(output: io.StringIO) -> None:
    pytest.importorskip("rich")
    show = live.show(output)
    made = crossing(direction="both")
    for transfer in made.migrating.transfers.values():
        transfer.ended = None
    show.begin(made)
    show.tick(made, made.began + 2.0)
    show.close()
    for words in ("from and to whimbrel's server (wildcard sockets)", "whimbrel ↓", "whimbrel ↑", "http.client ↑"):
        assert words in output.getvalue().replace("\n", " ")


@pytest.mark.parametrize("output", [io.StringIO(), Terminal()])
def test_a_size_that_nobody_tells_is_no_percentage(output: io.StringIO) -> None:
    pytest.importorskip("rich")
    show = live.show(output)
    made = crossing()
    for each in made.clients:
        each.transfers["down"].total = each.transfers["down"].ended = None
    made.plan = Plan(scenario=None, server="https://example.org/file")
    show.begin(made)
    show.tick(made, made.began + 2.0)
    show.close()
    assert "1.0 MB" in output.getvalue()
    assert "%" not in output.getvalue()
    assert "https://example.org/file, over this machine's own networks" in output.getvalue().replace("\n", " ")


def _told(change: Change) -> dict[str, object]:
    return {"kind": "changed", "at": change.at, "change": change.kind, **change.facts}
