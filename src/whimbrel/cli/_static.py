"""Answers requests with the files of a folder: `_static_rules` says what HTTP wants, `_static_folder` what is there."""

from __future__ import annotations

import asyncio
import errno
import secrets
from typing import TYPE_CHECKING

from whimbrel import WhimbrelError
from whimbrel.cli._digest import is_wanted, sha256_field
from whimbrel.cli._disk import sha256
from whimbrel.cli._static_folder import Folder, Opened, Refused
from whimbrel.cli._static_listing import listing
from whimbrel.cli._static_rules import (
    BadTarget,
    Validators,
    Verdict,
    chosen_ranges,
    content_range,
    content_type,
    encoded_path,
    judge,
    segments,
)
from whimbrel.cli._uploads import ANNOUNCEMENT, METHODS
from whimbrel.http import BodyTooShort, FilePart
from whimbrel.http._files import file_pieces

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from whimbrel.cli._uploads import Uploads
    from whimbrel.http import Request

INDEX = "index.html"
_TEXT = {"content-type": "text/plain; charset=utf-8"}


class Site:
    """A handler for `whimbrel.http.serve`.

    Args:
        folder: what is shown.
        uploads: takes PUT; None: nothing is taken.
    """

    def __init__(self, folder: Folder, uploads: Uploads | None = None) -> None:
        self._folder = folder
        self._uploads = uploads
        self._options = {"allow": "GET, HEAD, OPTIONS"}
        if uploads is not None:
            self._options = {"allow": ", ".join(["GET, HEAD, OPTIONS", *METHODS]), **ANNOUNCEMENT}

    async def __call__(self, request: Request) -> None:
        """Answer one request.

        Raises:
            BodyTooShort: a file was cut short while it was sent; the answer has been given up.
            WhimbrelError: the client went away.
        """
        try:
            await self._answer(request)
        except (BadTarget, Refused) as refusal:
            status, headers = (refusal.status, refusal.headers) if isinstance(refusal, Refused) else (400, {})
            if status == 405:
                headers = {"allow": self._options["allow"]}  # RFC 9110 §15.5.6
            await refuse(request, status, str(refusal), **headers)
        except BodyTooShort:
            request.abort()
            raise
        except WhimbrelError:
            raise  # Some of them are OSErrors as well.
        except OSError as error:
            request.abort()
            raise BodyTooShort(f"the file cannot be read: {error.strerror}") from error

    async def _answer(self, request: Request) -> None:
        match request.method:
            case "OPTIONS":
                await request.respond(204, self._options)
            case "HEAD" if self._uploads is not None and self._uploads.is_upload(request):
                await self._uploads.take(request)
            case "GET" | "HEAD":
                names, is_folder = segments(request.path)
                with self._folder.open(names) as opened:
                    await self._show(request, names, opened, is_folder)
            case method if self._uploads is not None and method in METHODS:
                await self._uploads.take(request)
            case method:
                await refuse(request, 405, f"{method} is not done here", allow=self._options["allow"])

    async def _show(self, request: Request, names: list[str], opened: Opened, is_folder: bool) -> None:
        if not opened.is_folder:
            if is_folder:
                raise Refused(404, "not found")
            await _send_file(request, names[-1], opened)
        elif not is_folder:
            query = f"?{request.query}" if request.query else ""
            await request.respond(301, {"location": encoded_path(names, folder=True) + query})
        else:
            await self._show_folder(request, names, opened)

    async def _show_folder(self, request: Request, names: list[str], opened: Opened) -> None:
        try:
            with self._folder.open([*names, INDEX]) as index:
                if not index.is_folder:
                    await _send_file(request, INDEX, index)
                    return
        except Refused as refusal:
            if refusal.status != 404:
                raise
        try:
            page = listing(names, opened.descriptor)
        except OSError as error:
            raise Refused(404 if error.errno == errno.ENOENT else 500, "the folder cannot be listed") from None
        headers = {"content-type": "text/html; charset=utf-8", "cache-control": "no-cache", **_SAFE}
        await request.respond(200, headers, page)


