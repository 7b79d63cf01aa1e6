"""The examples that need nobody else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback.support import Certificates

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example: str, certificates: Certificates, *more: str, **environment: str) -> str:
    files = [str(certificates.ca), str(certificates.chain), str(certificates.key)]
    command = [sys.executable, str(EXAMPLES / example), *files, *more]
    done = subprocess.run(command, env={**os.environ, **environment}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_blocking_example_packs_a_folder(certificates: Certificates, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"file {number}").write_bytes(os.urandom(number * 100_000))
    printed = run("blocking.py", certificates, str(tmp_path)).splitlines()
    assert set(printed) == {".: 0 bytes", *(f"./file {number}: {number * 100_000} bytes" for number in range(3))}


def test_what_the_page_on_blocking_shows_runs(certificates: Certificates, tmp_path: Path) -> None:
    text = (EXAMPLES.parent / "docs" / "blocking.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code) > 3
    (tmp_path / "file").write_bytes(os.urandom(1_000_000))
    files = {"ca": certificates.ca, "folder": tmp_path, "certificate": certificates.chain, "key": certificates.key}
    program = "".join(f"{name} = {str(file)!r}\n" for name, file in files.items()) + "".join(code)
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_page_on_sessions_certificates_and_logs_shows_runs(
    certificates: Certificates, issue: Callable[..., Certificates]
) -> None:
    text = (EXAMPLES.parent / "docs" / "api.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code) > 3
    client = issue("anna@example.org")
    files = {
        "ca": certificates.ca,
        "certificate": certificates.chain,
        "key": certificates.key,
        "client_ca": client.ca,
        "client_certificate": client.chain,
        "client_key": client.key,
    }
    given = "".join(f"{name} = {str(file)!r}\n" for name, file in files.items())
    body = textwrap.indent("".join(code), "    ")
    program = f"import asyncio\n{given}async def page():\n{body}\nasyncio.run(page())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the server asks for a client certificate" in done.stdout


def test_the_echo_example_echoes(certificates: Certificates) -> None:
    assert run("echo.py", certificates).startswith("hello from ('127.0.0.1', ")


def test_keys_are_logged_where_the_environment_says(certificates: Certificates, tmp_path: Path) -> None:
    log = tmp_path / "keys"
    run("echo.py", certificates, SSLKEYLOGFILE=str(log))
    assert "CLIENT_TRAFFIC_SECRET_0" in log.read_text()
