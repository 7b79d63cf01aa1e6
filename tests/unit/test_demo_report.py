"""What a crossing cost, and how it is told."""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING

import pytest

from tests.unit.demo_crossings import BEGAN, TOTAL, WIFI_APPEARS, WIFI_IS_CUT, crossing, moved
from whimbrel.cli._demo import summary
from whimbrel.cli._demo.gaps import gap_around
from whimbrel.cli._demo.report import Report, bins, fate, rates, sentence
from whimbrel.testing import SCENARIOS, Event

if TYPE_CHECKING:
    from pathlib import Path

    from whimbrel.cli._demo.messages import Direction


def test_the_json_has_the_documented_fields() -> None:
    told = json.loads(json.dumps(Report(crossing()).as_json()))
    assert told["scenario"] == "demo"
    assert told["sockets"] == "pinned"
    assert told["server"] == "caddy"
    assert told["bytes"] == TOTAL
    assert told["seconds"] == 6.0
    assert told["sha256_equal"] is True
    assert [(move["from"], move["to"], move["reason"]) for move in told["moves"]] == [
        ("wwan0", "wlan0", "preferred"),
        ("wlan0", "wwan0", "dead"),
    ]
    assert told["networks"]["wlan0"]["bytes"] == 400
    assert told["networks"]["wwan0"]["connection_ids"] == {"to_server": ["61", "63"], "to_client": ["78", "79"]}
    assert told["linkable_connection_ids"] == {"to_server": [], "to_client": ["78"]}
    assert told["other_client"]["fate"] == "stalled at 25 %, given up after 5 s without a byte"
    assert told["other_client"]["sha256_equal"] is False


def test_a_gap_is_counted_from_where_the_network_changed_and_less_what_is_usual() -> None:
    first, second = Report(crossing()).moves
    assert first.gaps["down"].seconds == pytest.approx(0.020, abs=0.001)
    assert second.gaps["down"].seconds == pytest.approx(0.080, abs=0.001)


def test_a_gap_belongs_to_the_change_it_began_with() -> None:
    samples = [(0.0, 1), (0.1, 1), (0.2, 1), (1.2, 1), (1.3, 1)]
    assert gap_around(samples, 0.05, since=0.0, until=0.21).seconds == pytest.approx(0.1)
    assert gap_around(samples, 0.21, since=0.05, until=math.inf).seconds == pytest.approx(0.9)


def test_a_long_gap_belongs_to_the_change_that_made_it_and_not_to_the_one_that_ended_it() -> None:
    samples = [(0.0, 1), (0.1, 1), (20.2, 1), (20.3, 1)]
    assert gap_around(samples, 0.099, since=0.0, until=20.1).seconds == pytest.approx(20.1)


def test_where_the_kernel_moves_packets_the_radios_tell_when() -> None:
    report = Report(crossing("unconnected"))
    assert [(move.at, move.reason) for move in report.moves] == [
        (WIFI_APPEARS + 0.005, "kernel"), (WIFI_IS_CUT + 0.200, "kernel"),
    ]  # fmt: skip
    assert [round(move.gaps["down"].seconds, 3) for move in report.moves] == [0.020, 0.080]


def test_an_outage_says_how_soon_it_went_on() -> None:
    made = crossing()
    made.events = [Event(WIFI_IS_CUT, "wwan0", "down"), Event(WIFI_IS_CUT + 0.05, "wlan0", "join")]
    _, back = Report(made).events
    assert back.resumptions is not None
    assert 0 < back.resumptions["down"] < 0.090


def test_what_does_not_arrive_whole_is_a_failure() -> None:
    made = crossing()
    made.sha256 = {"down": "another"}
    report = Report(made)
    assert not report.sha256_equal
    assert report.failure is not None
    assert "another hash" in report.failure
    made.migrating.transfers["down"].error = "stalled at 61 %"
    assert Report(made).failure == "the transfer failed: stalled at 61 %"


def test_a_move_of_its_own_accord_has_its_place_between_the_events() -> None:
    made = crossing()
    made.migrating.changes.insert(2, moved(WIFI_APPEARS + 1, "wlan0", "wwan0", "silent"))
    story = [
        (happened and happened.event.action, [move.reason for move in moves])
        for happened, moves in Report(made).story()
    ]
    assert story == [("join", ["preferred"]), (None, ["silent"]), ("down", ["dead"])]


