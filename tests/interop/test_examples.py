"""The examples that need a server of others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.interop.conftest import Authority, Caddy

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_download_example_downloads(authority: Authority, caddy: Caddy, tmp_path: Path) -> None:
    (caddy.site / "example.bin").write_bytes(content := bytes(range(256)) * 1000)
    file = tmp_path / "file"
    done = subprocess.run(
        [sys.executable, EXAMPLES / "download.py", f"{caddy.url}/example.bin", file],
        env={**os.environ, "SSL_CERT_FILE": str(authority.cafile)},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == content
