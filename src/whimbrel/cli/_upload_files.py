"""Files that come by upload: written under another name, and renamed when they are whole and on the disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from typing import TYPE_CHECKING

from whimbrel import WhimbrelError
from whimbrel.cli._disk import in_thread, settle, settle_folder, sha256
from whimbrel.cli._static_folder import Refused
from whimbrel.cli._static_rules import Validators, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterator

    from whimbrel.http import Headers

BATCH = 1 << 20
"""Bytes written and hashed at once, by a thread."""


class Target:
    """The name that a file is to have.

    Args:
        parent: the folder, open: wherever it is moved meanwhile, the file goes there.
        name: of the file in it.
    """

    def __init__(self, parent: int, name: str) -> None:
        self.parent = parent
        self.name = name

    def current(self) -> os.stat_result | None:
        """What has that name now.

        Raises:
            Refused: something that no file may replace.
        """
        with refusing():
            try:
                facts = os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)
            except FileNotFoundError:
                return None
        if stat.S_ISDIR(facts.st_mode):
            raise Refused(409, "there is a folder of that name")
        if not stat.S_ISREG(facts.st_mode) and not stat.S_ISLNK(facts.st_mode):
            raise Refused(403, "there is something of that name that is no file")
        return facts

    def judge(self, headers: Headers) -> os.stat_result | None:
        """What has that name now, where the request is for that. Raises Refused."""
        current = self.current()
        if judge("PUT", headers, None if current is None else Validators.of(current)) is not Verdict.GO_ON:
            raise Refused(412, "what is there is not what the request expects")
        return current

    def check_room(self, length: int) -> None:
        """Raises Refused where so much more does not fit."""
        room = os.fstatvfs(self.parent)
        # Some file systems do not tell; nor do quotas. Then writing will.
        if room.f_blocks and length > room.f_bavail * room.f_frsize:
            raise Refused(507, f"there is no room for {length} bytes")

    async def holds(self, digest: bytes, length: int) -> bool:
        """Whether the file that has the name is this one already."""
        with contextlib.suppress(OSError):
            descriptor = os.open(
                self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.parent
            )
            try:
                facts = os.fstat(descriptor)
                if stat.S_ISREG(facts.st_mode) and facts.st_size == length:
                    return (await sha256(descriptor, length)).digest() == digest
            finally:
                os.close(descriptor)
        return False

    async def give(self, part: str, descriptor: int, headers: Headers, modified: float | None) -> bool:
        """Give the name to a part that is whole now. Returns whether nothing had it before. Raises Refused."""
        await in_thread(lambda: settle(descriptor, modified))
        is_new = self.judge(headers) is None  # Once more: it took a while.
        if headers.get("if-none-match", "").strip() == "*":
            try:
                # A link fails where the name exists, whoever was first; a renaming would replace it.
                os.link(part, self.name, src_dir_fd=self.parent, dst_dir_fd=self.parent)
            except FileExistsError:
                raise Refused(412, "what is there is not what the request expects") from None
            os.unlink(part, dir_fd=self.parent)
        else:
            os.replace(part, self.name, src_dir_fd=self.parent, dst_dir_fd=self.parent)
        await in_thread(lambda: settle_folder(self.parent))
        return is_new


class Part:
    """A file that is not whole yet.

    Args:
        parent: the folder, open.
        name: of the part in it.
    """

    def __init__(self, parent: int, name: str) -> None:
        self.name = name
        self._parent = parent

    @classmethod
    def fresh(cls, parent: int) -> Part:
        """One that nobody else knows."""
        return cls(parent, f".{secrets.token_hex(16)}.part")

    @classmethod
    def of(cls, target: Target, digest: bytes, length: int) -> Part:
        """That of a certain content for a certain name: who comes again with both finds it again."""
        key = b"%s\0%s%d" % (os.fsencode(target.name), digest, length)
        return cls(target.parent, f".{hashlib.sha256(key).hexdigest()[:32]}.part")

    def size(self) -> int:
        """Bytes that are there."""
        try:
            return os.stat(self.name, dir_fd=self._parent, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        """Open it, made if it is not there."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.name, flags, 0o666, dir_fd=self._parent)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def drop(self) -> None:
        """Have it no more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self._parent)


async def write(content: AsyncIterable[bytes], descriptor: int, start: int, limit: int | None) -> hashlib._Hash:
    """Write what comes to the end of a file, whatever ends it: what came is there for the next attempt.

    Args:
        content: what comes.
        descriptor: the file, open for reading and writing.
        start: bytes that are there.
        limit: bytes that it may come to have.

    Returns:
        The hash of all of it, what was there included.

    Raises:
        Refused: more came than may.
        OSError: it cannot be written.
    """
    digest = await sha256(descriptor, start)
    batch: list[bytes] = []
    position = start

    async def flush() -> None:
        nonlocal position
        full = b"".join(batch)
        batch.clear()
        if limit is not None and position + len(full) > limit:
            raise Refused(400, f"there is more of it than {limit} bytes")
        await in_thread(lambda: _write(descriptor, digest, full, position))
        position += len(full)

    size = 0
    try:
        async for piece in content:
            batch.append(piece)
            size += len(piece)
            if size >= BATCH:
                size = 0
                await flush()
    finally:
        if batch:
            await flush()
    return digest


def _write(descriptor: int, digest: hashlib._Hash, batch: bytes, position: int) -> None:
    digest.update(batch)
    data = memoryview(batch)
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turns what the disk says into answers."""
    try:
        yield
    except WhimbrelError:
        raise  # Some of them are OSErrors as well.
    except OSError as error:
        raise _refusal(error) from error


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
