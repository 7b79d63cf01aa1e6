"""Uploads that go on where they stopped: what a client is told, and what is on the disk."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from tests.loopback.http_peers import dial, served
from tests.loopback.support import until
from tests.loopback.test_http_server_files import LARGE, Scene, digest, pieces_of
from whimbrel import StreamReset
from whimbrel.cli._static import Site
from whimbrel.cli._static_folder import Folder
from whimbrel.cli._uploads import MAX_AGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.loopback.support import Certificates
    from whimbrel.http import Client, Response

pytestmark = pytest.mark.anyio

HALF = len(LARGE) // 2


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def begin(client: Client, content: bytes, target: str = "/file", **more: str) -> Response:
    headers = {"upload-complete": "?0", "upload-length": str(len(content)), "repr-digest": digest(content), **more}
    return await client.request("PUT", target, headers=headers)


async def append(
    client: Client, where: str, offset: int, content: bytes, complete: str = "?1", **more: str
) -> Response:
    headers = {
        "upload-offset": str(offset),
        "upload-complete": complete,
        "content-type": "application/partial-upload",
        **more,
    }
    return await client.request("PATCH", where, headers=headers, body=pieces_of(content))


async def test_a_server_says_that_uploads_may_be_resumed(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        headers = (await scene.client.request("OPTIONS", "/")).headers
        assert headers["upload-limit"] == f"max-age={MAX_AGE}"
        assert headers["accept-patch"] == "application/partial-upload"
    async with served(certificates, Site(Folder(scene.root))) as (_, client):
        assert "upload-limit" not in (await client.request("OPTIONS", "/")).headers


async def test_an_upload_in_parts_is_whole_at_the_end(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        begun = await begin(scene.client, LARGE)
        assert (begun.status, begun.headers["upload-offset"]) == (201, "0")
        where = begun.headers["location"]
        first = await append(scene.client, where, 0, LARGE[:HALF], "?0")
        assert (first.status, first.headers["upload-complete"], first.headers["upload-offset"]) == (
            204,
            "?0",
            str(HALF),
        )
        assert not (scene.incoming / "file").exists()
        asked = await scene.client.request("HEAD", where)
        assert (asked.status, asked.headers["upload-offset"]) == (204, str(HALF))
        assert (asked.headers["upload-length"], asked.headers["upload-complete"]) == (str(len(LARGE)), "?0")
        date = "Sun, 06 Nov 1994 08:49:37 GMT"
        last = await append(scene.client, where, HALF, LARGE[HALF:], **{"last-modified": date})
        assert (last.status, last.headers["upload-complete"]) == (201, "?1")
        assert last.headers["repr-digest"] == digest(LARGE)
        assert (scene.incoming / "file").read_bytes() == LARGE
        assert (scene.incoming / "file").stat().st_mtime == 784111777
        assert scene.stored() == ["file"]


async def test_what_came_of_an_upload_that_broke_off_is_there_for_the_next_server(
    scene: Scene, certificates: Certificates
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield LARGE[:HALF]
        await asyncio.Event().wait()

    def came() -> int:
        return max((path.stat().st_size for path in scene.incoming.iterdir()), default=0)

    async with scene.open(certificates):
        where = (await begin(scene.client, LARGE)).headers["location"]
        headers = {"upload-offset": "0", "upload-complete": "?1", "content-type": "application/partial-upload"}
        sending = asyncio.create_task(scene.client.request("PATCH", where, headers=headers, body=body()))
        await until(lambda: came() > HALF - (1 << 20))
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: any(" PATCH " in line for line in scene.log))
    offset = came()
    async with scene.open(certificates):
        begun = await begin(scene.client, LARGE)
        assert (begun.headers["location"], begun.headers["upload-offset"]) == (where, str(offset))
        assert (await append(scene.client, where, offset, LARGE[offset:])).status == 201
        assert (scene.incoming / "file").read_bytes() == LARGE


async def test_who_comes_again_takes_over_from_a_client_that_only_looks_alive(
    scene: Scene, certificates: Certificates
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield LARGE[:HALF]
        await asyncio.Event().wait()

    async with scene.open(certificates), dial(certificates, scene.server) as other:
        where = (await begin(other, LARGE)).headers["location"]
        headers = {"upload-offset": "0", "upload-complete": "?1", "content-type": "application/partial-upload"}
        sending = asyncio.create_task(other.request("PATCH", where, headers=headers, body=body()))
        await until(lambda: any(path.stat().st_size for path in scene.incoming.iterdir()))
        offset = int((await begin(scene.client, LARGE)).headers["upload-offset"])
        assert 0 < offset <= HALF
        with pytest.raises(StreamReset):
            await sending
        assert (await append(scene.client, where, offset, LARGE[offset:])).status == 201
        assert (scene.incoming / "file").read_bytes() == LARGE


async def test_what_is_there_already_need_not_be_sent(scene: Scene, certificates: Certificates) -> None:
    (scene.incoming / "file").write_bytes(LARGE)
    async with scene.open(certificates):
        response = await begin(scene.client, LARGE)
        assert (response.status, response.headers["upload-complete"]) == (204, "?1")
        assert response.headers["repr-digest"] == digest(LARGE)
        other = LARGE[:-1] + b"x"
        assert (await begin(scene.client, other)).headers["upload-complete"] == "?0"


async def test_a_source_that_changed_begins_anew(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        begun = await begin(scene.client, LARGE)
        await append(scene.client, begun.headers["location"], 0, LARGE[:HALF], "?0")
        assert (await begin(scene.client, LARGE[::-1])).headers["upload-offset"] == "0"
        assert (await begin(scene.client, LARGE, "/other")).headers["upload-offset"] == "0"
        assert (await begin(scene.client, LARGE)).headers["upload-offset"] == str(HALF)


async def test_what_is_not_what_was_announced_never_gets_the_name(scene: Scene, certificates: Certificates) -> None:
    (scene.incoming / "file").write_text("older")
    async with scene.open(certificates):
        where = (await begin(scene.client, LARGE)).headers["location"]
        refused = await append(scene.client, where, 0, LARGE[::-1])
        assert (refused.status, refused.headers["upload-offset"]) == (409, "0")
        assert scene.stored() == ["file"]
        assert (scene.incoming / "file").read_text() == "older"


@pytest.mark.parametrize("way", ["whole", "resumable"])
async def test_a_file_is_on_the_disk_before_it_has_its_name(
    scene: Scene, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    settled: list[tuple[int, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        settled.append((os.fstat(descriptor).st_ino, (scene.incoming / "file").exists()))

    monkeypatch.setattr("whimbrel.cli._disk.os.fsync", noted)
    async with scene.open(certificates):
        if way == "whole":
            await scene.client.request("PUT", "/file", body=LARGE)
        else:
            await append(scene.client, (await begin(scene.client, LARGE)).headers["location"], 0, LARGE)
    file, folder = (path.stat().st_ino for path in (scene.incoming / "file", scene.incoming))
    assert settled == [(file, False), (folder, True)]


async def test_an_upload_can_be_given_up(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        where = (await begin(scene.client, LARGE)).headers["location"]
        await append(scene.client, where, 0, b"some", "?0")
        assert len(scene.stored()) == 1
        assert (await scene.client.request("DELETE", where)).status == 204
        assert scene.stored() == []


async def test_what_nobody_goes_on_with_is_removed_one_day(scene: Scene, certificates: Certificates) -> None:
    async with scene.open(certificates):
        where = (await begin(scene.client, LARGE)).headers["location"]
        await append(scene.client, where, 0, b"some", "?0")
        (part,) = scene.incoming.iterdir()
        (scene.incoming / ".mine.part").write_text("a file of that name")
        for path in scene.incoming.iterdir():
            os.utime(path, (0, 0))
        await begin(scene.client, b"other", "/other")
        assert not part.exists()
        assert scene.stored() == [".mine.part"]


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/file", {"upload-complete": "?1"}, 400),
        ("/file", {"upload-length": "-1"}, 400),
        ("/file", {"upload-length": "many"}, 400),
        ("/file", {"repr-digest": ""}, 400),
        ("/file", {"repr-digest": "sha-256=:abc:"}, 400),
        ("/file", {"upload-length": str(1 << 55)}, 507),
        ("/file", {"if-match": "*"}, 412),
        ("/../file", {}, 400),
        ("/%2e%2e/file", {}, 400),
        ("/no/file", {}, 409),
        ("/folder/", {}, 405),
    ],
)
async def test_beginnings_that_are_refused(
    scene: Scene, certificates: Certificates, target: str, headers: dict[str, str], status: int
) -> None:
    async with scene.open(certificates):
        assert (await begin(scene.client, LARGE, target, **headers)).status == status
        assert scene.stored() == []


@pytest.mark.parametrize(
    ("offset", "content", "headers", "status"),
    [
        (1, b"x", {}, 409),
        (0, b"x", {"upload-offset": "none"}, 409),
        (0, b"x", {"content-type": "text/plain"}, 415),
        (0, b"x", {"upload-complete": "yes"}, 400),
        (0, b"short", {}, 400),
        (0, b"longer than that", {}, 400),
    ],
)
async def test_parts_that_are_refused(
    scene: Scene, certificates: Certificates, offset: int, content: bytes, headers: dict[str, str], status: int
) -> None:
    async with scene.open(certificates):
        where = (await begin(scene.client, b"0123456789")).headers["location"]
        response = await append(scene.client, where, offset, content, **headers)
        assert response.status == status
        assert (await response.read()).count(b"\n") == 1
        assert not (scene.incoming / "file").exists()
        for method in ("PATCH", "DELETE"):
            assert (await scene.client.request(method, "/file")).status == 405


def below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/new", 201),
        ("/new/", 201),
        ("/folder/new/", 201),
        ("/folder", 405),
        ("/file", 409),
        ("/dangling", 409),
        ("/up", 405),
        ("/", 405),
        ("/no/new", 409),
        ("/file/new", 409),
        ("/../new", 400),
        ("/%2e%2e/new", 400),
        ("/a%2fb", 400),
        ("/up/new", 403),
    ],
)
async def test_folders_are_made(
    scene: Scene, certificates: Certificates, tmp_path: Path, target: str, status: int
) -> None:
    (scene.incoming / "folder").mkdir()
    (scene.incoming / "file").write_text("file")
    (scene.incoming / "up").symlink_to(tmp_path)
    (scene.incoming / "dangling").symlink_to("nowhere")
    before = below(tmp_path)
    async with scene.open(certificates):
        assert (await scene.client.request("MKCOL", target)).status == status
        assert (scene.incoming / target.strip("/")).is_dir() or status != 201
        assert (below(tmp_path) == before) == (status != 201)
        assert (await scene.client.request("MKCOL", "/other", body=b"<xml>")).status == 415
