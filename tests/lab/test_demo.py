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
from whimbrel.http import Url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whimbrel.testing import Laboratory

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
    _skip_without_laboratory(run.stderr)
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def _skip_without_laboratory(errors: str) -> None:
    if "no laboratory here" in errors:
        pytest.skip(errors)


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


# Each dispatch once, and each scenario and direction once: all of them together are tests/lab/test_crossing.py.
@pytest.mark.parametrize(
    ("dispatch", "scenario", "direction", "moves"),
    [
        ("wildcard", "hard-cut", "both", [THERE, BACK]),
        ("connected", "black-hole", "both", [THERE, BACK]),
        ("connected", "overlap", "up", [THERE]),
        ("wildcard", "overlap", "down", [THERE]),
    ],
)
def test_our_own_server_serves_in_each_direction(
    dispatch: str, scenario: str, direction: str, moves: list[tuple[str, str]]
) -> None:
    told = crossed(
        "--server", "whimbrel", "--dispatch", dispatch, "--direction", direction, "--scenario", scenario,
        "--size", "8", "--no-other-client",
    )  # fmt: skip
    assert (told["server"], told["dispatch"], told["direction"]) == ("whimbrel", dispatch, direction)
    directions = {"both": ["down", "up"]}.get(direction, [direction])
    assert {way: (each["bytes"], each["sha256_equal"]) for way, each in told["transfers"].items()} == dict.fromkeys(
        directions, (8_000_000, True)
    )
    assert [(move["from"], move["to"]) for move in told["moves"]] == moves
    gaps = told["moves"][0]["directions"]
    assert list(gaps) == directions
    assert all(0 <= each["handover_gap_ms"] < 2000 for each in gaps.values())
    assert told["linkable_connection_ids"] == {"to_server": [], "to_client": []}


def test_the_other_client_goes_in_the_same_directions() -> None:
    told = crossed("--server", "whimbrel", "--direction", "both", "--scenario", "nat-rebind", "--size", "4")
    assert told["sha256_equal"]
    assert {way: each["bytes"] > 0 for way, each in told["other_client"]["directions"].items()} == {
        "down": True, "up": True,
    }  # fmt: skip


def test_a_server_that_is_somewhere_is_visited_over_the_networks_that_there_are(
    lab: Laboratory, tmp_path: Path
) -> None:
    """The device's networks are the machine's own to the demo; the test is the user who changes them."""
    site = servers.Site(tmp_path, lab.server_address)
    site.prepare()
    site.file.write_bytes(os.urandom(8_000_000))
    servers.start(lab, site, "caddy", None, other_client=True)
    for network in lab.networks:
        network.set(rate=30e6)
    lab.cellular.join()
    argv = ["-m", "whimbrel", "demo", "--server", site.url, "--cafile", str(site.cafile), "--no-picture", "--json", "-"]
    visit = lab.python("cli", argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert visit.stdout is not None
    assert visit.stderr is not None
    with visit:
        said = iter(visit.stderr.readline, "")
        assert any("Mbit/s over 5G" in line for line in said)
        lab.wifi.join()
        assert any("whimbrel moved from 5G to Wi-Fi (preferred)" in line for line in said)
        assert any("ms without data around that move" in line for line in said)
        lab.wifi.down()
        assert any("whimbrel moved from Wi-Fi to 5G (dead)" in line for line in said)
        text = "".join(said)
        told = json.loads(visit.stdout.read())
        assert visit.wait(PATIENCE) == 0
    assert (told["scenario"], told["server"]) == (None, str(Url.parse(site.url)))
    assert told["sha256_equal"] is True
    assert told["bytes"] == 8_000_000
    assert [(move["from"], move["to"]) for move in told["moves"]] == [THERE, BACK]
    assert {name: network["connection_ids"] for name, network in told["networks"].items()} == {
        "wlan0": None, "wwan0": None,
    }  # fmt: skip
    assert told["linkable_connection_ids"] is None
    assert "http.client (TCP): done in" in text


def test_a_file_from_somewhere_is_compared_with_the_other_clients_copy(lab: Laboratory, tmp_path: Path) -> None:
    site = servers.Site(tmp_path, lab.server_address)
    site.prepare()
    site.file.write_bytes(os.urandom(1_000_000))
    servers.start(lab, site, "caddy", None, other_client=True)
    argv = ["-m", "whimbrel", "demo", "--server", site.url, "--cafile", str(site.cafile), "--no-picture", "--json", "-"]

    def visit(*options: str) -> tuple[dict[str, Any], str]:
        """Over the server's own loopback: nothing is lost there."""
        program = lab.python("srv", [*argv, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, said = program.communicate(timeout=PATIENCE)
        assert program.returncode == 0, said
        return json.loads(out), said

    told, said = visit()
    assert told["sha256_equal"] is True
    assert told["networks"] == {"lo": {"bytes": 1_000_000, "connection_ids": None, "probes": None}}
    assert "SHA-256 equal" in said
    told, said = visit("--no-other-client")
    assert told["sha256_equal"] is None
    assert "nothing can be said of the hash" in said


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
            _skip_without_laboratory(program.stderr.read())
            pytest.fail("it ended before it had begun")
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
