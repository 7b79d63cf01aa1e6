"""`whimbrel.anyio` while the machine changes networks, 5G → Wi-Fi → 5G, on trio and on asyncio.

anyio client (cli) ── wlan0 ~~~ ap  ── echo server (srv)
                └──── wwan0 ~~~ bts ──┘
"""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.crossing import PORT
from tests.lab.serving import Output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.crossing import Certificates
    from whimbrel.testing import Laboratory

PROGRAM = Path(__file__).parent / "programs" / "anyio_echo.py"


@contextmanager
def running(lab: Laboratory, where: Any, *arguments: object) -> Iterator[Output]:
    process = lab.python(
        where, [str(PROGRAM), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = Output(process)
    try:
        yield output
    finally:
        output.end()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_stream_of_anyios_crosses_networks(lab: Laboratory, certificates: Certificates, backend: str) -> None:
    lab.cellular.join()
    address = lab.server_address
    with running(lab, "srv", "serve", address, PORT, certificates.chain, certificates.key) as server:
        server.wait("ready")
        with running(lab, "cli", backend, address, PORT, certificates.ca) as client:
            client.wait("sending")
            lab.wifi.join()
            client.wait("moved to wlan0")
            lab.wifi.down()
            client.wait("moved to wwan0")
            assert int(client.wait(r"^echoed (\d+)$")[1]) > 10_000
            assert client.exits() == 0
