"""Takes files by PUT, and folders by MKCOL: a file has its name once it is whole (RFC 9110 §9.3.4, RFC 4918 §9.3).

An upload that may be resumed follows draft-ietf-httpbis-resumable-upload: PUT with ``Upload-Complete: ?0`` begins it,
and is told where it goes on and how much is there; PATCH appends. It is known by what it will be, name, length and
SHA-256, which are all in its URL: so nothing but the part itself need outlive this process, and a client that has lost
everything finds it again by asking once more. A file that is there already needs no upload, and the answer says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from whimbrel.cli._digest import sha256_field, sha256_in
from whimbrel.cli._disk import settle_folder
from whimbrel.cli._static_folder import Folder, Refused
from whimbrel.cli._static_rules import Validators, encoded_path, segments
from whimbrel.cli._upload_files import Part, Target, refusing, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whimbrel.http import Headers, Request

METHODS = ("PUT", "PATCH", "DELETE", "MKCOL")
PARTIAL = "application/partial-upload"
MAX_AGE = 7 * 86400
"""Seconds that a part is kept which nobody goes on with."""
ANNOUNCEMENT = {"upload-limit": f"max-age={MAX_AGE}", "accept-patch": PARTIAL}
"""What tells clients that uploads may be resumed here."""


class Uploads:
    """Stores what is sent.

    Args:
        folder: where it goes; paths of requests are taken from there.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._appending: dict[tuple[int, int, str], asyncio.Task[object]] = {}

    @staticmethod
    def is_upload(request: Request) -> bool:
        """Whether a request is about an upload that began, and not about a file."""
        return _RESOURCE.fullmatch(request.query) is not None

    async def take(self, request: Request) -> None:
        """Answer a request that stores something, or asks about an upload.

        Raises:
            BadTarget, Refused: it is not taken.
            WhimbrelError: the client went away; what came of an upload that may be resumed is kept.
        """
        names, is_folder = segments(request.path)
        if request.method == "MKCOL":
            await self._make_folder(request, names)
            return
        if is_folder:
            raise Refused(405, "only files are taken, and this path is a folder's")
        with self._parent(names[:-1]) as parent, refusing():
            target = Target(parent, names[-1])
            match request.method:
                case "PUT" if "upload-complete" in request.headers:
                    await self._begin(request, names, target)
                case "PUT":
                    await self._store(request, target)
                case "HEAD" | "PATCH" | "DELETE" if self.is_upload(request):
                    await self._go_on(request, target)
                case method:
                    raise Refused(405, f"{method} is for uploads that have begun")

    async def _store(self, request: Request, target: Target) -> None:
        """All of it, in one request."""
        if "content-range" in request.headers:
            raise Refused(400, "parts of files are not taken")  # RFC 9110 §14.5
        headers = request.headers
        wanted = _digest(headers)
        target.judge(headers)
        target.check_room(int(headers.get("content-length", "0")))
        part = Part.fresh(target.parent)
        try:
            with part.open() as descriptor:
                digest = (await write(request, descriptor, 0, None)).digest()
                if wanted is not None and wanted != digest:
                    raise Refused(400, "what came is not what its digest says")
                is_new = await target.give(part.name, descriptor, headers, _modified(headers))
                facts = os.fstat(descriptor)
        finally:
            part.drop()
        await request.respond(201 if is_new else 204, _about(facts, digest))

    async def _begin(self, request: Request, names: list[str], target: Target) -> None:
        headers = request.headers
        digest, length = _digest(headers), _number(headers, "upload-length")
        if headers["upload-complete"] != "?0" or digest is None or length is None or await _has_content(request):
            raise Refused(400, "an upload begins without content, and with Upload-Length and Repr-Digest")
        current = target.judge(headers)
        if current is not None and await target.holds(digest, length):
            await request.respond(204, {"upload-complete": "?1", **_about(current, digest)})
            return
        part = Part.of(target, digest, length)
        await self._interrupt(target, part)
        _sweep(target.parent)
        target.check_room(length - part.size())
        where = f"{encoded_path(names, folder=False)}?upload={digest.hex()}-{length}"
        await request.respond(201, {"location": where, **_progress(part.size(), length), **ANNOUNCEMENT})

    async def _go_on(self, request: Request, target: Target) -> None:
        match = _RESOURCE.fullmatch(request.query)
        assert match is not None, "asked before"
        digest, length = bytes.fromhex(match[1]), int(match[2])
        part = Part.of(target, digest, length)
        # Who asks has lost what appended before: a connection may look alive for long after its client has died.
        await self._interrupt(target, part)
        if request.method == "HEAD":
            await request.respond(204, {**_progress(part.size(), length), "cache-control": "no-store"})
        elif request.method == "DELETE":
            part.drop()
            await request.respond(204)
        else:
            with self._alone(target, part):
                await self._append(request, target, part, digest, length)

    async def _append(self, request: Request, target: Target, part: Part, digest: bytes, length: int) -> None:
        headers = request.headers
        if headers.get("content-type") != PARTIAL:
            raise Refused(415, f"what is appended has the type {PARTIAL}")
        if headers.get("upload-complete") not in ("?0", "?1"):
            raise Refused(400, "Upload-Complete says neither ?0 nor ?1")
        size = part.size()
        if _number(headers, "upload-offset") != size:
            raise Refused(409, f"there are {size} bytes", _progress(size, length))
        target.judge(headers)
        with part.open() as descriptor:
            came = await write(request, descriptor, size, length)
            size = os.fstat(descriptor).st_size
            if size < length:
                if headers["upload-complete"] == "?1":
                    raise Refused(400, f"{size} bytes are not all of {length}", _progress(size, length))
                await request.respond(204, _progress(size, length))
                return
            if came.digest() != digest:
                part.drop()
                raise Refused(409, "what came is not what its digest says", _progress(0, length))
            is_new = await target.give(part.name, descriptor, headers, _modified(headers))
            facts = os.fstat(descriptor)
        await request.respond(201 if is_new else 204, {"upload-complete": "?1", **_about(facts, digest)})

    async def _make_folder(self, request: Request, names: list[str]) -> None:
        if await _has_content(request):
            raise Refused(415, "a folder is made without content")
        if not names:
            raise Refused(405, "the folder is there")
        with self._parent(names[:-1]) as parent, refusing():
            try:
                os.mkdir(names[-1], dir_fd=parent)
            except FileExistsError:
                if not _is_folder(names[-1], parent):
                    raise Refused(409, "there is a file of that name") from None
                raise Refused(405, "the folder is there") from None  # RFC 4918 §9.3.1
            settle_folder(parent)
        await request.respond(201)

    @contextlib.contextmanager
    def _parent(self, names: list[str]) -> Iterator[int]:
        try:
            with self._folder.open(names) as opened:
                if not opened.is_folder:
                    raise Refused(409, "there is a file where the path has a folder")
                yield opened.descriptor
        except Refused as refusal:
            if refusal.status != 404:
                raise
            raise Refused(409, "the folder does not exist") from None

    @contextlib.contextmanager
    def _alone(self, target: Target, part: Part) -> Iterator[None]:
        """Append to a part: until the end, or until somebody else asks for it."""
        me = asyncio.current_task()
        assert me is not None, "requests have a task each"
        key = _key(target, part)
        self._appending[key] = me
        try:
            yield
        finally:
            if self._appending.get(key) is me:
                del self._appending[key]

    async def _interrupt(self, target: Target, part: Part) -> None:
        while (task := self._appending.get(_key(target, part))) is not None:
            task.cancel()
            await asyncio.wait([task])


