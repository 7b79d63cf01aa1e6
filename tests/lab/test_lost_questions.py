"""A server that asks only once whether we are at the new address (quic-go), when its question or our answer is lost.

RFC 9000 §8.2.2 forbids to repeat the answer, and nothing has such a server repeat the question. From another port it
asks again.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab.interop import servers
from tests.lab.interop.against_servers import prepare
from tests.lab.interop.body import Body
from tests.lab.interop.outcome import SIZE
from tests.lab.interop.peers import NotHere
from tests.lab.programs.content import sha256
from whimbrel.cli._demo.servers import PORT
from whimbrel.testing._capture import is_negotiation

if TYPE_CHECKING:
    from pathlib import Path

    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(60)
_RATE = 30e6
_SOON = 20.0


@pytest.mark.parametrize(
    ("sent", "received"),
    [((), (0,)), ((1, 2, 3), ())],  # What we send first tells the server of the move; the answer comes soon after.
    ids=["question", "answer"],
)
def test_a_download_goes_on_from_another_port(
    lossless_lab: Laboratory, tmp_path: Path, sent: tuple[int, ...], received: tuple[int, ...]
) -> None:
    lab = lossless_lab
    try:
        servers.find("caddy")
    except NotHere as missing:
        pytest.skip(str(missing))
    for network in (lab.cellular, lab.wifi):
        network.set(rate=_RATE)
        network.join()
    site = prepare(tmp_path, lab.server_address)
    servers.start(lab, site, "caddy")
    argv = ["-m", "whimbrel", "get", site.url, "--cafile", str(site.cafile), "--output", "-", "--quiet"]
    with Body(tmp_path / "arrived", SIZE) as body, (tmp_path / "arrived").open("wb") as output:
        process = lab.python("cli", argv, stdin=subprocess.DEVNULL, stdout=output)
        output.close()
        assert body.reaches(0.3, _SOON)
        before = lab.cellular.traffic()[0 if sent else 1].lost
        lab.cellular.lose(sent, received)
        lab.wifi.down()
        assert process.wait(_SOON) == 0
    assert body.sha256 == sha256(SIZE)
    ours = (packet for packet in lab.cellular.packets if packet.direction == "to_server")
    assert len({packet.source[1] for packet in ours if not is_negotiation(packet)}) == 2
    assert lab.cellular.traffic()[0 if sent else 1].lost == before + len(sent or received)
    assert lab.linkable(PORT, "to_server") == frozenset()
