"""Work on files for the event loop, which waits for no disk: a thread does it, piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

STEP = 4 << 20
"""Bytes hashed between two chances to be cancelled: some milliseconds."""


async def in_thread(work: Callable[[], T]) -> T:
    """Have a thread do it.

    However often it is cancelled, the thread is done when this returns: a descriptor that it uses may be closed then.
    """
    working = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled: asyncio.CancelledError | None = None
    while not working.done():
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        working.exception()  # It was looked at.
        raise cancelled
    return working.result()


async def sha256(descriptor: int, length: int) -> hashlib._Hash:
    """Hash the first bytes of an open file; fewer where it is shorter.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()

    position = 0

    def step() -> int:
        piece = os.pread(descriptor, min(STEP, length - position), position)
        digest.update(piece)
        return len(piece)

    while position < length and (count := await in_thread(step)):
        position += count
    return digest


def settle(descriptor: int, modified: float | None) -> None:
    """Have what was written on the disk, where a power cut does not reach it, and dated.

    Args:
        descriptor: a file, open for writing.
        modified: when its content was made, seconds since 1970; None: now.
    """
    if modified is not None:
        with contextlib.suppress(OverflowError):
            os.utime(descriptor, (modified, modified))
    os.fsync(descriptor)


def settle_folder(descriptor: int) -> None:
    """The same for the names in a folder."""
    # Some file systems have nothing to say of folders; the names are then as safe as they can be.
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
