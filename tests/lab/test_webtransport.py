"""A chat over WebTransport between a browser and the example's server, while a NAT between them forgets.

Chromium (cli) ── wwan0 ~~~ bts, a NAT ── srv (examples/webtransport_chat)     40 ms
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.crossing import PORT, Program
from tests.lab.serving import Output
from tests.lab.test_interop import program
from whimbrel.cli._certificate import Certificate

if TYPE_CHECKING:
    from tests.lab.crossing import Certificates
    from whimbrel.testing import Laboratory

pytestmark = [pytest.mark.interop, pytest.mark.browser, pytest.mark.timeout(90)]

CHAT = Path(__file__).parents[2] / "examples" / "webtransport_chat" / "server.py"


def test_chromium_chats_while_its_nat_forgets(lab: Laboratory, certificates: Certificates, tmp_path: Path) -> None:
    pytest.importorskip("selenium")
    lab.cellular.join()
    arguments = [str(CHAT), str(certificates.chain), str(certificates.key), lab.server_address, str(PORT)]
    server = Output(lab.python("srv", arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    order: dict[str, object] = {
        "page": server.wait(r"^(https://.+/)$")[1],
        "host": lab.server_address,
        "port": PORT,
        "spki": Certificate(certificates.chain, certificates.key).spki,
        "profile": tmp_path / "profile",
        "chromium": program("chromium", "chromium"),
        "driver": program("chromedriver", "chromium-driver"),
    }
    browser = Program(lab, "cli", "chatter", order)
    try:
        (loaded,) = browser.wait(lambda: browser.news("loaded") or None, "the page is there")
        browser.tell(say="one", moves=0)
        browser.wait(lambda: browser.news("said") or None, "the first line came back")
        lab.cellular.rebind()
        browser.tell(say="two", moves=1)
        browser.wait(lambda: browser.news("said")[1:] or None, "so did the second")
        before, after = browser.news("said")
    finally:
        browser.end()
        server.end()
    assert loaded["protocol"] == "h3"
    assert before["talk"] == ["somebody has come in", "one"]
    # The same session and stream: nobody has come in again.
    assert after["talk"] == ["somebody has come in", "one", "two"]
    (old, old_port), (new, new_port) = (state["path"].split(":") for state in (before, after))
    assert old == new
    assert old_port != new_port
    for name in ("sent", "received"):
        assert int(after[name]) > int(before[name]) > 1000
    assert {packet.protocol for packet in lab.cellular.packets} == {"udp"}
    # What the browser did is over, and was no failure of the server's.
    assert not [line for line in server.lines if "failed" in line or "Traceback" in line]
