"""What docs/httpx.md and examples/token_stream show of httpx."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.loopback.test_examples import EXAMPLES, shown
from tests.loopback.test_httpx import echo, served

if TYPE_CHECKING:
    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio


async def run(*arguments: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        *arguments,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    return output.decode()


async def test_what_the_page_on_httpx_shows_runs(certificates: Certificates) -> None:
    code = shown("docs/httpx.md")
    assert len(code) > 2
    async with served(certificates, echo) as (_, url):
        body = textwrap.indent("".join(code), "    ")
        given = f"ca, url = {str(certificates.ca)!r}, {url!r}"
        program = f"import asyncio\n{given}\nasync def page():\n{body}\nasyncio.run(page())"
        output = await run("-c", program)
        assert "HTTP/3" in output
        assert "perhaps" not in output


async def test_the_example_prints_tokens_and_their_network(certificates: Certificates) -> None:
    pytest.importorskip("fastapi")
    from whimbrel.http import asgi

    sys.path.insert(0, str(EXAMPLES / "token_stream"))
    try:
        from server import app  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    async with asgi.serve(app, "127.0.0.1", cert=certificates.pair, tcp=False) as server:
        url = f"https://127.0.0.1:{server.addresses[0][1]}/tokens?n=50&pause=0"
        output = await run(str(EXAMPLES / "token_stream" / "client.py"), url, SSL_CERT_FILE=str(certificates.ca))
        assert output.splitlines() == [f"{number} lo" for number in range(50)]
