"""`whimbrel serve --workers` on a real kernel, and clients that change networks.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.lab.crossing import MB, PORT, Program
from tests.lab.programs.content import content, sha256
from tests.lab.serving import Output

if TYPE_CHECKING:
    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(120)

CLIENTS = 6
SIZE = 2 * MB
AWAY_AND_BACK = [["wwan0", "wlan0"], ["wlan0", "wwan0"]]


@pytest.fixture
def lab(lab: Laboratory) -> Laboratory:
    """Slow radios: there is a middle of the transfers to move in."""
    for network in lab.networks:
        network.set(rate=20e6)
    lab.cellular.join()
    return lab


class Site:
    """A running ``whimbrel serve --workers 2``, with one file."""

    def __init__(self, lab: Laboratory, folder: Path) -> None:
        root = folder / "site"
        root.mkdir()
        with (root / "file").open("wb") as file:
            file.writelines(content(SIZE))
        self.process = lab.python(
            "srv",
            ["-m", "whimbrel", "serve", str(root), "--host", lab.server_address, "--workers", "2", "-v"],
            env={**os.environ, "XDG_STATE_HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = Output(self.process)
        self.certificate = self.output.wait(r"^certificate (.+)")[1]
        self.url = self.output.wait(r"at (https://.+/)$")[1] + "file"

    @property
    def workers(self) -> list[int]:
        """The processes that serve, by their numbers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii").split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.output.end()


class Clients(Program):
    """Downloads at once, each on a connection of its own."""

    def __init__(self, lab: Laboratory, site: Site) -> None:
        self._received = [0] * CLIENTS
        order: dict[str, object] = {"url": site.url, "certificate": site.certificate, "count": CLIENTS}
        super().__init__(lab, "cli", "workers_client", order)

    def reach(self, part: float) -> None:
        """Wait until so much of each has come, 0 to 1."""
        self.wait(lambda: min(self._received) >= part * SIZE or None, f"{part:.0%} of the files have come", 60)

    def result(self) -> list[dict[str, Any]]:
        """Wait for what came of them, and for the program's end."""
        (news, *_) = self.wait(lambda: self.news("done") or None, "the files have come", 60)
        assert self.finish() == 0
        downloads: list[dict[str, Any]] = news["downloads"]
        return downloads

    def heard(self, news: dict[str, Any]) -> None:
        if news["kind"] == "progress":
            self._received[news["number"]] = news["received"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def test_downloads_from_all_workers_cross_to_another_network_and_back(lab: Laboratory, tmp_path: Path) -> None:
    with Site(lab, tmp_path) as site, Clients(lab, site) as clients:
        clients.reach(0.2)
        lab.wifi.join()
        clients.reach(0.5)
        lab.wifi.down()
        for download in clients.result():
            assert download == {"sha256": sha256(SIZE), "received": SIZE, "moves": AWAY_AND_BACK}
    assert lab.linkable(PORT, "to_server") == frozenset()


def test_renewal_in_the_middle_of_a_crossing_loses_nothing(lab: Laboratory, tmp_path: Path) -> None:
    with Site(lab, tmp_path) as site, Clients(lab, site) as clients:
        clients.reach(0.1)
        site.process.send_signal(signal.SIGHUP)
        lab.wifi.join()
        site.output.wait("worker .* follows worker")
        clients.reach(0.5)
        lab.wifi.down()
        for download in clients.result():
            assert download == {"sha256": sha256(SIZE), "received": SIZE, "moves": AWAY_AND_BACK}


def test_a_workers_death_takes_its_own_clients_alone(lab: Laboratory, tmp_path: Path) -> None:
    with Site(lab, tmp_path) as site, Clients(lab, site) as clients:
        clients.reach(0.1)
        os.kill(site.workers[0], signal.SIGKILL)
        lab.wifi.join()
        downloads = clients.result()
        whole = [download for download in downloads if download.get("sha256") == sha256(SIZE)]
        lost = [download for download in downloads if "lost" in download]
        assert len(whole) + len(lost) == CLIENTS
        assert {download["lost"] for download in lost} <= {"stateless-reset"}
        assert all(download["moves"] == AWAY_AND_BACK[:1] for download in whole)
        site.output.wait(r"worker \d+ ended \(signal 9\); another takes its place")