_SAFE = {"x-content-type-options": "nosniff"}


async def refuse(request: Request, status: int, sentence: str, **headers: str) -> None:
    """Answer with a sentence for people."""
    await request.respond(status, {**_TEXT, **headers}, f"{sentence}\n".encode("utf-8", "replace"))


async def _send_file(request: Request, name: str, opened: Opened) -> None:
    current, length = Validators.of(opened.facts), opened.facts.st_size
    headers = {**current.headers, "accept-ranges": "bytes", **_SAFE}
    match judge(request.method, request.headers, current):
        case Verdict.NOT_MODIFIED:
            await request.respond(304, headers)
            return
        case Verdict.FAILED:
            await refuse(request, 412, "the file is not what the request says it is", etag=current.etag)
            return
    kind = content_type(name)
    # RFC 9110 §14.2: ranges are for GET alone.
    ranges = chosen_ranges(request.headers, length, current) if request.method == "GET" else None
    if ranges is None:
        part = FilePart(opened.descriptor, 0, length)
        await _send_part(request, 200, {**headers, "content-type": kind}, part, length)
    elif not ranges:
        await refuse(request, 416, "the file is shorter", **{"content-range": content_range(None, length)})
    elif len(ranges) == 1:
        part = FilePart(opened.descriptor, ranges[0].start, len(ranges[0]))
        headers = {**headers, "content-type": kind, "content-range": content_range(ranges[0], length)}
        await _send_part(request, 206, headers, part, length)
    else:
        await _send_ranges(request, headers, kind, opened.descriptor, ranges, length)


async def _send_part(request: Request, status: int, headers: dict[str, str], part: FilePart, length: int) -> None:
    """One part of a file, or all of it; with the hash of all of it for who wants that (RFC 9530 §4)."""
    if not is_wanted(request.headers.get("want-repr-digest", "")):
        await request.respond(status, headers, part)
    elif request.method == "HEAD":
        digest = await sha256(part.descriptor, length)
        await request.respond(status, {**headers, "repr-digest": sha256_field(digest.digest())}, part)
    else:
        # After the content, so that nobody waits for the hash before the first byte.
        hashing = asyncio.create_task(sha256(part.descriptor, length))
        try:
            await request.start(status, {**headers, "content-length": str(part.length), "trailer": "repr-digest"})
            sent = 0
            async for piece in file_pieces(part):
                await request.write(piece)
                sent += len(piece)
            if sent < part.length:
                raise BodyTooShort("the file was cut short while it was sent")
            await request.finish({"repr-digest": sha256_field((await hashing).digest())})
        finally:
            hashing.cancel()
            await asyncio.wait([hashing])


async def _send_ranges(
    request: Request, headers: dict[str, str], kind: str, descriptor: int, ranges: Sequence[range], length: int
) -> None:
    """Several ranges in one answer (RFC 9110 §14.6)."""
    boundary = secrets.token_hex(16)
    heads = [
        f"\r\n--{boundary}\r\ncontent-type: {kind}\r\ncontent-range: {content_range(part, length)}\r\n\r\n".encode()
        for part in ranges
    ]
    tail = f"\r\n--{boundary}--\r\n".encode()

    async def pieces() -> AsyncIterator[bytes]:
        for head, part in zip(heads, ranges, strict=True):
            yield head
            came = 0
            async for piece in file_pieces(FilePart(descriptor, part.start, len(part))):
                came += len(piece)
                yield piece
            if came < len(part):
                raise BodyTooShort("the file was cut short while it was sent")
        yield tail

    total = sum(map(len, heads)) + sum(map(len, ranges)) + len(tail)
    kind = f"multipart/byteranges; boundary={boundary}"
    await request.respond(206, {**headers, "content-type": kind, "content-length": str(total)}, pieces())
