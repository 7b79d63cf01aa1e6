"""Where a download goes: a file that gets its name when it is whole, or something that takes bytes as they come."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from whimbrel.cli._disk import settle, settle_folder, sha256
from whimbrel.cli._waiting import writable


class CannotWrite(Exception):
    """The target does not take what was downloaded. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a part is a part of."""

    url: str
    etag: str
    """A strong one (RFC 9110 §8.8.3): the same bytes, or it would be another."""


class Sink(Protocol):
    """A target for one download."""

    name: str
    """For people."""

    async def digest(self) -> hashlib._Hash:
        """The SHA-256 of what is there from an attempt before. Raises CannotWrite."""

    async def write(self, data: bytes) -> None:
        """Take bytes. Raises CannotWrite."""

    def commit(self, modified: float | None = None) -> None:
        """All of it came, and was made then, seconds since 1970. It is on the disk afterwards. Raises CannotWrite."""

    def discard(self) -> None:
        """What came is of no use."""

    def abandon(self) -> str:
        """Not all of it came. Returns what became of the part that did, for a message; "" where nothing did."""


def kept(target: Path | None, url: str) -> tuple[int, Version] | None:
    """How many bytes an attempt before has left, and of what; None where nothing can be made of it."""
    if target is None:
        return None
    try:
        version = Version(**json.loads(_note_of(target).read_text(encoding="utf-8")))
        size = _part_of(target).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    is_sound = re.fullmatch('"[!-~]*"', str(version.etag))  # Whoever may write there may have left anything.
    return (size, version) if size and version.url == url and is_sound else None


def open_sink(target: Path | None, version: Version | None = None, *, start: int = 0) -> Sink:
    """Open a target; None: standard output.

    Args:
        target: the file, or what else takes bytes.
        version: of what is about to come: with it, another attempt can go on where this one stops.
        start: how many bytes of it are there.

    Raises:
        CannotWrite: it cannot be written to.
    """
    if target is None:
        return _open_stream(None, "standard output")
    try:
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise CannotWrite(f"cannot write {target}: it is a directory")
        # A device or a pipe must never be replaced by a file of its name.
        return _PartFile(target, version, start) if stat.S_ISREG(mode) else _open_stream(target, str(target))
    except OSError as error:
        raise _cannot_write(target, error) from error


class _PartFile:
    """``NAME.part`` until it is whole. What came of a download that failed stays there, with a note of what it is."""

    def __init__(self, target: Path, version: Version | None, start: int) -> None:
        self.name = str(target)
        self._target = target
        self._part, self._note = _part_of(target), _note_of(target)
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._size = start
        if not start:
            # In this order: a note must never be about other bytes than those beside it.
            self._note.unlink(missing_ok=True)
        os.ftruncate(self._descriptor, start)
        os.lseek(self._descriptor, start, os.SEEK_SET)
        if version is not None and not start:
            self._note.write_text(json.dumps({"url": version.url, "etag": version.etag}), encoding="utf-8")

    async def digest(self) -> hashlib._Hash:
        try:
            return await sha256(self._descriptor, self._size)
        except OSError as error:
            raise CannotWrite(f"cannot read {self._part}: {error.strerror}") from error

    async def write(self, data: bytes) -> None:
        try:
            written = os.write(self._descriptor, data)
            self._size += written
            while written < len(data):  # The disk is nearly full: the next call says so.
                more = os.write(self._descriptor, memoryview(data)[written:])
                written += more
                self._size += more
        except OSError as error:
            raise _cannot_write(self._part, error) from error

    def commit(self, modified: float | None = None) -> None:
        try:
            settle(self._descriptor, modified)
            self._close()
            self._part.replace(self._target)
            self._note.unlink(missing_ok=True)
            folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                settle_folder(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _cannot_write(self._target, error) from error

    def discard(self) -> None:
        self._size = 0
        self.abandon()

    def abandon(self) -> str:
        with contextlib.suppress(OSError):
            self._close()
            if not self._size:
                self._part.unlink()
                self._note.unlink(missing_ok=True)
        return f"what came ({self._size} bytes) is kept in {self._part}" if self._size else ""

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Stream:
    """A pipe, a terminal or a device. A reader that is slow must not stop the event loop, nor Ctrl-C."""

    def __init__(self, descriptor: int, name: str, *, owned: bool) -> None:
        self.name = name
        self._descriptor = descriptor
        self._owned = owned

    async def digest(self) -> hashlib._Hash:
        return hashlib.sha256()

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                await writable(self._descriptor)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise _cannot_write(self.name, error) from error

    def commit(self, modified: float | None = None) -> None:
        self.abandon()

    def discard(self) -> None:
        self.abandon()

    def abandon(self) -> str:
        if self._owned:
            os.close(self._descriptor)
            self._owned = False
        return ""


def _part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _note_of(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def _open_stream(target: Path | None, name: str) -> _Stream:
    if target is not None:
        return _Stream(os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), name, owned=True)
    if sys.stdout is None:
        raise CannotWrite("cannot write standard output: it is closed")
    descriptor = sys.stdout.fileno()
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        # Opened anew, so that O_NONBLOCK is ours alone and not that of whoever shares the pipe with us.
        with contextlib.suppress(OSError):
            again = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            return _Stream(again, name, owned=True)
    return _Stream(descriptor, name, owned=False)


def _cannot_write(target: Path | str, error: OSError) -> CannotWrite:
    return CannotWrite(f"cannot write {target}: {error.strerror or error}")
