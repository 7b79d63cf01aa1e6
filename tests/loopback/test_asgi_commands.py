"""`whimbrel serve MODULE:ATTRIBUTE` as its users run it."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.loopback.support import SOON
from tests.loopback.test_http_server_commands import done, serving, started

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from pathlib import Path

    from tests.loopback.test_http_server_commands import Serving

pytestmark = pytest.mark.anyio

APP = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("UP", flush=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        open("down", "w").close()
        return
    await send({"type": "http.response.start", "status": 200})
    if scope["path"] == "/wait":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
    await send({"type": "http.response.body", "body": b"VERSION"})
"""


@pytest.fixture
def anyio_backend() -> str:
    """What is tried here runs in processes of its own, with loops of their own."""
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(APP)
    return tmp_path


async def test_an_application_is_served(folder: Path) -> None:
    async with serving(folder, "own:app", "--port", 0) as server:
        assert server.said["serving"] == f"own:app at {server.url}"
        assert server.said["HTTP/2"] == "and HTTP/1.1 are served on the TCP port of the same number"
        words = server.said["try:"].split()
        status, _, _ = await done(folder, *words[1:], "-o", "got")
        assert (status, (folder / "got").read_bytes()) == (0, b"VERSION")
        trust = ssl.create_default_context(cafile=server.cafile)
        async with httpx.AsyncClient(http2=True, verify=trust, trust_env=False) as client:
            response = await client.get(server.url + "x?y=z")
            assert (response.http_version, response.content) == ("HTTP/2", b"VERSION")
        status, log = await server.end()
        assert status == 0
        assert (folder / "down").exists()
        over_quic, over_tcp = log.splitlines()
        assert re.fullmatch(r"127\.0\.0\.1:\d+ GET / 200 7 \d\.\d{3} s", over_quic)
        assert re.fullmatch(r"127\.0\.0\.1:\d+ GET /x\?y=z 200 7 \d\.\d{3} s, HTTP/2", over_tcp)


async def test_quiet_and_without_tcp(folder: Path) -> None:
    async with serving(folder, "own:app", "--port", 0, "-q", "--no-tcp") as server:
        assert "HTTP/2" not in server.said
        trust = ssl.create_default_context(cafile=server.cafile)
        async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(server.url)
        status, _, _ = await done(folder, "get", "-q", "--cafile", server.cafile, server.url, "-o", "got")
        assert status == 0
        assert await server.end(signal.SIGTERM) == (0, "")


async def test_a_folder_of_that_name_is_served_as_a_folder(folder: Path) -> None:
    (folder / "own:app").mkdir()
    (folder / "own:app" / "file").write_text("content")
    async with serving(folder, "own:app", "--port", 0) as server:
        url = server.url + "file"
        await done(folder, "get", "-q", "--cafile", server.cafile, url, "-o", "got")
        assert (folder / "got").read_text() == "content"


async def test_a_second_signal_waits_for_nobody(folder: Path) -> None:
    async with serving(folder, "own:app", "--port", 0) as server:
        getting = await started(folder, "get", "--cafile", server.cafile, server.url + "wait", "-o", "-")
        try:
            assert getting.stdout is not None
            assert await getting.stdout.readexactly(5) == b"begun"
            server.process.send_signal(signal.SIGINT)
            status, log = await server.end()
            assert status == 0
            assert " GET /wait 200 5 " in log
        finally:
            await ended(getting)


NO_ASGI = "broken:app is no ASGI 3 application: it does not take scope, receive and send"
WSGI = "def app(environ, start_response): ..."
FAILING = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "there is no database"})
"""


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("", "nowhere", "nowhere does not exist"),
        ("", "nowhere:app", "there is no module nowhere, neither here nor where Python looks for modules"),
        ("", "my.nowhere:app", "there is no module my, neither here nor where Python looks for modules"),
        ("", "broken.py:app", "broken.py:app names a file; its module is broken:app"),
        ("", "a/b:app", "a/b:app is neither a folder nor the name of an application, such as package.module:app"),
        ("x = 1", "broken:app", "module broken has no app"),
        ("app = 1", "broken:app", "broken:app is no application: it cannot be called"),
        (
            WSGI,
            "broken:app",
            f"{NO_ASGI} (WSGI? asgiref.wsgi.WsgiToAsgi makes one of it)",
        ),
        (
            "class app: ...",
            "broken:app",
            NO_ASGI,
        ),
        (FAILING, "broken:app", "the application did not start: there is no database"),
    ],
)
async def test_what_cannot_be_served_is_told_in_a_sentence(
    tmp_path: Path, module: str, name: str, message: str
) -> None:
    (tmp_path / "broken.py").write_text(module)
    assert await done(tmp_path, "serve", name, "--port", 0) == (1, "", f"whimbrel: {message}\n")


@pytest.mark.parametrize(
    ("module", "shown", "message"),
    [
        ("import nowhere", '  File "{}", line 1, in <module>', "ModuleNotFoundError: No module named 'nowhere'"),
        ("\n1 / 0", '  File "{}", line 2, in <module>', "ZeroDivisionError: division by zero"),
        ("def f(:", '  File "{}", line 1', "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("raise SystemExit(3)", '  File "{}", line 1, in <module>', "SystemExit: 3"),
    ],
)
async def test_a_module_that_fails_shows_its_own_error(tmp_path: Path, module: str, shown: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(module)
    status, out, err = await done(tmp_path, "serve", "broken:app", "--port", 0)
    assert (status, out) == (1, "")
    # The application's lines, and none of ours.
    assert re.findall(r"^  File .+$", err, re.MULTILINE) == [shown.format(file)]
    assert err.splitlines()[-1] == f"whimbrel: module broken cannot be imported: {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own:app", "--upload", "."], "--upload does not go with an application"),
        ([".", "--no-tcp"], "--no-tcp is for applications, named as MODULE:ATTRIBUTE"),
        ([".", "--reload"], "--reload is for applications, named as MODULE:ATTRIBUTE"),
    ],
)
async def test_options_that_do_not_fit_are_told(folder: Path, arguments: list[str], message: str) -> None:
    assert await done(folder, "serve", *arguments) == (2, "", f"whimbrel: {message}\n")


async def test_an_application_starts_anew_when_it_changes(folder: Path) -> None:
    pytest.importorskip("watchfiles")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with serving(folder, "own:app", "--host", "127.0.0.1", "--port", port, "--reload") as server:
        assert await asked(server) == b"VERSION"
        # First one that cannot be served, then one that can.
        (folder / "own.py").write_text("1 / 0")
        assert server.process.stderr is not None
        async with asyncio.timeout(SOON):
            while b"cannot be imported" not in await server.process.stderr.readline():
                pass
        (folder / "own.py").write_text(APP.replace("VERSION", "another"))
        assert server.process.stdout is not None
        async with asyncio.timeout(SOON):
            while not (await server.process.stdout.readline()).startswith(b"try: "):
                pass
        assert await asked(server) == b"another"
        status, _ = await server.end()
        assert status == 0


async def asked(server: Serving) -> bytes:
    trust = ssl.create_default_context(cafile=server.cafile)
    async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
        return (await client.get(server.url)).content


async def ended(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()
