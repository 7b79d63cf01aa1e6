"""A tree that is uploaded by the command while the machine changes networks, and the command is killed.

whimbrel put (cli) ── wlan0 ~~~ ap  ── whimbrel serve (srv)
                 └─── wwan0 ~~~ bts ──┘
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.crossing import MB, SOON
from tests.lab.serving import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(180)

RATE = 20e6
"""Bits a second of either radio: slow enough that there is a middle to move, and to be killed, in."""
LARGE = 6 * MB


@contextmanager
def running(lab: Laboratory, where: Any, folder: Path, *arguments: object) -> Iterator[tuple[Any, Output]]:
    """A command in the laboratory, and what it says."""
    process = lab.python(
        where,
        ["-m", "whimbrel", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = Output(process)
    try:
        yield process, output
    finally:
        output.end()


def until(condition: Callable[[], bool], what: str) -> None:
    """Look at the disk until it is so."""
    for _ in range(round(SOON / 0.02)):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError(what)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(folder: Path) -> int:
    """Bytes that the server has, of whole files and others."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # It has its name now.
            size += path.stat().st_size * path.is_file()
    return size


def test_a_tree_crosses_two_networks_and_the_death_of_its_client(lab: Laboratory, tmp_path: Path) -> None:
    for name in ("site", "up", "tree", "tree/small", "tree/empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "tree" / "large").write_bytes(os.urandom(LARGE))
    for number in range(60):
        (tmp_path / "tree" / "small" / f"{number}").write_bytes(os.urandom(100_000))
    for network in lab.networks:
        network.set(rate=RATE)
    lab.cellular.join()
    with running(lab, "srv", tmp_path, "serve", "site", "--upload", "up", "--host", lab.server_address) as (_, serving):
        url = serving.wait(r"at (https://.+/)$")[1]
        put = ["put", "--json", "--cafile", serving.wait(r"^certificate (.+)")[1], "tree", url]
        with running(lab, "cli", tmp_path, *put) as (client, said):
            until(lambda: stored(tmp_path / "up") > MB, "it sends")
            lab.wifi.join()
            said.wait("moved from wwan0 to wlan0: preferred")
            before = stored(tmp_path / "up")
            until(lambda: stored(tmp_path / "up") > before + 2 * MB, "it goes on")
            client.send_signal(signal.SIGKILL)
            assert said.exits() == -signal.SIGKILL
        kept = {path.name for path in (tmp_path / "up").rglob("*") if path.is_file()}
        with running(lab, "cli", tmp_path, *put) as (_, said):
            before = stored(tmp_path / "up")
            until(lambda: stored(tmp_path / "up") > before + MB, "it goes on")
            lab.wifi.down()
            said.wait("moved from wlan0 to wwan0")
            assert said.exits() == 0
        news = [json.loads(line) for line in said.lines if line.startswith("{")]
    files = {line["file"]: line for line in news if line["file"]}
    assert len(files) == 61
    carried = sum(line["bytes"] for line in files.values())
    assert sum(line["bytes"] + line["resumed_at"] for line in files.values()) == LARGE + 60 * 100_000
    assert carried < LARGE + 60 * 100_000 - 2 * MB, "what was there was sent again"
    assert {name for name, line in files.items() if line["unchanged"]} >= {
        f"tree/small/{name}" for name in kept if name.isdigit()
    }
    assert {move["to"] for line in files.values() for move in line["moves"]} == {"wwan0"}
    assert content(tmp_path / "up" / "tree") == content(tmp_path / "tree")
    assert (tmp_path / "up" / "tree" / "empty").is_dir()