_RESOURCE = re.compile(r"upload=([0-9a-f]{64})-([0-9]{1,18})")
_PART = re.compile(r"\.[0-9a-f]{32}\.part")


def _is_folder(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent).st_mode)
    except FileNotFoundError:
        return False  # A link that leads nowhere.


def _key(target: Target, part: Part) -> tuple[int, int, str]:
    facts = os.fstat(target.parent)
    return facts.st_dev, facts.st_ino, part.name


def _sweep(parent: int) -> None:
    """Remove the parts in a folder that nobody has gone on with."""
    oldest = time.time() - MAX_AGE
    with os.scandir(parent) as entries:
        old = [
            entry.name
            for entry in entries
            if _PART.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < oldest
        ]
    for name in old:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=parent)


def _progress(size: int, length: int) -> dict[str, str]:
    return {"upload-offset": str(size), "upload-length": str(length), "upload-complete": "?0"}


def _about(facts: os.stat_result, digest: bytes) -> dict[str, str]:
    return {"etag": Validators.of(facts).etag, "repr-digest": sha256_field(digest)}


async def _has_content(request: Request) -> bool:
    async for piece in request:
        if piece:
            return True
    return False


def _number(headers: Headers, name: str) -> int | None:
    text = headers.get(name, "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _modified(headers: Headers) -> float | None:
    """When the client says that the content was made, by a field that is for answers but says just that."""
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        return parsedate_to_datetime(headers.get("last-modified", "")).timestamp()
    return None


def _digest(headers: Headers) -> bytes | None:
    """The SHA-256 that the client says its content has (RFC 9530); None where it says none.

    Raises:
        Refused: it is malformed.
    """
    for name in ("repr-digest", "content-digest"):
        try:
            if (digest := sha256_in(headers.get(name, ""))) is not None:
                return digest
        except ValueError:
            raise Refused(400, f"{name} is malformed") from None
    return None
