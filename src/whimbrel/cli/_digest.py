"""The SHA-256 of a content, in the fields that tell it (RFC 9530)."""

from __future__ import annotations

import base64
import re


def sha256_in(field: str) -> bytes | None:
    """Return the hash in a Repr-Digest or Content-Digest field; None where it holds no SHA-256.

    Raises:
        ValueError: it is malformed.
    """
    match = _SHA_256.search(field)
    return None if match is None else base64.b64decode(match[1], validate=True)


def sha256_field(digest: bytes) -> str:
    """What such a field says of a hash."""
    return f"sha-256=:{base64.b64encode(digest).decode('ascii')}:"


def is_wanted(field: str) -> bool:
    """Whether a Want-Repr-Digest field asks for a SHA-256 (RFC 9530 §4); a preference of 0 says that it does not."""
    match = _WANTED.search(field)
    return match is not None and match[1] != "0"


_SHA_256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):")
_WANTED = re.compile(r"(?:^|,)\s*sha-256=(\d+)\s*(?:,|$)")
