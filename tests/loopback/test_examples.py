"""The examples that need nobody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.loopback.support import Certificates

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_echo_example_echoes(certificates: Certificates) -> None:
    files = [str(certificates.ca), str(certificates.chain), str(certificates.key)]
    done = subprocess.run([sys.executable, EXAMPLES / "echo.py", *files], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("hello from ('127.0.0.1', ")
