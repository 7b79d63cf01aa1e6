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


_SHA_256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):")
