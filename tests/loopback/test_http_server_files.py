"""A folder served over HTTP/3, and uploads to it: what a client sees, and what is on the disk afterwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import os
import shutil
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from tests.loopback.http_peers import other_client, request, served
from tests.loopback.support import until
from whimbrel import StreamReset
from whimbrel.cli._access_log import AccessLog
from whimbrel.cli._static import Site
from whimbrel.cli._static_folder import Folder
from whimbrel.cli._uploads import Uploads
from whimbrel.http import Client, ErrorCode, Response, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio

LARGE = bytes(range(251)) * 40_000  # 10 MB: more than flows without being read.
SECRET = b"not for you"
ALLOWED = "GET, HEAD, OPTIONS, PUT, PATCH, DELETE, MKCOL"


class Scene:
    """A folder with things in it, served, and what the server said of each request."""

    def __init__(self, root: Path) -> None:
        self.root = root / "site"
        self.incoming = root / "incoming"
        self.log: list[str] = []
        self.client: Client
        self.server: Server
        (self.root / "folder").mkdir(parents=True)
        (self.root / "indexed").mkdir()
        (self.root / "indexed" / "index.html").write_text("<p>index")
        (self.root / "large").write_bytes(LARGE)
        (self.root / "text.txt").write_text("0123456789")
        (self.root / ".hidden").write_text("hidden")
        (self.root / "a b&c.txt").write_text("spaced")
        (root / "secret").write_bytes(SECRET)
        (self.root / "out").symlink_to(root / "secret")
        (self.root / "up").symlink_to(root)
        (self.root / "in").symlink_to("text.txt")
        (self.root / "around").symlink_to("around")
        os.mkfifo(self.root / "pipe")
        self.incoming.mkdir()

    @contextlib.asynccontextmanager
    async def open(self, certificates: Certificates) -> AsyncIterator[Scene]:
        site = Site(Folder(self.root), Uploads(Folder(self.incoming)))
        async with served(certificates, AccessLog(site, tell=self.log.append)) as (self.server, self.client):
            yield self

    async def ask(self, method: str, target: str, **headers: str) -> tuple[Response, bytes]:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.client.request(method, target, headers=fields)
        return response, await response.read()

    def stored(self) -> list[str]:
        return sorted(os.listdir(self.incoming))  # noqa: PTH208


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_file_comes_with_what_is_known_of_it(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        got, content = await scene.ask("GET", "/text.txt")
        assert (got.status, content) == (200, b"0123456789")
        assert got.headers["content-type"] == "text/plain; charset=utf-8"
        assert got.headers["content-length"] == "10"
        assert got.headers["accept-ranges"] == "bytes"
        modified = (scene.root / "text.txt").stat().st_mtime
        assert got.headers["last-modified"] == formatdate(int(modified), usegmt=True)
        head, nothing = await scene.ask("HEAD", "/text.txt")
        assert (head.status, nothing) == (200, b"")
        without_date = [{**dict(response.headers), "date": ""} for response in (got, head)]
        assert without_date[0] == without_date[1]


async def test_a_large_file_arrives_whole(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        _, content = await scene.ask("GET", "/large")
        assert content == LARGE
        assert scene.log == [f"{scene.log[0].split()[0]} GET /large 200 {len(LARGE)} {scene.log[0].split()[5]} s"]
        async with other_client(certificates, scene.server) as other:
            assert (await other.answer(other.ask(request("GET", "/large")))).content == LARGE


@pytest.mark.parametrize(
    ("target", "status", "content"),
    [
        ("/.hidden", 200, b"hidden"),
        ("/a%20b%26c.txt", 200, b"spaced"),
        ("/in", 200, b"0123456789"),
        ("/text.txt?query", 200, b"0123456789"),
        ("/folder/../text.txt", 400, None),
        ("/..", 400, None),
        ("/../secret", 400, None),
        ("/%2e%2e/secret", 400, None),
        ("/..%2fsecret", 400, None),
        ("/folder/%2e%2e/%2e%2e/secret", 400, None),
        ("/text.txt%00", 400, None),
        ("/%zz", 400, None),
        ("//secret", 404, None),
        ("/..;/secret", 404, None),
        ("/%5c..%5csecret", 404, None),
        ("/%252e%252e/secret", 404, None),
        ("/out", 403, None),
        ("/up/secret", 403, None),
        ("/up/", 403, None),
        ("/up/site/text.txt", 200, b"0123456789"),
        ("/around", 404, None),
        ("/pipe", 403, None),
        ("/missing", 404, None),
        ("/text.txt/", 404, None),
        ("/text.txt/more", 404, None),
        ("/" + "n" * 300, 404, None),
    ],
)
async def test_what_is_shown_and_what_is_not(
    scene: Scene, certificates: Certificates, target: str, status: int, content: bytes | None
) -> None:
    async with scene.open(certificates):
        response, got = await scene.ask("GET", target)
        assert response.status == status
        assert SECRET not in got
        assert content is None or got == content
        assert (await scene.ask("GET", "/text.txt"))[1] == b"0123456789"


async def test_what_may_not_be_read_is_refused(scene: Scene, certificates: Certificates) -> None:
    (scene.root / "text.txt").chmod(0)
    if os.access(scene.root / "text.txt", os.R_OK):
        pytest.skip("this user may read everything")
    async with scene.open(certificates):
        assert (await scene.ask("GET", "/text.txt"))[0].status == 403


async def test_folders(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        response, page = await scene.ask("GET", "/")
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert b'<a href="./a%20b%26c.txt">a b&amp;c.txt</a>' in page
        assert b"./folder/" in page
        assert b"pipe" not in page
        response, _ = await scene.ask("GET", "/folder?x=1")
        assert (response.status, response.headers["location"]) == (301, "/folder/?x=1")
        # Never a redirection to another host.
        response, _ = await scene.ask("GET", "//folder")
        assert (response.status, response.headers["location"]) == (301, "/folder/")
        response, page = await scene.ask("GET", "/indexed/")
        assert (page, "etag" in response.headers) == (b"<p>index", True)
        response, page = await scene.ask("HEAD", "/folder/")
        assert (response.status, page) == (200, b"")


async def test_methods(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        for method, status in [("OPTIONS", 204), ("POST", 405), ("DELETE", 405), ("TRACE", 405), ("get", 405)]:
            response, _ = await scene.ask(method, "/text.txt")
            assert (response.status, response.headers["allow"]) == (
                status,
                ALLOWED,
            )
        assert (await scene.ask("OPTIONS", "*"))[0].status == 204
    async with served(certificates, Site(Folder(scene.root))) as (_, client):
        response = await client.request("PUT", "/new", body=b"x")
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_conditions(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        first, _ = await scene.ask("GET", "/text.txt")
        etag = first.headers["etag"]
        response, content = await scene.ask("GET", "/text.txt", if_none_match=etag)
        assert (response.status, content, response.headers["etag"]) == (304, b"", etag)
        assert "content-length" not in response.headers
        assert (await scene.ask("GET", "/text.txt", if_match='"other"'))[0].status == 412
        assert (await scene.ask("GET", "/text.txt", if_modified_since=first.headers["last-modified"]))[0].status == 304
        (scene.root / "text.txt").write_text("other content")
        response, content = await scene.ask("GET", "/text.txt", if_none_match=etag)
        assert (response.status, content) == (200, b"other content")


@pytest.mark.parametrize(
    ("field", "status", "told", "content"),
    [
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=0-100", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=4-2", 200, None, b"0123456789"),
    ],
)
async def test_ranges(
    scene: Scene, certificates: Certificates, field: str, status: int, told: str | None, content: bytes | None
) -> None:
    async with scene.open(certificates):
        response, got = await scene.ask("GET", "/text.txt", range=field)
        assert (response.status, response.headers.get("content-range")) == (status, told)
        assert content is None or got == content
        head, _ = await scene.ask("HEAD", "/text.txt", range=field)
        assert head.status == 200


async def test_a_range_of_what_was_replaced_is_all_of_it(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        etag = (await scene.ask("HEAD", "/text.txt"))[0].headers["etag"]
        assert (await scene.ask("GET", "/text.txt", range="bytes=5-", if_range=etag))[1] == b"56789"
        (scene.root / "text.txt").write_text("abcdefghij")
        response, content = await scene.ask("GET", "/text.txt", range="bytes=5-", if_range=etag)
        assert (response.status, content) == (200, b"abcdefghij")


async def test_several_ranges_come_in_parts(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        response, content = await scene.ask("GET", "/text.txt", range="bytes=7-8, 0-1")
        kind, _, boundary = response.headers["content-type"].partition("; boundary=")
        assert (response.status, kind) == (206, "multipart/byteranges")
        assert int(response.headers["content-length"]) == len(content)
        parts = content.split(f"--{boundary}".encode())
        assert parts[0].strip() == b""
        assert parts[3] == b"--\r\n"
        for part, told, piece in zip(parts[1:3], (b"7-8", b"0-1"), (b"78", b"01"), strict=True):
            head, _, body = part.partition(b"\r\n\r\n")
            assert b"content-range: bytes " + told + b"/10" in head
            assert body == piece + b"\r\n"


# What changes while it is served --------------------------------------------------------------------------------------


async def test_a_folder_that_vanishes_is_not_found_and_may_come_back(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        shutil.rmtree(scene.root)
        assert (await scene.ask("GET", "/text.txt"))[0].status == 404
        assert (await scene.ask("GET", "/"))[0].status == 404
        scene.root.mkdir()
        (scene.root / "text.txt").write_text("back")
        assert (await scene.ask("GET", "/text.txt"))[1] == b"back"


async def test_a_file_that_shrinks_ends_in_a_reset(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        response = await scene.client.request("GET", "/large")
        await anext(response)
        os.truncate(scene.root / "large", 1000)
        with pytest.raises(StreamReset) as reset:
            await response.read()
        assert reset.value.code == ErrorCode.H3_INTERNAL_ERROR
        await until(lambda: bool(scene.log))
        assert "given up" in scene.log[0]
        assert (await scene.ask("GET", "/text.txt"))[1] == b"0123456789"


async def test_a_disk_that_fails_ends_in_a_reset(
    scene: Scene, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int, count: int, position: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with scene.open(certificates):
        with monkeypatch.context() as patched:
            patched.setattr("whimbrel.http._files.os.pread", broken)
            with pytest.raises(StreamReset):
                await (await scene.client.request("GET", "/large")).read()
        await until(lambda: bool(scene.log))
        assert "given up: the file cannot be read: Input/output error" in scene.log[0]
        assert (await scene.ask("GET", "/text.txt"))[1] == b"0123456789"


async def test_of_a_file_that_grows_the_announced_length_is_sent(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        response = await scene.client.request("GET", "/large")
        first = await anext(response)
        with (scene.root / "large").open("ab") as file:
            file.write(bytes(1_000_000))
        assert first + await response.read() == LARGE


async def test_a_file_that_is_replaced_is_sent_as_it_was(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        response = await scene.client.request("GET", "/large")
        first = await anext(response)
        (scene.root / "new").write_bytes(bytes(100))
        (scene.root / "new").replace(scene.root / "large")
        assert first + await response.read() == LARGE
        assert (await scene.ask("GET", "/large"))[1] == bytes(100)


# Uploads --------------------------------------------------------------------------------------------------------------


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


async def pieces_of(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 300_000):
        yield data[start : start + 300_000]


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("length", ["told", "untold"])
async def test_what_is_sent_is_stored(scene: Scene, certificates: Certificates, content: bytes, length: str) -> None:
    async with scene.open(certificates):
        for status in (201, 204):
            body = content if length == "told" else pieces_of(content)
            response = await scene.client.request("PUT", "/a%20b", body=body)
            assert response.status == status
            assert response.headers["repr-digest"] == digest(content)
            assert (scene.incoming / "a b").read_bytes() == content
            assert scene.stored() == ["a b"]
        assert (scene.incoming / "a b").stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o22))


async def test_an_upload_has_its_name_when_it_is_whole(scene: Scene, certificates: Certificates) -> None:
    (scene.incoming / "file").write_text("older")
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield LARGE
        await go_on.wait()
        yield b"end"

    async with scene.open(certificates):
        sending = asyncio.create_task(scene.client.request("PUT", "/file", body=body()))
        await until(lambda: any((scene.incoming / name).stat().st_size > 1_000_000 for name in scene.stored()))
        assert (scene.incoming / "file").read_text() == "older"
        go_on.set()
        assert (await sending).status == 204
        assert (scene.incoming / "file").read_bytes() == LARGE + b"end"


@pytest.mark.parametrize("how", ["cancelled", "short"])
async def test_nothing_is_left_of_an_upload_that_broke_off(scene: Scene, certificates: Certificates, how: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield LARGE
        if how == "cancelled":
            await asyncio.Event().wait()

    async with scene.open(certificates):
        headers = {"content-length": str(2 * len(LARGE))}
        sending = asyncio.create_task(scene.client.request("PUT", "/file", headers=headers, body=body()))
        if how == "cancelled":
            await until(lambda: any((scene.incoming / name).stat().st_size > 1_000_000 for name in scene.stored()))
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        else:
            with pytest.raises(StreamReset):
                await sending
        await until(lambda: bool(scene.log))
        assert scene.stored() == []
        assert (await scene.client.request("PUT", "/file", body=b"new")).status == 201


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/..", {}, 400),
        ("/../secret", {}, 400),
        ("/..%2fsecret", {}, 400),
        ("/%2e%2e/secret", {}, 400),
        ("/a%00b", {}, 400),
        ("/up/secret", {}, 403),
        ("/", {}, 405),
        ("/new/", {}, 405),
        ("/folder", {}, 409),
        ("/no/such", {}, 409),
        ("/file/below", {}, 409),
        ("/" + "n" * 300, {}, 400),
        ("/pipe", {}, 403),
        ("/new", {"content-range": "bytes 0-4/10"}, 400),
        ("/new", {"content-length": str(1 << 60)}, 507),
        ("/new", {"repr-digest": digest(b"other")}, 400),
        ("/new", {"content-digest": "sha-256=:%%%:"}, 201),
        ("/new", {"repr-digest": "sha-256=:abc:"}, 400),
        ("/new", {"if-match": "*"}, 412),
        ("/file", {"if-none-match": "*"}, 412),
        ("/file", {"if-match": '"other"'}, 412),
        ("/new", {"if-none-match": "*", "repr-digest": digest(b"content")}, 201),
        ("/link", {}, 204),
    ],
)
async def test_what_is_taken_and_what_is_not(
    scene: Scene, certificates: Certificates, tmp_path: Path, target: str, headers: dict[str, str], status: int
) -> None:
    (scene.incoming / "file").write_text("older")
    (scene.incoming / "folder").mkdir()
    (scene.incoming / "up").symlink_to(tmp_path)
    (scene.incoming / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(scene.incoming / "pipe")
    before = scene.stored()
    async with scene.open(certificates):
        body = pieces_of(b"content") if "content-length" in headers else b"content"
        response = await scene.client.request("PUT", target, headers=headers, body=body)
        said = await response.read()
        assert response.status == status
        assert (tmp_path / "secret").read_bytes() == SECRET
        if status < 300:
            assert (scene.incoming / target[1:]).read_bytes() == b"content"
        else:
            assert said.count(b"\n") == 1
            assert scene.stored() == before
            assert (scene.incoming / "file").read_text() == "older"
        assert (await scene.ask("GET", "/text.txt"))[1] == b"0123456789"


async def test_of_two_who_create_the_same_file_one_wins(scene: Scene, certificates: Certificates) -> None:
    """Both began when it was not there."""
    go_on = asyncio.Event()

    async def body(content: bytes) -> AsyncIterator[bytes]:
        yield LARGE
        await go_on.wait()
        yield content

    async with scene.open(certificates):
        headers = {"if-none-match": "*"}
        sending = [
            asyncio.create_task(scene.client.request("PUT", "/file", headers=headers, body=body(content)))
            for content in (b"one", b"two")
        ]
        await until(lambda: len(scene.stored()) == 2)
        go_on.set()
        assert sorted([(await one).status for one in sending]) == [201, 412]
        winner = b"one" if (await sending[0]).status == 201 else b"two"
        assert (scene.incoming / "file").read_bytes() == LARGE + winner
        assert scene.stored() == ["file"]


async def test_a_disk_that_is_full_is_told_in_one_sentence(
    scene: Scene, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: object, position: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("whimbrel.cli._upload_files.os.pwrite", full)
    async with scene.open(certificates):
        response = await scene.client.request("PUT", "/file", body=LARGE)
        assert response.status == 507
        assert await response.read() == b"the file cannot be stored: No space left on device\n"
        assert scene.stored() == []


async def test_a_folder_for_uploads_that_vanishes_is_told(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        scene.incoming.rmdir()
        assert (await scene.client.request("PUT", "/file", body=LARGE)).status == 409
        scene.incoming.mkdir()
        assert (await scene.client.request("PUT", "/file", body=b"x")).status == 201


async def test_both_ways_at_once_on_one_connection(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):

        async def up(name: str) -> int:
            return (await scene.client.request("PUT", name, body=LARGE)).status

        async def down() -> bytes:
            return (await scene.ask("GET", "/large"))[1]

        assert list(await asyncio.gather(up("/1"), down(), up("/2"), down())) == [201, LARGE, 201, LARGE]
        assert [(scene.incoming / name).read_bytes() for name in scene.stored()] == [LARGE, LARGE]
        assert len(scene.server.connections) == 1


async def test_the_log_tells_of_who_gave_up(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        response = await scene.client.request("GET", "/large")
        await anext(response)
        await response.close()
        await until(lambda: bool(scene.log))
        assert scene.log[0].endswith("the client gave it up")
        assert " GET /large 200 " in scene.log[0]