def test_nothing_after_a_change_is_no_number_in_json() -> None:
    made = crossing()
    transfer = made.migrating.transfers["down"]
    transfer.samples = [sample for sample in transfer.samples if sample[0] < WIFI_IS_CUT]
    assert Report(made).as_json()["moves"][1]["handover_gap_ms"] is None


def test_a_trickle_before_the_end_is_no_recovery() -> None:
    made = crossing()
    transfer = made.migrating.transfers["down"]
    transfer.samples = [sample for sample in transfer.samples if sample[0] < WIFI_IS_CUT + 1.2]
    transfer.error = "stalled at 60 %"
    assert [math.isfinite(move.gaps["down"].seconds) for move in Report(made).moves] == [True, False]


def test_the_fate_of_a_client_is_told_in_a_few_words() -> None:
    client = crossing().standing
    assert client is not None
    standing = client.transfers["down"]
    standing.error = "[Errno 104] Connection reset by peer"
    assert fate(standing) == "[Errno 104] Connection reset by peer at 25 %"
    standing.error, standing.ended = None, BEGAN + 30
    assert fate(standing) == "done in 30.0 s, 5.0 s of them stalled at 25 %"
    standing.total = None
    assert fate(standing) == "done in 30.0 s, 5.0 s of them stalled at 250.0 kB"


def test_every_step_of_every_scenario_has_a_sentence() -> None:
    for scenario in SCENARIOS.values():
        for step in scenario.steps:
            interface = "wlan0" if step.network == "wifi" else "wwan0"
            assert sentence(Event(0.0, interface, step.action))


def test_a_curve_has_a_value_for_every_bin() -> None:
    times, curve = rates([(10.1, 125_000)], 10.0, 10.5, 0.1)
    assert len(times) == len(curve) == 6
    assert max(curve) == curve[1] == pytest.approx(10.0)


def test_the_summary_has_all_that_matters() -> None:
    output = io.StringIO()
    summary.show(Report(crossing()), output)
    text = output.getvalue()
    assert "SHA-256 equal" in text
    assert "http.client (TCP, cubic): stalled at 25 %" in text
    assert "2.00 s  Wi-Fi appears  5G → Wi-Fi after 20 ms (preferred)  20 ms" in text
    assert "0 to the server, 1 to the client" in text


def test_a_stall_by_design_is_explained() -> None:
    made = crossing("unconnected")
    made.migrating.transfers["down"].error = "stalled at 60 %"
    made.plan = type(made.plan)(scenario=SCENARIOS["portal"], sockets="unconnected")
    assert "Unconnected sockets cannot survive this" in str(list(summary.parts(Report(made)))[-1])


def test_the_picture_is_drawn_as_svg_and_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from whimbrel.cli._demo.picture import draw

    svg, png = draw(Report(crossing()), tmp_path / "a.b")
    assert (svg.name, png.name) == ("a.b.svg", "a.b.png")
    assert svg.read_bytes().startswith(b"<?xml")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_labels_do_not_cover_each_other() -> None:
    from whimbrel.cli._demo.picture import labels_of
    from whimbrel.cli._figures import rows_of

    assert rows_of([(0.0, "long enough"), (0.1, "long enough"), (9.0, "x")], 10.0) == [0, 1, 0]
    labels = labels_of(Report(crossing()))
    assert labels[0] == (2.0, "Wi-Fi appears\nto Wi-Fi, gap 20 ms")
    many = crossing()
    many.events = [Event(BEGAN + number / 10, "wlan0", "join") for number in range(1, 30)]
    assert [text for _, text in labels_of(Report(many))] == [
        "Wi-Fi appears at 25 %, and is cut at 60 %\nlongest gap 80 ms"
    ]


