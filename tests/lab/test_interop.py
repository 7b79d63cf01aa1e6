"""Clients of others download from `whimbrel serve` while they move, or while a NAT forgets them.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab.crossing import MB, PORT, Dispatch
from tests.lab.serving import (
    FILE,
    PAGE,
    RATE,
    Fetch,
    Output,
    Site,
    downloaded,
    has_a_middle,
    ids_by_socket,
    route_by_source,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from whimbrel.testing import Laboratory

pytestmark = [pytest.mark.interop, pytest.mark.timeout(90)]

SIZE = 3 * MB
"""2.4 seconds at the radios' rate."""


@pytest.fixture
def lab(lab: Laboratory) -> Laboratory:
    """Slow radios, and the device is on the cellular network."""
    for network in lab.networks:
        network.set(rate=RATE)
    lab.cellular.join()
    return lab


@pytest.fixture(params=["wildcard", "connected"])
def site(lab: Laboratory, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    dispatch: Dispatch = request.param
    with Site(lab, tmp_path, dispatch, SIZE) as site:
        yield site


def program(name: str, package: str) -> str:
    """Where a program is; the test is skipped without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return found


# gtlsclient: moves by itself ------------------------------------------------------------------------------------------


def gtlsclient(lab: Laboratory, site: Site, folder: Path, *options: str) -> Output:
    """Start it: it downloads the file into the folder."""
    folder.mkdir()
    plain = ["--no-quic-dump", "--no-http-dump", "--exit-on-all-streams-close", f"--download={folder}"]
    argv = [program("gtlsclient", "ngtcp2-client"), *plain, *options, lab.server_address, str(PORT), site.url()]
    return Output(lab.popen("cli", argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))


def test_gtlsclient_moves_to_another_network(lab: Laboratory, site: Site, tmp_path: Path) -> None:
    route_by_source(lab)
    client = gtlsclient(lab, site, tmp_path / "downloads", "--change-local-addr=1500ms")
    try:
        client.wait("QUIC handshake has completed")
        lab.wifi.join()
        assert site.tells_of_a_move().reason == "peer"
        assert client.exits() == 0
    finally:
        client.end()
    assert hashlib.sha256((tmp_path / "downloads" / FILE).read_bytes()).hexdigest() == site.sha256
    assert [address for address, _ in downloaded(lab)] == [lab.cellular.address, lab.wifi.address]
    assert has_a_middle(downloaded(lab), 2)
    assert [move.reason for move in site.moves] == ["peer"]
    assert not lab.linkable(PORT, "to_server")


def test_gtlsclient_is_rebound(lab: Laboratory, site: Site, tmp_path: Path) -> None:
    # Small windows, so that it always has news of them under way, which it repeats from the new port. A client that
    # only receives and acknowledges has nothing to repeat, and waits for ever for packets that go to the old port. So
    # does one that a lost packet keeps from reading on: nothing is lost here.
    lab.cellular.set(loss=0)
    windows = ("--max-data=64K", "--max-stream-data-bidi-local=64K", "--max-window=0", "--max-stream-window=0")
    client = gtlsclient(lab, site, tmp_path / "downloads", "--change-local-addr=1s", "--nat-rebinding", *windows)
    try:
        assert site.tells_of_a_move().reason == "rebinding"
        assert client.exits() == 0
    finally:
        client.end()
    assert hashlib.sha256((tmp_path / "downloads" / FILE).read_bytes()).hexdigest() == site.sha256
    assert has_a_middle(downloaded(lab), 2)
    assert len(site.moves) == 1
    # As with a NAT, and unlike a move: the client sends with the same connection ID from both ports.
    before, after = ids_by_socket(lab).values()
    assert before & after


# aioquic: moved by hand -----------------------------------------------------------------------------------------------


def test_aioquic_is_moved_to_another_network(lab: Laboratory, site: Site) -> None:
    route_by_source(lab)
    with Fetch(lab, site, "aioquic_client", source=lab.cellular.address) as client:
        client.reaches(0.3)
        lab.wifi.join()
        client.tell(source=lab.wifi.address)
        result = client.result()
    assert (result["status"], result["sha256"]) == (200, site.sha256)
    assert [address for address, _ in downloaded(lab)] == [lab.cellular.address, lab.wifi.address]
    assert has_a_middle(downloaded(lab), 2)
    assert [move.reason for move in site.moves] == ["peer"]
    assert not lab.linkable(PORT, "to_server")


# curl: knows nothing of it --------------------------------------------------------------------------------------------


def test_curl_downloads_while_its_nat_forgets(lab: Laboratory, site: Site) -> None:
    pytest.importorskip("pycurl")
    with Fetch(lab, site, "curl_client") as client:
        client.reaches(0.3)
        lab.cellular.rebind()
        result = client.result()
    assert (result["status"], result["sha256"]) == (200, site.sha256)
    assert result["is_http3"]
    assert len(downloaded(lab)) == 1
    assert [move.reason for move in site.moves] == ["rebinding"]


# Chromium: likewise ---------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("site", ["wildcard"], indirect=True)
def test_chromium_loads_a_page_and_fetches_while_its_nat_forgets(lab: Laboratory, site: Site, tmp_path: Path) -> None:
    pytest.importorskip("selenium")
    order: dict[str, object] = {
        "page": site.url(PAGE),
        "spki": site.spki,
        "profile": tmp_path / "profile",
        "part": SIZE * 3 // 10,
        "chromium": program("chromium", "chromium"),
        "driver": program("chromedriver", "chromium-driver"),
    }
    with Fetch(lab, site, "browser", **order) as browser:
        browser.reaches(0.3)
        lab.cellular.rebind()
        result = browser.result()
        (loaded,) = browser.news("loaded")
    assert (loaded["title"], loaded["protocol"]) == ("a page", "h3")
    assert (result["status"], result["sha256"], result["protocol"]) == (200, site.sha256, "h3")
    assert {packet.protocol for packet in lab.cellular.packets} == {"udp"}
    assert len(downloaded(lab)) == 1
    assert [move.reason for move in site.moves] == ["rebinding"]
