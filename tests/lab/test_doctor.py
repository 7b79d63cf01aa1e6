"""`whimbrel doctor` on a machine with two networks, and servers of others.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from whimbrel.cli._demo import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["caddy", "gtlsserver", "whimbrel"])
def server(request: pytest.FixtureRequest) -> servers.ServerName:
    name: servers.ServerName = request.param
    return name


@pytest.fixture
def site(lossless_lab: Laboratory, tmp_path: Path, server: servers.ServerName) -> Iterator[servers.Site]:
    """A server that runs."""
    try:
        servers.find(server)
    except servers.ServerMissing as error:
        pytest.skip(str(error))
    site = servers.Site(tmp_path, lossless_lab.server_address)
    site.prepare()
    process = servers.start(lossless_lab, site, server, None, other_client=False)
    yield site
    if process is not None and process.stdout is not None:
        process.stdout.close()


def examine(lab: Laboratory, site: servers.Site, *arguments: str) -> tuple[int, str]:
    """Run the command on the device: exit status, and what it said."""
    argv = ["-m", "whimbrel", "doctor", site.address, "--cafile", str(site.cafile), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = lab.python("cli", argv, cwd=ROOT, text=True, **pipes)
    output, error = process.communicate(timeout=60)
    assert error == ""
    return process.returncode, output


def findings(lab: Laboratory, site: servers.Site, *arguments: str) -> tuple[int, Any]:
    status, output = examine(lab, site, "--json", *arguments)
    return status, json.loads(output)


def test_it_moves_to_the_other_network_and_says_what_would_be_done(
    lossless_lab: Laboratory, site: servers.Site
) -> None:
    lossless_lab.cellular.join()
    lossless_lab.wifi.join()
    status, found = findings(lossless_lab, site)
    assert (status, found["verdict"]) == (0, "follows"), found["moves"]
    assert [way["interface"] for way in found["ways"]] == ["wlan0", "wwan0"]
    assert all(way["answer_ms"] is not None for way in found["ways"])
    moves = [(move["kind"], move["interface"], move["survived"], move["linkable"]) for move in found["moves"]]
    assert moves == [("port", "wlan0", True, False), ("interface", "wwan0", True, False)]
    assert found["moves"][1]["answer_ms"] > 40  # The other radio's round trip.
    assert [(change["change"], change["step"]) for change in found["network_changes"]] == [
        ("wwan0 is preferred", "probe"),
        ("wlan0 goes away", "move"),
        ("no network is left", "hold"),
    ]
    assert lossless_lab.linkable(servers.PORT, "to_server") == frozenset()


@pytest.mark.parametrize("server", ["caddy"])
def test_its_words(lossless_lab: Laboratory, site: servers.Site) -> None:
    lossless_lab.cellular.join()
    lossless_lab.wifi.join()
    status, output = examine(lossless_lab, site)
    assert status == 0, output
    assert "A move from wlan0 to wwan0: survived, an answer came after " in output
    assert "\nIf wlan0 goes away: whimbrel would move at once to wwan0: wlan0 is gone.\n" in output
    assert output.endswith("follow this machine from network to network.\n")


@pytest.mark.parametrize("server", ["caddy"])
def test_a_network_that_carries_nothing_is_not_the_hosts_fault(lossless_lab: Laboratory, site: servers.Site) -> None:
    lossless_lab.cellular.join()
    lossless_lab.wifi.join()
    lossless_lab.cellular.silence()
    status, found = findings(lossless_lab, site)
    assert (status, found["verdict"]) == (0, "follows"), found["moves"]
    assert [way["answer_ms"] is not None for way in found["ways"]] == [True, False]
    assert [(move["survived"], move["problem"]) for move in found["moves"]] == [(True, None), (False, "no-way")]


@pytest.mark.parametrize("server", ["caddy"])
def test_without_any_network(lossless_lab: Laboratory, site: servers.Site) -> None:
    status, found = findings(lossless_lab, site)
    assert (status, found["verdict"], found["problem"]) == (4, "unreachable", "no-route")


@pytest.mark.parametrize("server", ["caddy"])
def test_who_watches_one_network_alone_hears_nothing_of_the_other(lossless_lab: Laboratory, site: servers.Site) -> None:
    lossless_lab.cellular.join()
    status, found = findings(lossless_lab, site)
    assert (status, [move["kind"] for move in found["moves"]]) == (0, ["port"])
    assert lossless_lab.wifi.packets == []
    assert [(change["change"], change["step"]) for change in found["network_changes"]] == [
        ("another network is preferred", "probe"),
        ("wwan0 goes away and another network comes", "move"),
        ("no network is left", "hold"),
    ]