def test_a_client_that_was_left_out_is_nowhere(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from whimbrel.cli._demo.picture import draw

    made = crossing()
    made.standing = None
    report = Report(made)
    assert report.as_json()["other_client"] is None
    assert not any("http.client" in str(part) for part in summary.parts(report))
    svg, _ = draw(report, tmp_path / "alone")
    assert svg.exists()


def test_each_direction_has_its_gaps_at_its_own_receiver() -> None:
    told = json.loads(json.dumps(Report(crossing(direction="both")).as_json()))
    assert (told["direction"], told["dispatch"]) == ("both", "wildcard")
    assert told["bytes"] == 2 * TOTAL
    assert {way: transfer["sha256_equal"] for way, transfer in told["transfers"].items()} == {"down": True, "up": True}
    first, second = told["moves"]
    gaps = [
        {way: figures["handover_gap_ms"] for way, figures in move["directions"].items()} for move in (first, second)
    ]
    assert gaps == [
        {"down": pytest.approx(20, abs=1), "up": pytest.approx(60, abs=1)},
        {"down": pytest.approx(80, abs=1), "up": pytest.approx(120, abs=1)},
    ]
    assert first["handover_gap_ms"] == gaps[0]["down"]
    assert told["events"][1]["directions"]["up"]["gap_ms"] == gaps[1]["up"]


def test_where_only_an_upload_is_its_gaps_are_the_gaps() -> None:
    told = Report(crossing(direction="up")).as_json()
    assert [round(move["handover_gap_ms"]) for move in told["moves"]] == [60, 120]
    assert list(told["moves"][0]["directions"]) == ["up"]


def test_an_upload_counts_where_the_server_stored_it_as_it_was() -> None:
    made = crossing(direction="both")
    made.stored_sha256 = "another"
    report = Report(made)
    assert (report.equal("down"), report.equal("up"), report.sha256_equal) == (True, False, False)
    assert report.failure is not None


def test_a_direction_that_was_through_before_a_change_has_no_gap_there() -> None:
    made = crossing(direction="both")
    up = made.migrating.transfers["up"]
    up.samples = [sample for sample in up.samples if sample[0] < WIFI_IS_CUT - 1]
    up.ended = up.samples[-1][0]
    report = Report(made)
    assert list(report.moves[1].gaps) == ["down"]
    assert report.as_json()["moves"][1]["handover_gap_ms"] is not None
    output = io.StringIO()
    summary.show(report, output)
    assert "was done" in output.getvalue()


def test_a_gap_says_when_it_began_as_seen_from_the_change_and_from_the_move() -> None:
    made = crossing()
    told = Report(made).as_json()
    begins = told["events"][0]["gap_begins_ms"]
    assert -10 <= begins["after_change"] <= 0
    assert begins["after_move"] == pytest.approx(begins["after_change"] - 20, abs=0.2)
    assert told["moves"][0]["gap_begins_ms"] == begins
    # A loss long after the move is another gap, if it is the longest.
    transfer = made.migrating.transfers["down"]
    transfer.samples = [(at, size) for at, size in transfer.samples if not WIFI_APPEARS + 1.0 < at < WIFI_APPEARS + 1.5]
    assert Report(made).as_json()["events"][0]["gap_begins_ms"]["after_move"] == pytest.approx(975, abs=10)


def test_over_ones_own_networks_the_other_client_has_the_measure() -> None:
    made = crossing()
    made.plan = type(made.plan)(scenario=None, server="https://example.org/file")
    made.events, made.captured, made.captured_moves, made.sha256 = [], {}, [], {}
    report = Report(made)
    assert report.sha256_equal is None
    assert report.failure is None
    told = report.as_json()
    assert (told["scenario"], told["server"]) == (None, "https://example.org/file")
    assert told["linkable_connection_ids"] is None
    assert {interface: network["connection_ids"] for interface, network in told["networks"].items()} == {
        "wlan0": None, "wwan0": None,
    }  # fmt: skip
    assert sum(network["bytes"] for network in told["networks"].values()) == sum(
        size for _, size in made.migrating.transfers["down"].samples
    )
    text = "\n".join(str(part) for part in summary.parts(report))
    assert "SHA-256 unknown" in text
    assert "nothing can be said of the hash" in text
    assert "Nothing was captured" in text
    made.sha256 = {"down": "equal"}
    assert Report(made).sha256_equal is True


@pytest.mark.parametrize("direction", ["up", "both"])
def test_each_direction_is_drawn(tmp_path: Path, direction: Direction) -> None:
    pytest.importorskip("matplotlib")
    from whimbrel.cli._demo.picture import draw

    svg, _ = draw(Report(crossing(direction=direction)), tmp_path / direction)
    assert svg.exists()


def test_bytes_are_counted_in_bins() -> None:
    assert bins([(1.01, 5), (1.09, 6), (3.05, 7)], 0.5) == [(1.0, 11), (3.0, 7)]
