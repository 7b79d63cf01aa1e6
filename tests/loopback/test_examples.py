"""The examples, and what the pages show, that need nobody else."""

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

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def shown(page: str) -> list[str]:
    """The Python on a page, piece by piece."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def run(example: str, certificates: Certificates, *more: str, **environment: str) -> str:
    files = [str(certificates.ca), str(certificates.chain), str(certificates.key)]
    command = [sys.executable, str(EXAMPLES / example), *files, *more]
    done = subprocess.run(command, env={**os.environ, **environment}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_first_page_shows_runs(certificates: Certificates) -> None:
    download, client, server = shown("README.md")
    assert (EXAMPLES / "download.py").read_text(encoding="utf-8").endswith(download)
    # The client asks the server beside it; the rest is as it stands there.
    client = client.replace('"example.org", 4433', '"localhost", server.addresses[0][1]')
    server = server.replace("port=4433", "port=0").replace(
        "await server.serve_forever()", client.replace("\n", "\n    ")
    )
    body = textwrap.indent(server, "    ")
    program = f"import asyncio\nimport whimbrel\nasync def page():\n{body}\nasyncio.run(page())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=certificates.chain.parent,
        env={**os.environ, "SSL_CERT_FILE": str(certificates.ca)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("b'hello' Path(")


def test_the_blocking_example_packs_a_folder(certificates: Certificates, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"file {number}").write_bytes(os.urandom(number * 100_000))
    printed = run("blocking.py", certificates, str(tmp_path)).splitlines()
    assert set(printed) == {".: 0 bytes", *(f"./file {number}: {number * 100_000} bytes" for number in range(3))}


def test_what_the_page_on_blocking_shows_runs(certificates: Certificates, tmp_path: Path) -> None:
    code = shown("docs/blocking.md")
    assert len(code) > 3
    (tmp_path / "file").write_bytes(os.urandom(1_000_000))
    files = {"ca": certificates.ca, "folder": tmp_path, "certificate": certificates.chain, "key": certificates.key}
    program = "".join(f"{name} = {str(file)!r}\n" for name, file in files.items()) + "".join(code)
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_page_on_sessions_certificates_and_logs_shows_runs(
    certificates: Certificates, issue: Callable[..., Certificates]
) -> None:
    code = shown("docs/api.md")
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
