"""What docs/streams.md shows, run as it stands there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from tests.loopback.test_examples import shown

if TYPE_CHECKING:
    from tests.loopback.support import Certificates


def test_what_the_page_on_streams_shows_runs(certificates: Certificates) -> None:
    files = {"ca": certificates.ca, "certificate": certificates.chain, "key": certificates.key}
    given = "".join(f"{name} = {str(file)!r}\n" for name, file in files.items())
    body = textwrap.indent(shown("docs/streams.md")[0], "    ")
    program = f"import asyncio\n{given}async def page():\n{body}\nasyncio.run(page())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "lo\n")
