"""`whimbrel serve --workers` as its users run it, and signal it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import whimbrel
from tests.loopback.support import SOON, until
from tests.loopback.test_http_server_commands import CONTENT, done, serving
from tests.loopback.test_workers import exists, use
from whimbrel import CertificateError, ConnectFailed, ConnectionLost, http

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback.support import Certificates
    from tests.loopback.test_http_server_commands import Serving
    from whimbrel import Connection

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


LARGE = 4


@pytest.fixture
def anyio_backend() -> str:
    """What is tried here runs in processes of its own, with loops of their own."""
    return "asyncio"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "up").mkdir()
    (tmp_path / "site" / "file").write_bytes(CONTENT)
    # More than a client has room for: it cannot have been sent before it is read.
    (tmp_path / "site" / "large").write_bytes(CONTENT * LARGE)
    return tmp_path


def workers_of(server: Serving) -> set[int]:
    """The processes that serve, by their numbers."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text("ascii").split()
    return {int(child) for child in children if exists(int(child)) and b"spawn_main" in command_of(child)}


def command_of(process: str) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""  # It has just gone.


async def test_files_go_down_and_up_and_nothing_is_left(site: Path) -> None:
    async with serving(site, "site", "--upload", "up", "--port", 0, "--workers", 2, "-q") as server:
        workers = workers_of(server)
        assert len(workers) == 2
        for number in range(2):
            status, _, err = await done(
                site, "put", "-q", "--cafile", server.cafile, "site/file", f"{server.url}{number}"
            )
            assert (status, err) == (0, "")
            assert (site / "up" / str(number)).read_bytes() == CONTENT
            status, _, err = await done(site, "get", "-q", "--cafile", server.cafile, f"{server.url}file", "-o", "got")
            assert (status, err) == (0, "")
            assert (site / "got").read_bytes() == CONTENT
        assert await server.end(signal.SIGTERM) == (0, "")
        assert not any(map(exists, workers))


async def test_every_worker_writes_the_one_log(site: Path) -> None:
    async with serving(site, "site", "--port", 0, "--workers", 2) as server:
        for _ in range(6):
            assert (await done(site, "get", "-q", "--cafile", server.cafile, f"{server.url}file", "-o", "got"))[0] == 0
        status, log = await server.end()
        assert (status, log.count(f" GET /file 200 {len(CONTENT)} ")) == (0, 6)


async def test_ctrl_c_in_a_terminal_reaches_all_and_ends_in_order(site: Path) -> None:
    async with serving(site, "site", "--port", 0, "--workers", 2) as server:
        async with http.connect(server.url, verify=site / server.cafile, migration=None) as client:
            async with await client.request("GET", "/large") as response:
                received = len(await anext(response))
                for worker in workers_of(server):
                    os.kill(worker, signal.SIGINT)
                ending = asyncio.create_task(server.end(signal.SIGINT))
                received += sum([len(chunk) async for chunk in response])
            assert received == LARGE * len(CONTENT)
        status, log = await ending
        assert (status, log.count("\n")) == (0, 1)


async def test_a_second_signal_waits_for_nobody(site: Path) -> None:
    async with serving(site, "site", "--port", 0, "--workers", 2) as server:
        workers = workers_of(server)
        async with (
            http.connect(server.url, verify=site / server.cafile, migration=None) as client,
            await client.request("GET", "/large") as response,
        ):
            await anext(response)
            server.process.send_signal(signal.SIGTERM)
            await until(lambda: client._goaway is not None)
            # What nobody reads would never be sent.
            status, log = await server.end(signal.SIGTERM)
        assert (status, log.count("\n")) == (0, 1)
        assert not any(map(exists, workers))


