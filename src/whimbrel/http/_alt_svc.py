"""Where else an origin may be asked: the Alt-Svc field (RFC 7838), read. Decides nothing and remembers nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_AGE = 86_400.0
"""Seconds that an alternative is good for where ``ma`` does not say (§3.1)."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A place that speaks HTTP/3 for an origin."""

    host: str
    """A name or an address without brackets; ""  stands for the origin's own."""
    port: int
    max_age: float = MAX_AGE
    """Seconds from the response that brought it."""
    persist: bool = False
    """Whether it stays good when the client changes networks."""


def parse(field: str) -> list[Alternative] | None:
    """The alternatives for HTTP/3 in a field, the favourite first; those for other protocols are left out.

    Returns:
        An empty list where the origin takes back what it said before (``clear``), or names none for HTTP/3. None where
        the field cannot be read: then what was known stays (§3).
    """
    if field.strip() == "clear":
        return []
    found: list[Alternative] = []
    at = 0
    while at < len(field):
        value = _VALUE.match(field, at)
        if value is None:
            return None
        at = value.end()
        authority = _AUTHORITY.fullmatch(_unquoted(value["authority"]))
        if authority is None or not 0 < int(authority["port"]) < 65536:
            return None
        # h3-29 and the like were drafts. The name is percent-encoded, and h3 has nothing to encode.
        if value["protocol"] == "h3":
            parameters = {name.lower(): _unquoted(text) for name, text in _PARAMETER.findall(value["parameters"])}
            age = parameters.get("ma", "")
            found.append(
                Alternative(
                    (authority["host"] or "").strip("[]"),
                    int(authority["port"]),
                    float(age) if age.isascii() and age.isdigit() else MAX_AGE,
                    parameters.get("persist") == "1",
                )
            )
    return found


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PARAMETER = re.compile(rf"[ \t]*;[ \t]*({_TOKEN})=({_TOKEN}|{_QUOTED})")
_VALUE = re.compile(
    rf"[ \t,]*(?P<protocol>{_TOKEN})=(?P<authority>{_QUOTED})"
    rf"(?P<parameters>(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))*)[ \t]*(?:,[ \t,]*|$)"
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]*):(?P<port>[0-9]{1,5})")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
