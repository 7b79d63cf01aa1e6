"""`whimbrel get`: where things are saved, and how progress is told. The rest is in tests/interop/test_get.py."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from whimbrel import cli
from whimbrel.cli._progress import Lines, Silent, progress, size
from whimbrel.cli._sink import CannotWrite, Version, kept, open_sink
from whimbrel.cli._transfers import Status
from whimbrel.cli.get import _remote_name, _targets
from whimbrel.http import Url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/a/file.iso?x=/y", "file.iso"),
        ("https://example.org/", "index.html"),
        ("https://example.org/folder/", "index.html"),
        ("https://example.org/..", "index.html"),
        ("https://example.org/%2e%2e", "index.html"),
        ("https://example.org/..%2f..%2fetc%2fpasswd", ".._.._etc_passwd"),
        ("https://example.org/a%00b%0ac", "a_b_c"),
        ("https://example.org/%C3%BC.txt", "ü.txt"),
    ],
)
def test_names_from_the_server_stay_in_the_folder(url: str, name: str) -> None:
    assert _remote_name(Url.parse(url)) == name


def test_targets(tmp_path: Path) -> None:
    one, two = Url.parse("https://example.org/a"), Url.parse("https://example.org/b")
    assert _targets([one, two], None) == [Path("a"), Path("b")]
    assert _targets([one, two], str(tmp_path)) == [tmp_path / "a", tmp_path / "b"]
    assert _targets([one], str(tmp_path / "new")) == [tmp_path / "new"]
    assert _targets([one, two], "-") == [None, None]
    with pytest.raises(ValueError, match="no directory"):
        _targets([one, two], str(tmp_path / "new"))
    with pytest.raises(ValueError, match="one by one"):
        _targets([one, one], None)


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("older")
    sink = open_sink(target)
    asyncio.run(sink.write(b"new"))
    assert target.read_text() == "older"
    sink.commit()
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[tuple[int, bool]] = []

    def noted(descriptor: int) -> None:
        settled.append((os.fstat(descriptor).st_ino, (tmp_path / "name").exists()))

    monkeypatch.setattr("whimbrel.cli._disk.os.fsync", noted)
    sink = open_sink(tmp_path / "name")
    asyncio.run(sink.write(b"content"))
    sink.commit(1e9)
    assert settled == [((tmp_path / "name").stat().st_ino, False), (tmp_path.stat().st_ino, True)]
    assert (tmp_path / "name").stat().st_mtime == 1e9


def test_a_part_is_gone_on_with_where_it_is_known_what_of(tmp_path: Path) -> None:
    version = Version("https://example.org/name", '"etag"')
    assert kept(tmp_path / "name", version.url) is None
    sink = open_sink(tmp_path / "name", version)
    asyncio.run(sink.write(b"half"))
    sink.abandon()
    assert kept(tmp_path / "name", version.url) == (4, version)
    assert kept(tmp_path / "name", "https://example.org/other") is None
    assert kept(None, version.url) is None
    sink = open_sink(tmp_path / "name", version, start=4)
    assert asyncio.run(sink.digest()).hexdigest() == hashlib.sha256(b"half").hexdigest()
    asyncio.run(sink.write(b" and half"))
    sink.commit()
    assert (tmp_path / "name").read_bytes() == b"half and half"
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


MALICE = '{"url": "https://example.org/name", "etag": "\\"\\r\\nx: y\\""}'


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"url": 1}', "\0", '{"url": "https://example.org/name"}', MALICE])
def test_a_note_that_is_none_is_ignored(tmp_path: Path, note: str) -> None:
    (tmp_path / "name.part").write_bytes(b"half")
    (tmp_path / "name.part.json").write_text(note)
    assert kept(tmp_path / "name", "https://example.org/name") is None


def test_nothing_is_kept_of_nothing(tmp_path: Path) -> None:
    assert open_sink(tmp_path / "file").abandon() == ""
    assert list(tmp_path.iterdir()) == []


def test_directories_are_not_written_to(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="is a directory"):
        open_sink(tmp_path)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (60_000_000, "60.0 MB"), (2.5e9, "2.5 GB"), (1e13, "10000.0 GB")],
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert size(count) == text


def test_progress_in_a_log_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress(quiet=False)
    assert isinstance(show, Lines)
    show.start("file", 1000)
    show.update(250, 100.0, "wlan0")
    show.start("other", None)
    show.update(2000, 100.0, None)
    show.done("all of it")
    assert capsys.readouterr().err.splitlines() == [
        "file: 250 B of 1.0 kB (25 %) at 100 B/s over wlan0",
        "other: 2.0 kB at 100 B/s",
        "all of it",
    ]
    assert type(progress(quiet=True)) is Silent


def test_usage_errors_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        [],
        ["get"],
        ["nothing"],
        ["get", "https://x/", "--timeout", "0"],
        ["get", "x", "--sockets", "y"],
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
    assert cli.main(["get", "https://example.org/", "--json", "-o", "-"]) == Status.USAGE
    assert "standard output" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("whimbrel ")
