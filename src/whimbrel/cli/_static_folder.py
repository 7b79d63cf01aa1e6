"""A folder that is served: what is opened there lies there, whatever paths and symbolic links say."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Refused(Exception):
    """Something is there, or might be, and is not for whoever asks.

    Attributes:
        status: of the answer.
        headers: further ones of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Opened:
    """A file or a folder, open for reading."""

    descriptor: int
    facts: os.stat_result

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.facts.st_mode)


class Folder:
    """A folder that is served.

    Args:
        path: where it is. Looked up anew each time: it may vanish, and come back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @contextlib.contextmanager
    def open(self, names: Sequence[str]) -> Iterator[Opened]:
        """Open what is at a path below; closed at the end of the block.

        Raises:
            Refused: there is nothing, or it may not be read, lies elsewhere, or is neither file nor folder.
        """
        try:
            root = os.path.realpath(self.path, strict=True)
            descriptor = _opened(os.path.join(root, *names))  # noqa: PTH118 - names may be no text
        except OSError as error:
            raise _refusal(error) from None
        try:
            # Of what is open now, nobody can change where it lies between this question and the reading.
            real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
            if real != root and not real.startswith(root.rstrip("/") + "/"):
                raise Refused(403, "a symbolic link that leads out of the folder")
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
                raise Refused(403, "neither a file nor a folder")
            yield Opened(descriptor, facts)
        finally:
            os.close(descriptor)


def _opened(path: str) -> int:
    # Asked first, since opening alone does something to some devices; O_NONBLOCK, lest a pipe be waited for.
    mode = os.stat(path).st_mode  # noqa: PTH116
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise Refused(403, "neither a file nor a folder")
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _refusal(error: OSError) -> Refused:
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refused(403, "not readable")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return Refused(404, "not found")
    return Refused(500, f"cannot be read: {error.strerror}")
