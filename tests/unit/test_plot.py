"""``whimbrel plot``: what it reads, what it makes of that, and what it says of files that are something else."""

from __future__ import annotations

import builtins
import json
from typing import TYPE_CHECKING, Any

import pytest

from whimbrel.cli import main
from whimbrel.cli._plot.drawing import bin_width, rates
from whimbrel.cli._plot.records import parse
from whimbrel.cli._plot.trace import follow

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]

HEADER: Json = {
    "qlog_version": "0.3",
    "qlog_format": "JSON-SEQ",
    "trace": {"vantage_point": {"type": "client"}, "common_fields": {"time_format": "relative"}},
}


def event(time: float, name: str, path: str = "", **data: Any) -> Json:
    return {"time": time, "name": name, "path": path, "data": data}


def assigned(path: str, local: str, port: int, **other: Any) -> Json:
    ends = {"path_local": {"ip_v4": local, "port_v4": port}, "path_remote": {"ip_v6": "2001:db8::1", "port_v6": 443}}
    return event(0, "connectivity:path_assigned", path, path_id=path, **ends, **other)


def packet(time: float, kind: str, size: int, path: str = "") -> Json:
    return event(time, f"transport:packet_{kind}", path, header={"packet_type": "1RTT"}, raw={"length": size})


def metrics(time: float, path: str = "", **values: float) -> Json:
    return event(time, "recovery:metrics_updated", path, **values)


def migration(time: float, state: str, path: str | None) -> Json:
    named = {} if path is None else {"path_id": path}
    return event(time, "transport:migration_state_updated", path or "", new=state, **named)


MOVING = [
    assigned("", "10.2.0.2", 5000),
    packet(0, "sent", 1200),
    packet(40, "received", 1200),
    metrics(40, smoothed_rtt=40.0, congestion_window=12000, bytes_in_flight=0),
    migration(500, "probing_started", None),
    assigned("1", "10.1.0.2", 6000),
    migration(600, "migration_started", "1"),
    packet(601, "sent", 900, "1"),
    packet(605, "received", 1452, ""),
    packet(612, "received", 1000, "1"),
    metrics(612, "1", smoothed_rtt=12.0, congestion_window=13000),
    migration(612.4, "migration_complete", "1"),
    packet(1000, "received", 500, "1"),
]


def sequence(*records: Json) -> str:
    """Records as RFC 7464 has them."""
    return "".join(f"\x1e{json.dumps(record)}\n" for record in records)


def lines(*records: Json) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def contained(header: Json, *events: Json) -> str:
    """Everything as one JSON, as aioquic writes it."""
    trace = header["trace"]
    return json.dumps({"qlog_version": "0.3", "qlog_format": "JSON", "traces": [{**trace, "events": events}]})


@pytest.fixture
def moving(tmp_path: Path) -> Path:
    file = tmp_path / "moving.sqlog"
    file.write_text(sequence(HEADER, *MOVING))
    return file


@pytest.mark.parametrize("form", [sequence, lines, contained])
def test_each_paths_part_is_told_apart(form: Any) -> None:
    trace = follow(parse(form(HEADER, *MOVING)))
    first, second = trace.paths
    assert (first.local, first.remote) == ("10.2.0.2:5000", "[2001:db8::1]:443")
    assert second.local == "10.1.0.2:6000"
    assert first.sent == [(0, 1200)]
    # What comes late came by the path that was left.
    assert first.received == [(0.040, 1200), (0.605, 1452)]
    assert second.received == [(0.612, 1000), (1.0, 500)]
    assert (first.rtt, second.rtt) == ([(0.040, 0.040)], [(0.612, 0.012)])
    assert (first.window, second.window) == ([(0.040, 12000)], [(0.612, 13000)])
    [move] = trace.moves
    assert (move.time, move.path, move.abandoned) == (0.6, second, False)
    assert move.complete == pytest.approx(0.6124)
    assert trace.probes == [0.5]
    assert (trace.side, trace.ended) == ("client", 1.0)


def test_a_move_that_was_taken_back_is_told() -> None:
    back = [migration(700, "migration_abandoned", "1"), migration(700, "migration_started", "")]
    trace = follow(parse(sequence(HEADER, *MOVING[:8], *back)))
    assert [(move.path.name, move.abandoned) for move in trace.moves] == [("1", True), ("", False)]


def test_where_migrations_are_not_told_the_packets_tell_them() -> None:
    """So it is where the kernel alone changes the path, and in logs of others."""
    untold = [each for each in MOVING if "migration" not in each["name"]]
    trace = follow(parse(sequence(HEADER, *untold)))
    assert [(move.time, move.path.name, move.complete) for move in trace.moves] == [(0.601, "1", None)]


def test_newer_drafts_say_the_same_with_other_words() -> None:
    header = {
        "file_schema": "urn:ietf:params:qlog:file:sequential",
        "serialization_format": "application/qlog+json-seq",
        "trace": {"vantage_point": {"type": "server"}, "event_schemas": ["urn:ietf:params:qlog:events:quic-12"]},
    }
    events = [
        {"time": 5.0, "name": "quic:tuple_assigned", "data": {"tuple_id": "a", "tuple_remote": {"ip_v4": "192.0.2.1"}}},
        {"time": 5.0, "name": "quic:packet_sent", "tuple": "a", "data": {"header": {}, "raw": {"length": 1200}}},
        {"time": 45.0, "name": "quic:recovery_metrics_updated", "tuple": "a", "data": {"smoothed_rtt": 40}},
    ]
    trace = follow(parse(sequence(header, *events)))
    [path] = trace.paths
    assert (trace.side, path.remote, path.sent, path.rtt) == ("server", "192.0.2.1", [(0, 1200)], [(0.040, 0.040)])


