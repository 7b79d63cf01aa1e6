"""The examples that need nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.loopback.support import Certificates

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_echo(certificates: Certificates, **environment: str) -> str:
    files = [str(certificates.ca), str(certificates.chain), str(certificates.key)]
    command = [sys.executable, str(EXAMPLES / "echo.py"), *files]
    done = subprocess.run(command, env={**os.environ, **environment}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_echo_example_echoes(certificates: Certificates) -> None:
    assert run_echo(certificates).startswith("hello from ('127.0.0.1', ")


def test_keys_are_logged_where_the_environment_says(certificates: Certificates, tmp_path: Path) -> None:
    log = tmp_path / "keys"
    run_echo(certificates, SSLKEYLOGFILE=str(log))
    assert "CLIENT_TRAFFIC_SECRET_0" in log.read_text()