async def test_sighup_renews_the_certificate_and_keeps_what_runs(
    site: Path, issue: Callable[..., Certificates]
) -> None:
    old, new = issue("127.0.0.1"), issue("127.0.0.1")
    pair = site / "chain.pem", site / "key.pem"
    use(old, pair)
    options = ("--host", "127.0.0.1", "--port", 0, "--cert", *pair[:1], "--key", *pair[1:], "--workers", 2)
    async with serving(site, "site", *options) as server:
        before = workers_of(server)
        async with http.connect(server.url, verify=old.ca, migration=None) as client:
            async with await client.request("GET", "/large") as response:
                received = len(await anext(response))
                use(new, pair)
                server.process.send_signal(signal.SIGHUP)
                for _ in range(4):
                    await shown(server.url, new)
                received += sum([len(chunk) async for chunk in response])
            assert received == LARGE * len(CONTENT)
        await until(lambda: not any(map(exists, before)))
        assert len(workers_of(server)) == 2
        status, log = await server.end()
        assert (status, log.count(" GET /large 200 ")) == (0, 1)


async def test_sighup_with_a_certificate_that_cannot_be_used_changes_nothing(
    site: Path, certificates: Certificates
) -> None:
    pair = site / "chain.pem", site / "key.pem"
    use(certificates, pair)
    options = ("--host", "127.0.0.1", "--port", 0, "--cert", *pair[:1], "--key", *pair[1:], "--workers", 2)
    async with serving(site, "site", *options) as server:
        before = workers_of(server)
        pair[1].write_text("no key")
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr is not None
        said = (await server.process.stderr.readline()).decode()
        assert "the workers were not renewed" in said
        assert "key.pem' holds no PEM private key" in said
        await until(lambda: workers_of(server) == before)
        await shown(server.url, certificates)
        assert await server.end() == (0, "")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("site", "--workers", "0"), 2, "'0' is no number of workers: 1 to 256"),
        (("site", "--workers", "many"), 2, "'many' is no number of workers: 1 to 256"),
        (("site", "--workers", "2", "--dispatch", "connected"), 2, "--workers needs --dispatch wildcard"),
        (("package:app", "--workers", "2"), 2, "--workers is for folders and tunnels"),
        (("site", "--workers", "2", "--cert", "none", "--key", "none"), 1, "cannot read the certificate 'none'"),
        (("site", "--workers", "2", "--host", "192.0.2.1"), 1, "cannot listen on 192.0.2.1"),
    ],
)
async def test_what_cannot_be_is_said_in_one_sentence(
    site: Path, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    ended, out, err = await done(site, "serve", "--port", "0", *arguments)
    assert (ended, out) == (status, "")
    assert sentence in err
    assert "Traceback" not in err


async def test_the_program_of_the_page_serves_is_renewed_and_ends(certificates: Certificates, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "workers.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    port = free_port()
    assert code.count('"localhost", 4433') == 1
    (tmp_path / "page.py").write_text(code.replace('"localhost", 4433', f'"127.0.0.1", {port}'))
    for source, name in ((certificates.chain, "chain.pem"), (certificates.key, "key.pem")):
        shutil.copyfile(source, tmp_path / name)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", "page.py", cwd=tmp_path, stderr=pipe)
    try:
        await until(lambda: catches(process.pid, signal.SIGHUP))
        for number in (signal.SIGHUP, signal.SIGTERM):
            async with await dialled(port, certificates) as connection, await connection.open_stream() as stream:
                await stream.write(b"hello")
                await stream.finish()
                assert await stream.read() == b"hello"
            process.send_signal(number)
        _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def catches(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal: before, SIGHUP would end it."""
    status = Path(f"/proc/{process}/status").read_text("ascii")
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << (number - 1))


async def dialled(port: int, certificates: Certificates) -> Connection:
    """A connection, as soon as somebody listens."""
    async with asyncio.timeout(SOON):
        while True:
            with contextlib.suppress(ConnectFailed):
                return await whimbrel.connect("127.0.0.1", port, alpn="echo", verify=certificates.ca, migration=None)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def shown(url: str, certificates: Certificates) -> None:
    """Wait until a newcomer is shown this certificate."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                async with http.connect(url, verify=certificates.ca, migration=None):
                    return
            except CertificateError:
                continue
            except ConnectionLost:
                continue