def test_times_may_be_since_the_event_before() -> None:
    header = {**HEADER, "trace": {**HEADER["trace"], "common_fields": {"time_format": "delta"}}}
    log = parse(sequence(header, packet(3, "sent", 1), packet(4, "sent", 1), packet(5, "sent", 1)))
    assert [each.time for each in log.events] == [0, 0.004, 0.009]


@pytest.mark.parametrize("form", [sequence, lines])
def test_the_last_record_of_a_killed_program_may_be_cut_off(form: Any) -> None:
    text = form(HEADER, *MOVING)
    whole = parse(text)
    cut = parse(text[:-20])
    assert (whole.cut_off, cut.cut_off) == (False, True)
    assert cut.events == whole.events[:-1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "this is not a qlog"),
        ("\x1e", "this is not a qlog"),
        ("hello", "this is not a qlog"),
        ("[1, 2]", "this is not a qlog"),
        ('{"a": 1}', "this is not a qlog"),
        ('{"qlog_version": "0.3", "traces": 7}', "this is not a qlog"),
        ('{"qlog_version": "0.3", "traces": [7]}', "this is not a qlog"),
        (sequence(HEADER), "there are no events in this qlog"),
        (contained(HEADER), "there are no events in this qlog"),
        (sequence(HEADER, packet(0, "sent", 1)) + "\x1e{\n" + sequence(packet(1, "sent", 1)), "record 3 is broken"),
        (sequence(HEADER) + "\x1e7\n", "record 2 is no object"),
        (sequence(HEADER, {"name": "x"}), "an event is not as qlog has them"),
        (sequence(HEADER, {"time": "soon", "name": "x"}), "an event is not as qlog has them"),
        (sequence(HEADER, event(0, "transport:parameters_set")), "nothing in this qlog tells of packets"),
        (sequence(HEADER, metrics(0, smoothed_rtt="slow")), "metrics_updated at 0.000 s is not as qlog has it"),  # type: ignore[arg-type]
        (sequence(HEADER, event(0, "transport:packet_sent", raw=7)), "packet_sent at 0.000 s is not as qlog has it"),
    ],
)
def test_what_is_no_qlog_is_named_in_one_sentence(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.qlog"
    file.write_text(text)
    assert main(["plot", str(file), "-o", str(tmp_path / "out.svg")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"whimbrel: {file}: ")
    assert complaint in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out.svg").exists()


def test_files_that_cannot_be_read_or_written(moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for arguments, status, complaint in (
        ([str(tmp_path / "none.qlog")], 1, f"cannot read {tmp_path}/none.qlog: No such file or directory"),
        ([str(tmp_path)], 1, f"cannot read {tmp_path}: Is a directory"),
        ([str(tmp_path / "binary")], 1, f"{tmp_path}/binary: this is not a qlog"),
        ([str(moving), "-o", "out.jpg"], 2, "-o: out.jpg ends in neither .svg nor .png"),
        ([str(moving), "-o", str(tmp_path / "no" / "out.svg")], 1, "cannot write"),
    ):
        assert main(["plot", *arguments]) == status
        said = capsys.readouterr().err
        assert complaint in said
        assert said.count("\n") == 1


def test_the_picture_has_what_the_log_tells(
    moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    # Letters as text, not as outlines, so that they can be found.
    monkeypatch.setitem(__import__("matplotlib").rcParams, "svg.fonttype", "none")
    assert main(["plot", str(moving)]) == 0
    assert capsys.readouterr().out == "moving.svg: 2 paths, 1 move in 1.0 s\n"
    drawn = (tmp_path / "moving.svg").read_text()
    for words in (
        "moving.sqlog, as the client saw it", "received", "sent", "smoothed RTT", "congestion window",
        "10.2.0.2", "to 10.1.0.2", "works after 12 ms",
    ):  # fmt: skip
        assert words in drawn, words


def test_a_log_that_is_cut_off_is_drawn_and_that_is_said(
    moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    moving.write_text(moving.read_text()[:-20])
    assert main(["plot", str(moving), "-o", str(tmp_path / "out.png")]) == 0
    assert capsys.readouterr().out.endswith("; the last record is cut off\n")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(
    moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert main(["plot", str(moving), "-o", str(tmp_path / "out.svg")]) == 1
    assert capsys.readouterr().err == "whimbrel: pictures need matplotlib: pip install 'whimbrel[plot]'\n"


@pytest.mark.parametrize(("span", "width"), [(0.0, 0.001), (0.4, 0.001), (1.0, 0.005), (31.0, 0.1), (400.0, 1.0)])
def test_bins_are_round_and_not_too_many(span: float, width: float) -> None:
    assert bin_width(span) == pytest.approx(width)


def test_a_rate_is_what_came_within_a_bin() -> None:
    times, curve = rates([(0.0, 1000), (0.05, 1500), (0.1, 500), (0.31, 250)], 0.31, 0.1)
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert curve == pytest.approx([0.2, 0.04, 0.0, 0.02, 0.0])
