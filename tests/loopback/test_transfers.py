"""`whimbrel put` and `whimbrel get` that go on where they stopped, and whole trees, as their users run them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.loopback.http_peers import served
from tests.loopback.support import until
from tests.loopback.test_http_server_commands import done, serving, started

if TYPE_CHECKING:
    from tests.loopback.support import Certificates
    from tests.loopback.test_http_server_commands import Serving
    from whimbrel.http import Request

pytestmark = pytest.mark.anyio

MB = 1_000_000
EXAMPLE = Path(__file__).parents[2] / "examples" / "file_sync" / "file_sync.py"


@pytest.fixture
def anyio_backend() -> str:
    """What is tried here runs in processes of its own, with loops of their own."""
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("site", "up", "tree"):
        (tmp_path / name).mkdir()
    return tmp_path


def plant(root: Path) -> None:
    """A tree with something of everything that may be sent."""
    for folder in ("a", "a/b", "empty", "a/b/empty too", "ü ?#%"):
        (root / folder).mkdir()
    for number in range(30):
        (root / "a" / f"{number}.bin").write_bytes(os.urandom(number * 1000))
    (root / "a" / "b" / "large").write_bytes(os.urandom(MB))
    (root / "ü ?#%" / os.fsdecode(b"\xff&+")).write_bytes(b"an odd name")
    (root / ".hidden").write_bytes(b"")
    os.utime(root / ".hidden", (1e9, 1e9))


def picture(root: Path) -> dict[str, bytes | None]:
    """What lies in a folder: None for folders, else what is in the file."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


