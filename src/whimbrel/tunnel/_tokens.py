"""Tokens: secrets that let their bearers in (RFC 6750's scheme, to a proxy).

A file has a token on each line, and behind it a name for the log, as ``authorized_keys`` has; a client's has one, which
is its first. Nobody but its owner may read the file.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

BITS = 256
MIN_LENGTH = 22
"""Characters: 128 bits in Base64. A token is no password that somebody made up."""
MAX_FILE = 1 << 20


class BadTokenFile(ValueError):
    """A token file that cannot be used. The message says why, and never what is in it."""


class Tokens:
    """The tokens that a server accepts."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """Hold them.

        Args:
            names: each token, and what the log calls its bearer.
        """
        self._names = [(_digest(token), name) for token, name in names.items()]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file.

        Raises:
            BadTokenFile: it is missing, others may read it, or it has no token.
        """
        return cls(_read(file))

    def bearer(self, authorization: str) -> str | None:
        """Whom a ``proxy-authorization`` field lets in, by name; None: nobody.

        How long it takes tells nothing about the tokens: digests are compared, always with all, each in constant time.
        """
        scheme, _, token = authorization.partition(" ")
        given = _digest(token.strip(" ") if scheme.lower() == "bearer" else "")
        found: str | None = None
        for digest, name in self._names:
            if hmac.compare_digest(digest, given):
                found = name
        return found


def read_token(file: Path) -> str:
    """A client's token: the first of a file.

    Raises:
        BadTokenFile: as `Tokens.read`.
    """
    return next(iter(_read(file)))


def write_token(file: Path, name: str) -> None:
    """Make a token and put it into a new file that only its owner can read.

    Raises:
        BadTokenFile: there is such a file, or none can be made there.
    """
    line = f"{secrets.token_urlsafe(BITS // 8)} {name}\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise BadTokenFile(f"{file} exists already, and whoever has its token would be locked out") from None
    except OSError as error:
        raise BadTokenFile(f"cannot make {file}: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as opened:
        opened.write(line)


def default_file() -> Path:
    """Where a token is, when nobody says."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "whimbrel" / "token"


def _read(file: Path) -> dict[str, str]:
    try:
        with file.open("rb") as opened:
            # Asked of what was opened, not of what bears its name a moment later.
            mode = os.fstat(opened.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                raise BadTokenFile(f"{file} can be read by others (mode {mode & 0o777:04o}): chmod 600 {file}")
            content = opened.read(MAX_FILE)
    except OSError as error:
        raise BadTokenFile(f"cannot read {file}: {error.strerror}") from None
    names: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        token, _, name = line.strip().partition(" ")
        if not token or token.startswith("#"):
            continue
        if not re.fullmatch(rf"[A-Za-z0-9._~+/-]{{{MIN_LENGTH},}}=*", token):
            raise BadTokenFile(f"line {number} of {file} is no token: whimbrel keygen makes one")
        names[token] = name.strip() or f"line {number}"
    if not names:
        raise BadTokenFile(f"{file} has no token: whimbrel keygen makes one")
    return names


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
