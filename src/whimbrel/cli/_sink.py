"""Where a download goes: a file that gets its name when it is whole, or something that takes bytes as they come."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Protocol

from whimbrel.cli._waiting import writable


class CannotWrite(Exception):
    """The target does not take what was downloaded. The message is a sentence."""


class Sink(Protocol):
    """A target for one download."""

    name: str
    """For people."""

    async def write(self, data: bytes) -> None:
        """Take bytes. Raises CannotWrite."""

    def commit(self) -> None:
        """All of it came. Raises CannotWrite."""

    def abandon(self) -> str:
        """Not all of it came. Returns what became of the part that did, for a message; "" where nothing did."""


def open_sink(target: Path | None) -> Sink:
    """Open a target; None: standard output.

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
        return _PartFile(target) if stat.S_ISREG(mode) else _open_stream(target, str(target))
    except OSError as error:
        raise _cannot_write(target, error) from error


class _PartFile:
    """``NAME.part`` until it is whole. What came of a download that failed stays there."""

    def __init__(self, target: Path) -> None:
        self.name = str(target)
        self._target = target
        self._part = target.with_name(target.name + ".part")
        self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._size = 0

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

    def commit(self) -> None:
        try:
            self._close()
            self._part.replace(self._target)
        except OSError as error:
            raise _cannot_write(self._target, error) from error

    def abandon(self) -> str:
        with contextlib.suppress(OSError):
            self._close()
            if not self._size:
                self._part.unlink()
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

    def commit(self) -> None:
        self.abandon()

    def abandon(self) -> str:
        if self._owned:
            os.close(self._descriptor)
            self._owned = False
        return ""


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
