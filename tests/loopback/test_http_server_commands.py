"""`whimbrel serve`, `whimbrel get` and `whimbrel put` as their users run them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.loopback.http_peers import served
from whimbrel import ConnectionClosed, http
from whimbrel.cli import main

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from tests.loopback.support import Certificates
    from whimbrel.http import Request

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def anyio_backend() -> str:
    """What is tried here runs in processes of its own, with loops of their own."""
    return "asyncio"


async def started(folder: Path, *arguments: object) -> Process:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "whimbrel", *map(str, arguments)]
    return await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
    )


async def done(folder: Path, *arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a command to its end: exit status, standard output and error."""
    process = await started(folder, *arguments)
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Serving:
    """A `whimbrel serve` that runs, and what it said when it began."""

    def __init__(self, process: Process, said: dict[str, str]) -> None:
        self.process = process
        self.said = said
        self.url = said["serving"].split()[-1]
        self.cafile = said.get("certificate", "")

    async def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Ask it to end; exit status and standard error."""
        self.process.send_signal(number)
        out, err = await self.process.communicate()
        assert out == b""
        assert self.process.returncode is not None
        return self.process.returncode, err.decode()


@contextlib.asynccontextmanager
async def serving(folder: Path, *arguments: object) -> AsyncIterator[Serving]:
    """`whimbrel serve`, from its last line on."""
    process = await started(folder, "serve", *arguments)
    assert process.stdout is not None
    assert process.stderr is not None
    said: dict[str, str] = {}
    try:
        while "try:" not in said:
            line = (await process.stdout.readline()).decode()
            assert line, (await process.stderr.read()).decode()
            word, _, rest = line.strip().partition(" ")
            said[word] = rest
        yield Serving(process, said)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "up").mkdir()
    (tmp_path / "site" / "file").write_bytes(CONTENT)
    return tmp_path


async def test_the_command_that_is_printed_downloads(site: Path) -> None:
    async with serving(site, "site", "--port", 0) as server:
        words = server.said["try:"].split()
        assert words[0] == "whimbrel"
        words[-1] += "file"
        status, _, err = await done(site, *words[1:], "-o", "got")
        assert (status, err.count("\n")) == (0, 1)
        assert (site / "got").read_bytes() == CONTENT
        assert len(server.said["sha-256"]) == 95
        assert len(base64.b64decode(server.said["spki"])) == 32
        assert (site / "state/whimbrel/key.pem").stat().st_mode & 0o777 == 0o600
        status, log = await server.end()
        assert (status, log.count("\n")) == (0, 1)
        assert f" GET /file 200 {len(CONTENT)} " in log


@pytest.mark.parametrize("dispatch", ["wildcard", "connected"])
async def test_up_and_down(site: Path, dispatch: str) -> None:
    async with serving(site, "site", "--upload", "up", "--port", 0, "--dispatch", dispatch, "-q") as server:
        status, out, err = await done(site, "put", "--json", "--cafile", server.cafile, "site/file", server.url)
        report = json.loads(out)
        assert (status, report["status"], report["exit_status"], report["error"]) == (0, 201, 0, None)
        assert report["sha256"] == hashlib.sha256(CONTENT).hexdigest()
        assert (report["bytes"], report["file"], report["moves"]) == (len(CONTENT), "site/file", [])
        assert report["url"] == server.url + "file"
        assert "3.0 MB" in err
        assert (site / "up" / "file").read_bytes() == CONTENT
        status, out, _ = await done(site, "get", "-q", "--cafile", server.cafile, server.url, "-o", "-")
        assert status == 0
        assert 'href="./file"' in out
        assert await server.end(signal.SIGTERM) == (0, "")


async def test_several_files_and_standard_input(site: Path) -> None:
    (site / "a b").write_text("one")
    (site / "c").write_text("two")
    async with serving(site, "site", "--upload", "up", "--port", 0) as server:
        status, _, err = await done(site, "put", "-q", "--cafile", server.cafile, "a b", "c", server.url)
        assert (status, err) == (0, "")
        url = server.url + "d"
        status, _, err = await done(site, "put", "-q", "--cafile", server.cafile, "-", url, stdin=CONTENT)
        assert (status, err) == (0, "")
        assert {path.name: path.read_bytes() for path in (site / "up").iterdir()} == {
            "a b": b"one",
            "c": b"two",
            "d": CONTENT,
        }
        status, log = await server.end()
        # All files of one command go over one connection.
        assert len({line.split()[0] for line in log.splitlines() if "/d" not in line}) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["missing", "{url}"], 26, "cannot read missing: No such file or directory"),
        (["site", "{url}x"], 2, "cannot take a folder: it does not end in a slash"),
        (["-", "{url}"], 2, "ends in a slash, and - has no name to put there"),
        (["a", "a", "{url}x"], 2, "cannot take several files: it does not end in a slash"),
        (["a", "{url}no/such/place"], 22, "the server answered 409 Conflict (the folder does not exist)"),
        (["a", "{url}..%2fa"], 22, "the server answered 400 Bad Request"),
        (["a", "http://localhost/"], 3, "HTTP/3 needs https"),
    ],
)
async def test_what_cannot_be_uploaded_is_one_sentence(
    site: Path, arguments: list[str], status: int, sentence: str
) -> None:
    (site / "a").write_text("a")
    async with serving(site, "site", "--upload", "up", "--port", 0, "-q") as server:
        words = [word.format(url=server.url) for word in arguments]
        got, out, err = await done(site, "put", "-q", "--cafile", server.cafile, *words)
        assert (got, out, err.count("\n")) == (status, "", 1)
        assert err.startswith("whimbrel: ")
        assert sentence in err
        assert list((site / "up").iterdir()) == []


async def test_one_file_that_cannot_be_uploaded_does_not_stop_others(site: Path) -> None:
    (site / "a").write_text("a")
    (site / "up" / "site").mkdir()
    async with serving(site, "site", "--upload", "up", "--port", 0, "-q") as server:
        status, out, err = await done(site, "put", "-q", "--json", "--cafile", server.cafile, "x", "a", server.url)
        assert (status, err.count("\n")) == (26, 1)
        assert [json.loads(line)["exit_status"] for line in out.splitlines()] == [26, 0]
        assert (site / "up" / "a").read_text() == "a"


async def test_a_refusal_is_told_though_the_server_reads_no_further(site: Path, certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.respond(413, {}, b"that is\ntoo   much\n")

    async with served(certificates, handler) as (server, _):
        url = f"https://127.0.0.1:{server.addresses[0][1]}/x"
        status, _, err = await done(site, "put", "-q", "--cafile", certificates.ca, "site/file", url)
        assert (status, err) == (
            22,
            f"whimbrel: {url}: the server answered 413 Request Entity Too Large (that is too much)\n",
        )


async def test_a_server_that_stored_something_else_is_noticed(site: Path, certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.read()
        digest = base64.b64encode(hashlib.sha256(b"else").digest()).decode()
        await request.respond(201, {"repr-digest": f"sha-256=:{digest}:"})

    async with served(certificates, handler) as (server, _):
        url = f"https://127.0.0.1:{server.addresses[0][1]}/x"
        status, _, err = await done(site, "put", "-q", "--cafile", certificates.ca, "site/file", url)
        assert (status, err) == (56, f"whimbrel: {url}: the server stored something else than was sent\n")


async def test_a_digest_that_is_none_is_ignored(site: Path, certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.read()
        await request.respond(201, {"repr-digest": "sha-256=:a:"})

    async with served(certificates, handler) as (server, _):
        url = f"https://127.0.0.1:{server.addresses[0][1]}/x"
        assert await done(site, "put", "-q", "--cafile", certificates.ca, "site/file", url) == (0, "", "")


async def test_a_refusal_ends_it_though_standard_input_goes_on(site: Path, certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.respond(413)

    async with served(certificates, handler) as (server, _):
        url = f"https://127.0.0.1:{server.addresses[0][1]}/x"
        process = await started(site, "put", "-q", "--cafile", certificates.ca, "-", url)
        # Nothing is written there, and nothing closed: a thread that read it could not be ended.
        assert await process.wait() == 22
        await process.communicate()


async def test_an_interrupt_ends_it_though_standard_input_goes_on(site: Path, certificates: Certificates) -> None:
    asked = asyncio.Event()

    async def handler(request: Request) -> None:
        asked.set()
        await request.read()

    async with served(certificates, handler) as (server, _):
        url = f"https://127.0.0.1:{server.addresses[0][1]}/x"
        process = await started(site, "put", "-q", "--cafile", certificates.ca, "-", url)
        await asked.wait()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        _, err = await process.communicate()
        assert err == b"whimbrel: interrupted\n"


async def test_a_server_that_gives_up_half_way_is_told(site: Path, certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await anext(request)
        request.abort()

    async with served(certificates, handler) as (server, _):
        url = f"https://127.0.0.1:{server.addresses[0][1]}/x"
        status, _, err = await done(site, "put", "-q", "--cafile", certificates.ca, "site/file", url)
        assert (status, err.count("\n")) == (56, 1)
        assert "the server gave the response up (H3_INTERNAL_ERROR)" in err


async def test_nobody_there_is_one_sentence(site: Path) -> None:
    async with serving(site, "site", "--port", 0, "-q") as server:
        await server.end()
    status, _, err = await done(site, "put", "--timeout", "1", "--cafile", server.cafile, "site/file", server.url)
    assert status in (7, 28)
    assert err.count("\n") == 1


async def test_a_port_that_is_taken_is_one_sentence(site: Path) -> None:
    async with serving(site, "site", "--host", "127.0.0.1", "--port", 0) as server:
        port = server.url.rstrip("/").rpartition(":")[2]
        status, out, err = await done(site, "serve", "site", "--host", "127.0.0.1", "--port", port)
        assert (status, out) == (1, "")
        assert err == f"whimbrel: cannot listen on 127.0.0.1:{port}: Address already in use\n"


async def test_a_key_of_another_certificate_is_one_sentence(site: Path, certificates: Certificates) -> None:
    async with serving(site, "site", "--port", 0):
        pass
    key = site / "state/whimbrel/key.pem"
    status, out, err = await done(site, "serve", "site", "--cert", certificates.chain, "--key", key, "--port", 0)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "key" in err


async def test_a_certificate_of_ones_own_is_used(site: Path, certificates: Certificates) -> None:
    async with serving(site, "site", "--cert", certificates.chain, "--key", certificates.key, "--port", 0) as server:
        assert "--cafile" not in server.said["try:"]
        status, _, _ = await done(site, "get", "-q", "--cafile", certificates.ca, server.url + "file", "-o", "got")
        assert status == 0
        assert not (site / "state").exists()


async def test_a_second_signal_ends_it_though_somebody_downloads(site: Path) -> None:
    with (site / "site" / "huge").open("wb") as file:
        file.truncate(3_000_000_000)
    async with serving(site, "site", "--port", 0) as server:
        getting = await started(site, "get", "-q", "--cafile", server.cafile, server.url + "huge", "-o", "-")
        assert getting.stdout is not None
        await getting.stdout.read(1)
        server.process.send_signal(signal.SIGINT)
        status, _ = await server.end()
        assert status == 0
        getting.kill()
        await getting.communicate()


async def test_who_downloads_hears_at_once_of_a_server_that_two_signals_end(site: Path) -> None:
    """The goodbye is not held back by a full congestion window, and said again to who goes on sending."""
    with (site / "site" / "huge").open("wb") as huge:
        huge.truncate(1 << 30)
    async with serving(site, "site", "--port", 0, "-q") as server:
        async with (
            http.connect(server.url, verify=server.cafile) as client,
            await client.request("GET", "/huge") as response,
        ):
            await anext(response)
            for number in (signal.SIGTERM, signal.SIGINT):
                server.process.send_signal(number)
            with pytest.raises(ConnectionClosed):
                async for _ in response:
                    pass
        assert await server.process.wait() == 0


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "serve" in said
    assert "put" in said


async def test_the_example_answers_tells_of_moves_and_takes_files(site: Path, certificates: Certificates) -> None:
    example = Path(__file__).parents[2] / "examples" / "serve_http.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, example, certificates.chain, certificates.key, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        async with http.connect(url, verify=certificates.ca) as client:
            response = await client.request("GET", "/")
            about = json.loads(await response.read())
            assert about["you"][1] == client.connection.path.local[1]
            response = await client.request("GET", "/moves")
            assert (await anext(response)).startswith(b": here")
            response = await client.request("PUT", "/file", body=CONTENT)
            assert await response.read() == hashlib.sha256(CONTENT).hexdigest().encode()
            assert (await client.request("GET", "/elsewhere")).status == 404
    finally:
        process.kill()
        await process.wait()


async def test_the_application_in_the_documentation_answers(certificates: Certificates) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0].replace("\nasyncio.run(main())\n", "")
    names: dict[str, http.Handler] = {}
    exec(program, names)
    async with served(certificates, names["answer"]) as (_, client):
        response = await client.request("GET", "/")
        assert await response.read() == f"you are at {client.connection.path.local}".encode()
