"""Content that lies in a file: read in large pieces, and never on the event loop where a disk must be waited for.

What the kernel has in memory is read at once: one copy from there to what is sent. For the rest a thread waits.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PIECE = 256 << 10
"""Bytes read at once: the cost of asking vanishes, and a piece still fits into the processor's cache."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Some bytes of an open file, as content. The file stays the caller's, and its position where it is."""

    descriptor: int
    start: int
    length: int


def whole_file(file: BinaryIO) -> FilePart | None:
    """What a file still holds from its position on; None where that cannot be known, such as of a pipe."""
    try:
        descriptor, start = file.fileno(), file.tell()
        facts = os.fstat(descriptor)
    except (OSError, AttributeError):
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    return FilePart(descriptor, start, max(0, facts.st_size - start))


async def file_pieces(part: FilePart) -> AsyncIterator[bytes]:
    """The bytes, in order. Ends early where the file does: somebody has made it shorter."""
    position, end = part.start, part.start + part.length
    while position < end:
        wanted = min(PIECE, end - position)
        if _in_memory(part.descriptor, position + wanted - 1):
            piece = os.pread(part.descriptor, wanted, position)
        else:
            piece = await asyncio.to_thread(os.pread, part.descriptor, wanted, position)
        if not piece:
            return
        position += len(piece)
        yield piece


def _in_memory(descriptor: int, position: int) -> bool:
    """Whether reading up to there needs no disk. The last byte speaks for those before it: pages come in order."""
    try:
        os.preadv(descriptor, [bytearray(1)], position, os.RWF_NOWAIT)
    except OSError as error:
        # Not every file system can tell: then a thread is the safe way.
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
            return False
        raise
    return True
