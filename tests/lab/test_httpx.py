"""Programs that use httpx, with a transport of ours, and change networks meanwhile.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

import itertools
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.crossing import MB, PORT, Program
from tests.lab.programs.content import sha256
from tests.lab.serving import Output
from tests.lab.test_asgi import ROOT, App

if TYPE_CHECKING:
    from pathlib import Path

    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(120)

EVENTS = 1000


def test_the_example_reads_each_token_once_and_in_order_over_two_moves(lab: Laboratory, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    lab.cellular.join()
    folder = ROOT / "examples" / "token_stream"
    with App(lab, folder, "server:app", tmp_path) as app:
        target = f"tokens?n={EVENTS}&pause=0.004"
        process = lab.python(
            "cli",
            [str(folder / "client.py"), app.url + target],
            env={**os.environ, "SSL_CERT_FILE": app.certificate},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        printed = Output(process)
        try:
            printed.wait(rf"^{EVENTS // 4} ")
            lab.wifi.join()
            printed.wait(r"^\d+ wlan0$")
            lab.wifi.down()
            printed.wait(rf"^{EVENTS - 1} ", 60)
            assert printed.exits() == 0
        finally:
            printed.end()
        tokens = [line.split() for line in printed.lines]
        assert [int(number) for number, _ in tokens] == list(range(EVENTS))
        assert [interface for interface, _ in itertools.groupby(name for _, name in tokens)] == [
            "wwan0",
            "wlan0",
            "wwan0",
        ]
        app.output.wait(" GET /tokens")
        assert len(app.requests(f"/{target}")) == 1


@pytest.mark.parametrize("blocking", [False, True], ids=["asyncio", "blocking"])
@pytest.mark.parametrize("cut", ["while it is sent", "while it is answered"])
def test_a_post_across_a_cut_is_carried_out_once(lab: Laboratory, tmp_path: Path, cut: str, blocking: bool) -> None:
    for network in lab.networks:
        network.set(rate=20e6)
        network.join()
    size = 4 * MB if cut == "while it is sent" else 100_000
    with App(lab, ROOT, "tests.lab.programs.counting_app:app", tmp_path) as app:
        order = {"url": app.url + "?pause=1", "certificate": app.certificate, "size": size, "blocking": blocking}
        program = Program(lab, "cli", "httpx_client", order)
        try:
            app.output.wait("^received 1 MB$" if cut == "while it is sent" else "^working$")
            lab.wifi.down()
            done: dict[str, Any] = program.wait(lambda: program.news("done") or None, "it is answered", 60)[0]
            assert program.finish() == 0
        finally:
            program.end()
    assert done["posted"] == {"runs": 1, "sha256": sha256(size), "received": size}
    assert done["runs"] == 1
    assert done["version"] == "HTTP/3"
    assert done["moves"] == [["wlan0", "wwan0", "dead"]]
    assert done["interface"] == "wwan0"
    assert lab.linkable(PORT, "to_server") == frozenset()