def named(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


async def put(home: Path, server: Serving, *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Its status, what it says of each file, and what it says to people."""
    status, out, err = await done(home, "put", "--json", "--cafile", server.cafile, *arguments, server.url)
    said = [json.loads(line) for line in out.splitlines()]
    return status, {news["file"]: news for news in said if news["file"]}, err


def uploading(home: Path) -> int:
    """Bytes of the largest file that is not whole yet."""
    size = 0
    for path in (home / "up").rglob(".*.part"):
        with contextlib.suppress(FileNotFoundError):  # It has its name now.
            size = max(size, path.stat().st_size)
    return size


async def test_a_tree_arrives_as_it_is(home: Path) -> None:
    plant(home / "tree")
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:
        status, said, err = await put(home, server, "tree")
        assert (status, len(said)) == (0, 33)
        assert picture(home / "up" / "tree") == picture(home / "tree")
        assert (home / "up/tree/.hidden").stat().st_mtime == 1e9
        assert {news["status"] for news in said.values()} == {201}
        assert err.startswith("tree: 33 files, 1.4 MB in ")
        assert err.count("\n") == 1


async def test_what_lies_in_a_folder_goes_there_where_it_has_no_name(home: Path) -> None:
    (home / "tree" / "file").write_bytes(b"content")
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:
        status, _, _ = await done(home / "tree", "put", "-q", "--cafile", server.cafile, ".", "../site", server.url)
        assert status == 0
        assert picture(home / "up") == {"file": b"content", "site": None}


async def test_only_what_changed_is_sent_again(home: Path) -> None:
    plant(home / "tree")
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:
        await put(home, server, "tree")
        (home / "tree/a/7.bin").write_bytes(b"otherwise")
        (home / "tree/new").write_bytes(b"new")
        status, said, err = await put(home, server, "tree", "-j", 2)
        assert status == 0
        assert {name for name, news in said.items() if not news["unchanged"]} == {"tree/a/7.bin", "tree/new"}
        assert sum(news["bytes"] for news in said.values()) == len(b"otherwisenew")
        assert err.startswith("tree: 2 files, 12 B in ")
        assert err.endswith("; 32 files were there already\n")
        assert picture(home / "up" / "tree") == picture(home / "tree")


async def test_what_cannot_be_sent_is_told_and_the_rest_is(home: Path) -> None:
    plant(home / "tree")
    (home / "tree" / "link").symlink_to("/etc")
    (home / "tree" / "a" / "dangling").symlink_to("nowhere")
    os.mkfifo(home / "tree" / "pipe")
    (home / "up" / "tree").mkdir()
    (home / "up" / "tree" / "a").write_bytes(b"a file where a folder is to be")
    (home / "up" / "tree" / ".hidden").mkdir()
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:
        status, _, err = await put(home, server, "tree", "missing")
        assert status == 26
        lines = err.splitlines()
        assert "whimbrel: tree/link is a symbolic link: what it leads to is not sent" in lines
        assert "whimbrel: tree/a/dangling is a symbolic link: what it leads to is not sent" in lines
        assert "whimbrel: tree/pipe is neither a file nor a folder" in lines
        assert "whimbrel: cannot read missing: No such file or directory" in lines
        assert any("there is a folder of that name" in line for line in lines)
        assert any("tree/a/: the server answered 409 Conflict (there is a file of that name)" in line for line in lines)
        assert len(lines) == 7
        assert lines[-1].startswith("tree, missing: 1 file, 11 B in ")
        assert lines[-1].endswith("; 33 files not sent")
        there = picture(home / "up" / "tree")
        assert there["ü ?#%/" + os.fsdecode(b"\xff&+")] == b"an odd name"
        assert there["a"] == b"a file where a folder is to be"


async def test_a_file_that_may_not_be_read_is_told(home: Path) -> None:
    (home / "tree" / "secret").write_bytes(b"x")
    (home / "tree" / "secret").chmod(0)
    if os.access(home / "tree" / "secret", os.R_OK):
        pytest.skip("this user may read everything")
    (home / "tree" / "open").write_bytes(b"open")
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:
        status, _, err = await put(home, server, "tree")
        assert (status, "cannot read tree/secret: Permission denied" in err) == (26, True)
        assert picture(home / "up" / "tree") == {"open": b"open"}


async def test_without_a_server_one_sentence_is_enough(home: Path) -> None:
    plant(home / "tree")
    words = ["put", "--timeout", 0.3, "--insecure", "tree", "https://127.0.0.1:9/"]
    status, _, err = await done(home, *words)
    assert status == 28
    assert len(err.splitlines()) == 2
    assert err.endswith("; 33 files not sent\n")


@pytest.mark.parametrize("what", ["file", "tree"])
async def test_an_upload_goes_on_after_its_client_was_killed(home: Path, what: str) -> None:
    plant(home / "tree")
    large = home / "tree" / "large"
    large.write_bytes(os.urandom(60 * MB))
    sent = "tree/large" if what == "file" else "tree"
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:
        client = await started(home, "put", "-q", "--cafile", server.cafile, sent, server.url)
        await until(lambda: uploading(home) > 2 * MB)
        client.kill()
        await client.communicate()
        assert client.returncode == -signal.SIGKILL
        status, said, err = await put(home, server, sent)
        assert status == 0
        assert said["tree/large"]["resumed_at"] > 2 * MB
        assert said["tree/large"]["bytes"] + said["tree/large"]["resumed_at"] == 60 * MB
        assert said["tree/large"]["sha256"] == hashlib.sha256(large.read_bytes()).hexdigest()
        # Of a tree several files may have been on their way.
        assert ("from byte" if what == "file" else " resumed; ") in err
    if what == "file":
        assert (home / "up" / "large").read_bytes() == large.read_bytes()
    else:
        assert picture(home / "up" / "tree") == picture(home / "tree")
    assert not list((home / "up").rglob(".*.part"))


async def test_an_upload_goes_on_after_its_server_was_killed(home: Path) -> None:
    large = home / "tree" / "large"
    large.write_bytes(os.urandom(60 * MB))
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:
        client = await started(home, "put", "-q", "--cafile", server.cafile, "tree", server.url)
        await until(lambda: uploading(home) > 2 * MB)
        server.process.kill()
        await server.process.wait()
    before = uploading(home)
    client.send_signal(signal.SIGINT)
    _, told = await client.communicate()
    assert client.returncode == 130
    assert told == b"whimbrel: interrupted; the same command goes on where it stopped\n"
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:
        status, said, _ = await put(home, server, "tree")
        assert (status, said["tree/large"]["resumed_at"]) == (0, before)
    assert picture(home / "up" / "tree") == picture(home / "tree")


async def test_a_server_that_ends_is_come_back_to(home: Path, certificates: Certificates) -> None:
    """Its connections are closed in good order, or bad: the upload goes on by itself over another one."""
    large = home / "tree" / "large"
    large.write_bytes(os.urandom(60 * MB))
    cert = ["--cert", certificates.chain, "--key", certificates.key]
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q", *cert) as server:
        port = server.url.rpartition(":")[2].strip("/")
        client = await started(home, "put", "--json", "--cafile", certificates.ca, "tree/large", server.url)
        await until(lambda: uploading(home) > 2 * MB)
        for number in (signal.SIGTERM, signal.SIGINT):  # The second has no patience.
            server.process.send_signal(number)
        await server.process.communicate()
        async with serving(home, "site", "--upload", "up", "--port", port, "-q", *cert):
            out, err = await client.communicate()
    assert client.returncode == 0, err
    assert b"; connecting again\n" in err
    assert json.loads(out)["sha256"] == hashlib.sha256(large.read_bytes()).hexdigest()
    assert (home / "up" / "large").read_bytes() == large.read_bytes()


async def test_a_source_that_changed_is_sent_anew(home: Path) -> None:
    large = home / "tree" / "large"
    large.write_bytes(os.urandom(60 * MB))
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:
        client = await started(home, "put", "-q", "--cafile", server.cafile, "tree/large", server.url)
        await until(lambda: uploading(home) > 2 * MB)
        client.kill()
        await client.communicate()
        large.write_bytes(os.urandom(MB))
        status, said, _ = await put(home, server, "tree/large")
        assert (status, said["tree/large"]["resumed_at"], said["tree/large"]["bytes"]) == (0, 0, MB)
        assert (home / "up" / "large").read_bytes() == large.read_bytes()


async def test_a_tree_goes_to_a_server_that_knows_no_more_than_put_and_mkcol(
    home: Path, certificates: Certificates
) -> None:
    stored: dict[str, bytes] = {}

    async def handler(request: Request) -> None:
        content = await request.read()
        if request.method == "OPTIONS":
            await request.respond(200, {"allow": "PUT, MKCOL"})
        else:
            stored[f"{request.method} {request.target}"] = content
            await request.respond(201)

    (home / "tree" / "below").mkdir()
    (home / "tree" / "below" / "file").write_bytes(b"x" * MB)
    async with served(certificates, handler) as (server, _):
        url = f"https://127.0.0.1:{server.addresses[0][1]}/"
        status, _, err = await done(home, "put", "-q", "--cafile", certificates.ca, "tree", url)
    assert (status, err) == (0, "")
    assert stored == {"MKCOL /tree/": b"", "MKCOL /tree/below/": b"", "PUT /tree/below/file": b"x" * MB}


async def test_a_server_that_makes_no_folders_is_told(home: Path, certificates: Certificates) -> None:
    async def handler(request: Request) -> None:
        await request.respond(404)

    async with served(certificates, handler) as (server, _):
        url = f"https://127.0.0.1:{server.addresses[0][1]}/"
        status, _, err = await done(home, "put", "-q", "--cafile", certificates.ca, "tree", url)
    assert (status, err) == (22, f"whimbrel: {url}tree/: the server makes no folders (MKCOL)\n")


# Downloads ------------------------------------------------------------------------------------------------------------


async def broken_off(home: Path, server: Serving) -> int:
    """Begin to download, and be killed; how much came."""
    client = await started(home, "get", "-q", "--cafile", server.cafile, server.url + "large")
    await until(lambda: (home / "large.part").exists() and (home / "large.part").stat().st_size > 2 * MB)
    client.kill()
    await client.communicate()
    return (home / "large.part").stat().st_size


async def test_a_download_goes_on_where_it_was_killed(home: Path) -> None:
    large = home / "site" / "large"
    large.write_bytes(os.urandom(60 * MB))
    os.utime(large, (1e9, 1e9))
    async with serving(home, "site", "--port", 0, "-q") as server:
        came = await broken_off(home, server)
        status, out, err = await done(home, "get", "--json", "--cafile", server.cafile, server.url + "large")
        said = json.loads(out)
        assert (status, said["status"], said["resumed_at"], said["bytes"]) == (0, 206, came, 60 * MB - came)
        assert said["sha256"] == hashlib.sha256(large.read_bytes()).hexdigest()
        assert f", from byte {came} on\n" in err
        assert (home / "large").read_bytes() == large.read_bytes()
        assert (home / "large").stat().st_mtime == 1e9
        assert named(home, "*.part*") == []


async def test_a_download_of_what_changed_begins_anew(home: Path) -> None:
    large = home / "site" / "large"
    large.write_bytes(os.urandom(60 * MB))
    async with serving(home, "site", "--port", 0, "-q") as server:
        await broken_off(home, server)
        large.write_bytes(os.urandom(MB))
        status, out, _ = await done(home, "get", "--json", "--cafile", server.cafile, server.url + "large")
        said = json.loads(out)
        assert (status, said["status"], said["resumed_at"], said["bytes"]) == (0, 200, 0, MB)
        assert (home / "large").read_bytes() == large.read_bytes()


async def test_a_part_that_is_not_what_it_was_is_noticed_and_not_used_again(home: Path) -> None:
    large = home / "site" / "large"
    large.write_bytes(os.urandom(60 * MB))
    async with serving(home, "site", "--port", 0, "-q") as server:
        await broken_off(home, server)
        with (home / "large.part").open("r+b") as part:
            part.write(b"spoilt")
        status, _, err = await done(home, "get", "-q", "--cafile", server.cafile, server.url + "large")
        assert (status, err) == (56, f"whimbrel: {server.url}large: what came is not what the server has\n")
        assert named(home, "large*") == []
        assert (await done(home, "get", "-q", "--cafile", server.cafile, server.url + "large"))[0] == 0
        assert (home / "large").read_bytes() == large.read_bytes()


async def test_a_part_of_something_else_is_not_gone_on_with(home: Path) -> None:
    large = home / "site" / "large"
    large.write_bytes(os.urandom(60 * MB))
    (home / "site" / "other").write_bytes(os.urandom(MB))
    async with serving(home, "site", "--port", 0, "-q") as server:
        await broken_off(home, server)
        words = ["get", "-q", "--json", "--cafile", server.cafile, "-o", "large", server.url + "other"]
        status, out, _ = await done(home, *words)
        assert (status, json.loads(out)["status"]) == (0, 200)
        assert (home / "large").read_bytes() == (home / "site" / "other").read_bytes()


async def test_more_than_there_is_now_is_no_part_of_it(home: Path, certificates: Certificates) -> None:
    asked: list[str | None] = []

    async def handler(request: Request) -> None:
        asked.append(request.headers.get("range"))
        if "range" in request.headers:
            await request.respond(416, {"content-range": "bytes */5"})
        else:
            await request.respond(200, {"etag": '"5"'}, b"short")

    async with served(certificates, handler) as (server, _):
        url = f"https://127.0.0.1:{server.addresses[0][1]}/large"
        (home / "large.part").write_bytes(b"longer than that")
        (home / "large.part.json").write_text(json.dumps({"url": url, "etag": '"5"'}))
        status, _, err = await done(home, "get", "-q", "--cafile", certificates.ca, url)
    assert (status, err, asked) == (0, "", ["bytes=16-", None])
    assert (home / "large").read_bytes() == b"short"


# The example ----------------------------------------------------------------------------------------------------------


async def test_the_example_keeps_a_copy(home: Path) -> None:
    plant(home / "tree")
    (home / "tree" / "ü ?#%" / os.fsdecode(b"\xff&+")).unlink()  # Names that are no text are beyond forty lines.
    async with serving(home, "site", "--upload", "up", "--port", 0, "-q") as server:

        async def run() -> list[str]:
            arguments = [str(EXAMPLE), "tree", server.url, server.cafile]
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, cwd=home, stdout=pipe, stderr=pipe
            )
            out, err = await process.communicate()
            assert (process.returncode, err) == (0, b"")
            return out.decode().splitlines()

        assert set(await run()) >= {"a/7.bin sent from byte 0 on", "a/b/large sent from byte 0 on"}
        assert picture(home / "up") == picture(home / "tree")
        (home / "tree" / "a" / "7.bin").write_bytes(b"new")
        again = await run()
        assert [line for line in again if "is there" not in line] == ["a/7.bin sent from byte 0 on"]
        assert picture(home / "up") == picture(home / "tree")
