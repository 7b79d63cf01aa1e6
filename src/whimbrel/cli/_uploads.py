"""Takes files by PUT: under a temporary name while they come, under their own when they are whole (RFC 9110 §9.3.4)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import os
import secrets
import stat
from typing import TYPE_CHECKING

from whimbrel.cli._digest import sha256_in
from whimbrel.cli._static_folder import Folder, Refused
from whimbrel.cli._static_rules import Validators, Verdict, judge, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from whimbrel.http import Headers, Request

BATCH = 1 << 20
"""Bytes written and hashed at once, by a thread: the event loop waits for no disk."""


class Uploads:
    """Stores what is sent.

    Args:
        folder: where it goes; paths of requests are taken from there. Folders in it are not made.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    async def take(self, request: Request) -> None:
        """Answer a PUT.

        Raises:
            BadTarget, Refused: it is not taken.
            WhimbrelError: the client went away; nothing is left of what came.
        """
        names, is_folder = segments(request.path)
        if is_folder:
            raise Refused(405, "only files are taken, and this path is a folder's")
        if "content-range" in request.headers:
            raise Refused(400, "parts of files are not taken")  # RFC 9110 §14.5
        wanted = _wanted_digest(request.headers)
        with self._parent(names[:-1]) as parent:
            stored = await _Upload(parent, names[-1]).store(request, wanted)
        await request.respond(201 if stored.is_new else 204, stored.headers)

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


class _Stored:
    def __init__(self, facts: os.stat_result, digest: bytes, is_new: bool) -> None:
        self.is_new = is_new
        self.headers = {
            "etag": Validators.of(facts).etag,
            "repr-digest": f"sha-256=:{base64.b64encode(digest).decode('ascii')}:",  # RFC 9530 §3
        }


class _Upload:
    """One file on its way.

    Args:
        parent: the folder, open: wherever it is moved meanwhile, the file goes there.
        name: of the file in it.
    """

    def __init__(self, parent: int, name: str) -> None:
        self._parent = parent
        self._name = name
        self._part = f".{secrets.token_hex(8)}.part"
        self._digest = hashlib.sha256()

    async def store(self, request: Request, wanted: bytes | None) -> _Stored:
        current = self._current()
        self._judge(request, current)
        self._check_room(request.headers)
        try:
            with self._file() as descriptor:
                await self._receive(request, descriptor)
                digest = self._digest.digest()
                if wanted is not None and wanted != digest:
                    raise Refused(400, "what came is not what its digest says")
                # Once more: it took a while.
                current = self._current()
                self._judge(request, current)
                self._commit(exclusively=request.headers.get("if-none-match", "").strip() == "*")
                return _Stored(os.fstat(descriptor), digest, is_new=current is None)
        except OSError as error:
            raise _refusal(error) from error

    def _current(self) -> os.stat_result | None:
        try:
            facts = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refusal(error) from error
        if stat.S_ISDIR(facts.st_mode):
            raise Refused(409, "there is a folder of that name")
        if not stat.S_ISREG(facts.st_mode) and not stat.S_ISLNK(facts.st_mode):
            raise Refused(403, "there is something of that name that is no file")
        return facts

    def _judge(self, request: Request, current: os.stat_result | None) -> None:
        if judge("PUT", request.headers, None if current is None else Validators.of(current)) is not Verdict.GO_ON:
            raise Refused(412, "what is there is not what the request expects")

    def _check_room(self, headers: Headers) -> None:
        length = int(headers.get("content-length", "0"))
        room = os.fstatvfs(self._parent)
        # Some file systems do not tell; nor do quotas. Then writing will.
        if room.f_blocks and length > room.f_bavail * room.f_frsize:
            raise Refused(507, f"there is no room for {length} bytes")

    @contextlib.contextmanager
    def _file(self) -> Iterator[int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(self._part, flags, 0o666, dir_fd=self._parent)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(self._part, dir_fd=self._parent)

    async def _receive(self, request: Request, descriptor: int) -> None:
        batch: list[bytes] = []
        size = 0
        async for piece in request:
            batch.append(piece)
            size += len(piece)
            if size >= BATCH:
                await _in_thread(self._write, descriptor, batch)
                batch, size = [], 0
        if batch:
            await _in_thread(self._write, descriptor, batch)

    def _write(self, descriptor: int, batch: list[bytes]) -> None:
        data = memoryview(batch[0] if len(batch) == 1 else b"".join(batch))
        self._digest.update(data)
        while data:
            data = data[os.write(descriptor, data) :]

    def _commit(self, *, exclusively: bool) -> None:
        if exclusively:
            try:
                # A link fails where the name exists, whoever was first; a renaming would replace it.
                os.link(self._part, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            except FileExistsError:
                raise Refused(412, "what is there is not what the request expects") from None
            return
        os.replace(self._part, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)


async def _in_thread(write: Callable[[int, list[bytes]], None], descriptor: int, batch: list[bytes]) -> None:
    """However often it is cancelled, the thread is done when this returns: the descriptor is about to be closed."""
    writing = asyncio.get_running_loop().run_in_executor(None, write, descriptor, batch)
    cancelled: asyncio.CancelledError | None = None
    while not writing.done():
        try:
            await asyncio.wait([writing])
        except asyncio.CancelledError as error:
            cancelled = error
    failed = writing.exception()
    if cancelled is not None:
        raise cancelled
    if failed is not None:
        raise failed


def _wanted_digest(headers: Headers) -> bytes | None:
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


def _refusal(error: OSError) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Refused(507, f"the file cannot be stored: {error.strerror}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Refused(403, f"the file cannot be stored: {error.strerror}")
    if error.errno == errno.ENAMETOOLONG:
        return Refused(400, "the name is too long")
    if error.errno == errno.ENOENT:
        return Refused(409, "the folder does not exist")
    return Refused(500, f"the file cannot be stored: {error.strerror}")
