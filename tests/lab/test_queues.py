"""How full a server of somebody else's gets the queue of the network that a client has moved to."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab.interop import servers
from tests.lab.interop.body import Body
from tests.lab.interop.peers import NotHere
from tests.lab.programs.content import content, sha256
from whimbrel.cli._demo.servers import Site

if TYPE_CHECKING:
    from pathlib import Path

    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(60)
_SOON = 20.0
_SIZE = 30_000_000


def test_slow_start_overflows_no_queue(lossless_lab: Laboratory, tmp_path: Path) -> None:
    """Each packet lost there is a gap of a round trip and the queue: longer than that of the move."""
    lab = lossless_lab
    try:
        servers.find("caddy")
    except NotHere as missing:
        pytest.skip(str(missing))
    lab.cellular.join()
    site = Site(tmp_path, lab.server_address)
    site.prepare()
    with site.file.open("wb") as file:
        file.writelines(content(_SIZE))
    servers.start(lab, site, "caddy")
    argv = ["-m", "whimbrel", "get", site.url, "--cafile", str(site.cafile), "--output", "-", "--quiet"]
    with Body(tmp_path / "arrived", _SIZE) as body, (tmp_path / "arrived").open("wb") as output:
        process = lab.python("cli", argv, stdin=subprocess.DEVNULL, stdout=output)
        output.close()
        assert body.reaches(0.2, _SOON)
        lab.wifi.join()
        assert process.wait(_SOON) == 0
    assert body.sha256 == sha256(_SIZE)
    received = lab.wifi.traffic()[1]
    assert received.bytes > _SIZE / 4
    assert received.overflowed == 0
