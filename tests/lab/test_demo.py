"""The demo as a user starts it: a small crossing, its JSON, and what is left when it is interrupted."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from whimbrel.cli._demo import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 100.0

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(autouse=True)
def _possible() -> None:
    pytest.importorskip("trustme")
    try:
        servers.find("caddy")
    except servers.ServerMissing as error:
        pytest.skip(str(error))


def demo(*argv: str) -> list[str]:
    return [sys.executable, "-m", "whimbrel", "demo", *argv]


def crossed(*argv: str) -> dict[str, Any]:
    """Run the demo; return its JSON."""
    argv = (*argv, "--json", "-", "--no-picture")
    run = subprocess.run(demo(*argv), capture_output=True, text=True, timeout=PATIENCE, check=False)
    if "no laboratory here" in run.stderr:
        pytest.skip(run.stderr)
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


THERE, BACK = ("wwan0", "wlan0"), ("wlan0", "wwan0")


# Connected sockets go there only. Until they are moved, some packets leave by the new network with the old address:
# to the server one more path, which costs Caddy one more of the connection IDs that it never gives back (quic-go
# issue 5814), and so the way back of a transfer as short as this.
@pytest.mark.parametrize(
    ("sockets", "scenario", "moves"),
    [("pinned", "demo", [THERE, BACK]), ("unconnected", "demo", [THERE, BACK]), ("connected", "overlap", [THERE])],
)
def test_a_download_crosses_from_one_network_to_the_other(
    sockets: str, scenario: str, moves: list[tuple[str, str]]
) -> None:
    told = crossed("--size", "10", "--sockets", sockets, "--scenario", scenario, "--no-other-client")
    assert told["sha256_equal"]
    assert told["bytes"] == 10_000_000
    assert [(move["from"], move["to"]) for move in told["moves"]] == moves
    assert all(0 <= move["handover_gap_ms"] < 2000 for move in told["moves"])
    assert sum(network["bytes"] for network in told["networks"].values()) > 10_000_000
    if sockets == "pinned":  # In the others the kernel sends over the new network before anybody knows of it.
        assert told["linkable_connection_ids"]["to_server"] == []


def test_a_client_over_tcp_does_the_same_beside_it() -> None:
    told = crossed("--size", "5", "--scenario", "nat-rebind")
    assert told["other_client"]["name"] == "http.client"
    assert told["other_client"]["bytes"] > 0


def test_the_other_server_serves_as_well() -> None:
    try:
        servers.find("gtlsserver")
    except servers.ServerMissing as error:
        pytest.skip(str(error))
    told = crossed("--size", "5", "--server", "gtlsserver", "--scenario", "overlap")
    assert told["server"] == "gtlsserver"
    assert told["sha256_equal"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_remains_of_a_demo_that_is_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        demo("--scenario", "outage", "--no-picture"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        assert program.stderr is not None
        if "5G" not in program.stdout.readline():
            pytest.skip(program.stderr.read())
        children = [os.pidfd_open(child) for child in _descendants(program.pid)]
        assert len(children) >= 5  # Two radios, a server, two clients.
        program.send_signal(number)
        program.wait(PATIENCE)
        assert program.returncode == 128 + number
        assert "Traceback" not in program.stderr.read()
    for child in children:
        assert select.select([child], (), (), 5.0)[0], "a child outlived the demo"
        os.close(child)
    assert list(tmp_path.iterdir()) == []


def _descendants(process: int) -> Iterator[int]:
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from _descendants(child)
