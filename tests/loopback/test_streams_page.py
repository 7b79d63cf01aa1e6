"""What docs/streams.md shows, run as it stands there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import whimbrel.sync
from tests.loopback.test_examples import shown

if TYPE_CHECKING:
    from tests.loopback.support import Certificates


def test_what_the_page_shows_of_trio_runs(certificates: Certificates) -> None:
    def shout(connection: whimbrel.sync.Connection) -> None:
        for stream in connection.streams():
            assert isinstance(stream, whimbrel.sync.Stream)
            with stream:
                stream.write(stream.readline().upper())
                assert stream.read() == b""

    with whimbrel.sync.serve(shout, "127.0.0.1", cert=certificates.pair, alpn="shout") as server:
        host, port = server.addresses[0]
        program = f"host, port, ca = {host!r}, {port}, {str(certificates.ca)!r}\n{shown('docs/streams.md')[1]}"
        command = [sys.executable, "-W", "error", "-c", program]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "lo\n")


def test_what_the_page_shows_of_asyncio_runs(certificates: Certificates) -> None:
    files = {"ca": certificates.ca, "certificate": certificates.chain, "key": certificates.key}
    given = "".join(f"{name} = {str(file)!r}\n" for name, file in files.items())
    body = textwrap.indent(shown("docs/streams.md")[0], "    ")
    program = f"import asyncio\n{given}async def page():\n{body}\nasyncio.run(page())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "lo\n")
