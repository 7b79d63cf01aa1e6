"""What HTTP says about files, as functions of plain values: conditions, ranges, names. No I/O, no clock.

Sections are those of RFC 9110.
"""

from __future__ import annotations

import enum
import mimetypes
import re
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from whimbrel.http import Headers

MAX_RANGES = 16
"""More in one request would cost us more than they can be worth to the client (§14.2)."""


class BadTarget(ValueError):
    """A path that names no file, whatever is there. The message says why."""


def segments(path: str) -> tuple[list[str], bool]:
    """Takes the path of a URL apart.

    Args:
        path: percent-encoded, without the query.

    Returns:
        The names in it, decoded as the file system's are, and whether it ends in a slash, as those of folders do.

    Raises:
        BadTarget: it would lead out of the folder, or holds what no file name can.
    """
    if not path.startswith("/"):
        raise BadTarget("the path does not begin with a slash")
    if _BAD_ESCAPE.search(path):
        raise BadTarget("the path has a % that begins no escape")
    names = []
    for part in path.split("/"):
        name = unquote_to_bytes(part)
        if b"/" in name or b"\0" in name:
            raise BadTarget("the path has an escaped slash or null byte")
        if name in (b".", b".."):
            raise BadTarget("the path has . or .. in it")
        if name:
            names.append(name.decode("utf-8", "surrogateescape"))
    return names, path.endswith("/") or not names


def encoded_path(names: Sequence[str], *, folder: bool) -> str:
    """The path of a URL for these names. Never one that browsers take for another host: it has no empty parts."""
    parts = [quote(name.encode("utf-8", "surrogateescape"), safe="") for name in names]
    return "/" + "/".join(parts) + ("/" if folder and parts else "")


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells one state of a file from another (§8.8)."""

    etag: str
    """A strong one, with its quotes."""
    modified: int
    """Seconds since 1970, as ``Last-Modified`` can say it."""

    @classmethod
    def of(cls, facts: os.stat_result) -> Validators:
        """Those of a file: who writes to it changes its time or its length, who replaces it its number."""
        return cls(f'"{facts.st_ino:x}-{facts.st_size:x}-{facts.st_mtime_ns:x}"', int(facts.st_mtime))

    @property
    def headers(self) -> dict[str, str]:
        return {"etag": self.etag, "last-modified": formatdate(self.modified, usegmt=True)}


class Verdict(enum.Enum):
    """What the conditions of a request come to."""

    GO_ON = enum.auto()
    NOT_MODIFIED = enum.auto()
    FAILED = enum.auto()


def judge(method: str, headers: Headers, current: Validators | None) -> Verdict:
    """Conditions in their order of precedence (§13.2.2); those of ranges are `chosen_ranges`' affair.

    Args:
        method: of the request.
        headers: of the request.
        current: what is there now; None: nothing is.
    """
    is_read = method in ("GET", "HEAD")
    if (wanted := headers.get("if-match")) is not None:
        if not _matches(wanted, current, weakly=False):
            return Verdict.FAILED
    elif (since := _date(headers.get("if-unmodified-since"))) is not None and (
        current is None or current.modified > since
    ):
        return Verdict.FAILED
    if (known := headers.get("if-none-match")) is not None:
        if _matches(known, current, weakly=True):
            return Verdict.NOT_MODIFIED if is_read else Verdict.FAILED
    elif (
        is_read
        and current is not None
        and (since := _date(headers.get("if-modified-since"))) is not None
        and current.modified <= since
    ):
        return Verdict.NOT_MODIFIED
    return Verdict.GO_ON


def chosen_ranges(headers: Headers, size: int, current: Validators) -> list[range] | None:
    """Which bytes a GET wants (§14.2), in the order asked for.

    Returns:
        None: all of them, be it that the field is not understood or its condition not met; an empty list: none of
        the ranges lies within the file (416).
    """
    field = headers.get("range")
    if field is None or not _same_as_before(headers.get("if-range"), current):
        return None
    unit, equals, text = field.partition("=")
    if unit.strip().lower() != "bytes" or not equals:
        return None
    specs = [part.strip() for part in text.split(",") if part.strip()]
    if not specs or len(specs) > MAX_RANGES:
        return None
    ranges = []
    for spec in specs:
        match = _RANGE.fullmatch(spec)
        if match is None or spec == "-":
            return None
        first, last = match.groups()
        if not first:
            start, stop = max(0, size - int(last)), size
        else:
            start, stop = int(first), min(size, int(last) + 1) if last else size
            if last and int(last) < int(first):
                return None
        if start < stop:
            ranges.append(range(start, stop))
    # Ranges that lie over each other have us send more than there is (§14.2, §17.15).
    return ranges if sum(map(len, ranges)) <= size else None


def content_range(part: range | None, size: int) -> str:
    """The value of ``Content-Range`` (§14.4); None: no range could be had."""
    return f"bytes */{size}" if part is None else f"bytes {part.start}-{part.stop - 1}/{size}"


def content_type(name: str) -> str:
    """Told by the file's name."""
    kind, encoding = mimetypes.guess_type(name, strict=False)
    if encoding is not None:
        # The bytes are those of the compressed file, and meant to be saved as such.
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}.get(
            encoding, "application/octet-stream"
        )
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _matches(field: str, current: Validators | None, *, weakly: bool) -> bool:
    if field.strip() == "*":
        return current is not None
    if current is None:
        return False
    # §8.8.3.2: ours is strong, so a weak one equals it only in the weak comparison.
    return any(tag == current.etag and (weakly or not weak) for weak, tag in _ETAG.findall(field))


def _same_as_before(field: str | None, current: Validators) -> bool:
    if field is None:
        return True
    if field.strip().startswith(('"', "W/")):
        return field.strip() == current.etag  # §13.1.5: the strong comparison.
    return _date(field) == current.modified


def _date(text: str | None) -> float | None:
    """Seconds since 1970 for a date of HTTP's; None where it is none, and the field is to be ignored (§13.1.3)."""
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")
_ETAG = re.compile(r'(W/)?("[^"]*")')
