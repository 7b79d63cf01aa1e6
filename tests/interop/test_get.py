"""`whimbrel get` as users run it: a process of its own, against Caddy, and against a server that misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from aioquic.h3.connection import ErrorCode

from tests.interop.conftest import AioquicServer, Authority, Caddy, aioquic_server, free_ports

pytestmark = pytest.mark.anyio

SIZES = (0, 1, 1000, 65_536, 3_000_000, 20_000_000)


@dataclass(frozen=True)
class Result:
    status: int
    output: bytes
    errors: str

    @property
    def sentence(self) -> str:
        """What it said, which must be one line and no traceback."""
        lines = self.errors.splitlines()
        assert len(lines) == 1, self.errors
        assert lines[0].startswith("whimbrel: ")
        return lines[0]


async def get(*arguments: str | Path, cwd: Path, file_limit: int | None = None) -> Result:
    process = await start(*arguments, cwd=cwd, file_limit=file_limit)
    output, errors = await process.communicate()
    assert process.returncode is not None
    return Result(process.returncode, output, errors.decode())


async def start(
    *arguments: str | Path, cwd: Path, file_limit: int | None = None, stdout: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "whimbrel",
        "get",
        *map(str, arguments),
        cwd=cwd,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=limit,
    )


def is_device(path: str) -> bool:
    return Path(path).is_char_device()


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def files(caddy: Caddy) -> dict[int, bytes]:
    """Files of several sizes under /sizes/."""
    (caddy.site / "sizes").mkdir()
    contents = {size: os.urandom(size) for size in SIZES}
    for size, content in contents.items():
        (caddy.site / "sizes" / f"{size}.bin").write_bytes(content)
    return contents


async def test_files_of_several_sizes_arrive_whole(
    caddy: Caddy, authority: Authority, files: dict[int, bytes], tmp_path: Path
) -> None:
    urls = [f"{caddy.url}/sizes/{size}.bin" for size in SIZES]
    result = await get(*urls, "--cafile", authority.cafile, "--json", cwd=tmp_path)
    assert result.status == 0, result.errors
    outcomes = [json.loads(line) for line in result.output.splitlines()]
    for size, url, outcome in zip(SIZES, urls, outcomes, strict=True):
        assert (outcome["url"], outcome["status"], outcome["bytes"]) == (url, 200, size)
        assert outcome["sha256"] == hashlib.sha256(files[size]).hexdigest()
        assert (outcome["interfaces"], outcome["moves"], outcome["error"]) == (["lo"], [], None)
        assert (tmp_path / f"{size}.bin").read_bytes() == files[size]
    assert names(tmp_path) == sorted(f"{size}.bin" for size in SIZES)
    assert "20.0 MB in" in result.errors
    assert "over lo" in result.errors


@pytest.mark.parametrize("sockets", ["pinned", "unconnected", "connected"])
@pytest.mark.parametrize("auto", ["--auto", "--no-auto"])
async def test_every_kind_of_socket_downloads(
    caddy: Caddy, authority: Authority, files: dict[int, bytes], tmp_path: Path, sockets: str, auto: str
) -> None:
    url = f"{caddy.url}/sizes/3000000.bin"
    result = await get(url, "--cafile", authority.cafile, "--sockets", sockets, auto, "-o", "-", "-q", cwd=tmp_path)
    assert (result.status, result.errors) == (0, "")
    assert result.output == files[3_000_000]
    assert names(tmp_path) == []


async def test_a_file_is_saved_under_the_name_given(
    caddy: Caddy, authority: Authority, files: dict[int, bytes], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("older")
    (tmp_path / "folder").mkdir()
    for target in ("mine", "folder"):
        result = await get(f"{caddy.url}/sizes/1000.bin", "--cafile", authority.cafile, "-o", target, cwd=tmp_path)
        assert result.status == 0, result.errors
    assert (tmp_path / "mine").read_bytes() == files[1000]
    assert (tmp_path / "folder" / "1000.bin").read_bytes() == files[1000]


async def test_redirects_are_followed(
    caddy: Caddy, authority: Authority, files: dict[int, bytes], tmp_path: Path
) -> None:
    result = await get(f"{caddy.url}/moved", "--cafile", authority.cafile, cwd=tmp_path)
    assert result.status == 0, result.errors
    assert (tmp_path / "moved").read_bytes() == files[1000]


async def test_a_reader_that_has_enough_ends_it_quietly(
    caddy: Caddy, authority: Authority, files: dict[int, bytes], tmp_path: Path
) -> None:
    arguments = (f"{caddy.url}/sizes/20000000.bin", "--cafile", authority.cafile, "-o", "-", "-q")
    process = await start(*arguments, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readexactly(1000)
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await process.stderr.read() == b""
    assert await process.wait() == 128 + signal.SIGPIPE


async def test_insecure_downloads_from_anybody(caddy: Caddy, files: dict[int, bytes], tmp_path: Path) -> None:
    result = await get(f"{caddy.url}/sizes/1000.bin", "--insecure", "-o", "-", "-q", cwd=tmp_path)
    assert (result.status, result.errors) == (0, "")
    assert result.output == files[1000]


# What can go wrong, each one sentence ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("not-a-url", 3, "does not begin with https://"),
        ("http://127.0.0.1/", 3, "HTTP/3 needs https"),
        ("https://127.0.0.1:port/", 3, "not a URL"),
        ("https://nobody.invalid/", 6, "cannot find 'nobody.invalid'"),
    ],
)
async def test_addresses_that_lead_nowhere(url: str, status: int, words: str, tmp_path: Path) -> None:
    result = await get(url, cwd=tmp_path)
    assert result.status == status
    assert words in result.sentence


async def test_nothing_listens(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    result = await asyncio.wait_for(get(f"https://127.0.0.1:{port}/", "--timeout", "1", cwd=tmp_path), 10)
    assert result.status in (7, 28)
    assert f"127.0.0.1:{port}" in result.sentence
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("certificate", "trusted", "words"),
    [
        ("expired", True, "has expired"),
        ("misnamed", True, "is not for '127.0.0.1'"),
        ("good", False, "issuer that is not trusted"),
    ],
)
async def test_certificates_that_prove_nothing(
    authority: Authority, tmp_path: Path, certificate: str, trusted: bool, words: str
) -> None:
    options = ("--cafile", str(authority.cafile)) if trusted else ()
    async with aioquic_server(authority, lambda *_: None, certificate=certificate) as url:
        result = await get(url, *options, cwd=tmp_path)
    assert result.status == 60
    assert words in result.sentence
    assert names(tmp_path) == []


async def test_a_ca_file_that_is_none(caddy: Caddy, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name, words in (("missing.pem", "missing.pem"), ("empty.pem", "no PEM certificate")):
        result = await get(f"{caddy.url}/", "--cafile", name, cwd=tmp_path)
        assert result.status == 77
        assert words in result.sentence


async def test_a_server_without_http3(authority: Authority, tmp_path: Path) -> None:
    async with aioquic_server(authority, lambda *_: None, alpn="hq-interop") as url:
        result = await get(url, "--cafile", authority.cafile, cwd=tmp_path)
    assert result.status == 35
    assert "no HTTP/3" in result.sentence


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/missing", 22, "404 Not Found"),
        ("/teapot", 22, "418 I'm a Teapot"),
        ("/around", 47, "redirected more than 10 times"),
        ("/plain", 3, "HTTP/3 needs https"),
    ],
)
async def test_answers_that_are_no_file(
    caddy: Caddy, authority: Authority, tmp_path: Path, path: str, status: int, words: str
) -> None:
    result = await get(f"{caddy.url}{path}", "--cafile", authority.cafile, cwd=tmp_path)
    assert result.status == status
    assert words in result.sentence
    assert names(tmp_path) == []


async def test_one_failure_does_not_stop_the_others(
    caddy: Caddy, authority: Authority, files: dict[int, bytes], tmp_path: Path
) -> None:
    urls = [f"{caddy.url}/missing", f"{caddy.url}/sizes/1000.bin"]
    result = await get(*urls, "--cafile", authority.cafile, "--json", "-q", cwd=tmp_path)
    assert result.status == 22
    first, second = map(json.loads, result.output.splitlines())
    assert (first["status"], first["exit_status"]) == (404, 22)
    assert first["error"] in result.sentence
    assert second["error"] is None
    assert (tmp_path / "1000.bin").read_bytes() == files[1000]


async def test_a_file_that_cannot_be_written(
    caddy: Caddy, authority: Authority, files: dict[int, bytes], tmp_path: Path
) -> None:
    url = f"{caddy.url}/sizes/1000.bin"
    result = await get(url, "--cafile", authority.cafile, "-o", "no/such/folder", cwd=tmp_path)
    assert result.status == 23
    assert "No such file or directory" in result.sentence
    result = await get(url, "--cafile", authority.cafile, "-q", "-o", "/dev/full", cwd=tmp_path)
    assert result.status == 23
    assert "No space left on device" in result.sentence
    assert is_device("/dev/full")


async def test_a_disk_that_is_full(caddy: Caddy, authority: Authority, files: dict[int, bytes], tmp_path: Path) -> None:
    url = f"{caddy.url}/sizes/3000000.bin"
    result = await get(url, "--cafile", authority.cafile, "-q", cwd=tmp_path, file_limit=1_000_000)
    assert result.status == 23
    assert "File too large; what came (1000000 bytes) is kept in 3000000.bin.part" in result.sentence
    assert (tmp_path / "3000000.bin.part").read_bytes() == files[3_000_000][:1_000_000]


async def test_two_downloads_into_one_file(tmp_path: Path) -> None:
    result = await get("https://a.invalid/x", "https://b.invalid/x", cwd=tmp_path)
    assert result.status == 2
    assert "saved as x" in result.sentence
    result = await get("https://a.invalid/x", "https://b.invalid/y", "-o", "file", cwd=tmp_path)
    assert result.status == 2
    assert "no directory" in result.sentence


HALF = os.urandom(500_000)


def begin(server: AioquicServer, stream: int) -> None:
    server.h3.send_headers(stream, [(b":status", b"200"), (b"content-length", b"1000000")])
    server.h3.send_data(stream, HALF, end_stream=False)


def give_up(server: AioquicServer, stream: int) -> None:
    begin(server, stream)
    # What was sent must arrive first: a reset lets the client drop what it has not read.
    server.once_acknowledged(lambda: server._quic.reset_stream(stream, ErrorCode.H3_INTERNAL_ERROR))


def hang_up(server: AioquicServer, stream: int) -> None:
    begin(server, stream)
    server.once_acknowledged(lambda: server.close(ErrorCode.H3_INTERNAL_ERROR, "out of order"))


def end_early(server: AioquicServer, stream: int) -> None:
    begin(server, stream)
    server._quic.send_stream_data(stream, b"", end_stream=True)


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [(give_up, "H3_INTERNAL_ERROR"), (hang_up, "H3_INTERNAL_ERROR, out of order"), (end_early, "content-length")],
)
async def test_what_came_before_the_server_gave_up_is_kept(
    authority: Authority, tmp_path: Path, misdeed: object, words: str
) -> None:
    async with aioquic_server(authority, misdeed) as url:  # type: ignore[arg-type]
        result = await get(f"{url}/file", "--cafile", authority.cafile, "-q", cwd=tmp_path)
    assert result.status == 56
    assert words in result.sentence
    kept = (tmp_path / "file.part").read_bytes()
    assert f"after {len(kept)} of 1000000 bytes; what came ({len(kept)} bytes) is kept in file.part" in result.sentence
    assert HALF.startswith(kept)
    assert kept
    assert not (tmp_path / "file").exists()


async def test_ctrl_c_keeps_what_came(authority: Authority, tmp_path: Path) -> None:
    arrived = asyncio.Event()

    def begin_and_tell(server: AioquicServer, stream: int) -> None:
        begin(server, stream)
        server.once_acknowledged(arrived.set)

    async with aioquic_server(authority, begin_and_tell) as url:
        process = await start(f"{url}/file", "--cafile", authority.cafile, "-q", cwd=tmp_path)
        await arrived.wait()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    kept = (tmp_path / "file.part").read_bytes()
    assert process.returncode == 130
    sentence = Result(130, b"", errors.decode()).sentence
    assert sentence == f"whimbrel: interrupted; what came ({len(kept)} bytes) is kept in file.part"
    assert HALF.startswith(kept)
