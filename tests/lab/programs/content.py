"""What is transferred: bytes that both ends can make, so that only their hash must be compared."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 1 << 16


def content(size: int) -> Iterator[bytes]:
    """Pieces that are all different: one that is missing, doubled or misplaced changes the hash."""
    tail = random.Random(size).randbytes(_PIECE - 8)
    for number, begin in enumerate(range(0, size, _PIECE)):
        yield (number.to_bytes(8, "big") + tail)[: size - begin]


def sha256(size: int) -> str:
    """The hash of `content`."""
    digest = hashlib.sha256()
    for piece in content(size):
        digest.update(piece)
    return digest.hexdigest()
