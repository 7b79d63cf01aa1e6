"""Header fields: how callers see them, and which ones a request may carry (RFC 9114 §4.2, §4.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from whimbrel._errors import LocalProtocolError
from whimbrel.http._protocol import RawHeaders

HeadersLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


class Headers(Mapping[str, str]):
    """Fields of a message in the order they came. Names are in lower case and found in any case.

    A field that came several times reads as one, joined by commas (RFC 9110 §5.3); `get_all` keeps them apart, which
    matters for ``set-cookie``.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: HeadersLike = ()) -> None:
        # As a mapping, our own kind would join what came several times.
        if isinstance(fields, Headers):
            fields = fields._fields
        items = fields.items() if isinstance(fields, Mapping) else fields
        self._fields: list[tuple[str, str]] = [(name.lower(), value) for name, value in items]

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def get_all(self, name: str) -> list[str]:
        """Each value of a field, in order; empty where there is none."""
        wanted = name.lower()
        return [value for key, value in self._fields if key == wanted]

    def fields(self) -> list[tuple[str, str]]:
        """Every field as it came."""
        return list(self._fields)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._fields))

    def __len__(self) -> int:
        return len(dict(self._fields))

    def __repr__(self) -> str:
        return f"Headers({self._fields!r})"


def request_headers(method: str, authority: str, target: str, headers: HeadersLike) -> RawHeaders:
    """The header section of a request.

    Raises:
        LocalProtocolError: a name or value that HTTP/3 does not allow.
    """
    if not _TOKEN.fullmatch(method):
        raise LocalProtocolError(f"{method!r} is no HTTP method")
    if not _TARGET.fullmatch(target):
        raise LocalProtocolError(f"{target!r} is no target: it must begin with / and be percent-encoded")
    pseudo = [(b":method", method), (b":scheme", "https"), (b":authority", authority), (b":path", target)]
    return [(name, value.encode("ascii")) for name, value in pseudo] + field_section(headers)


def connect_headers(authority: str, protocol: str | None, target: str, headers: HeadersLike) -> RawHeaders:
    """The header section of a CONNECT request (RFC 9114 §4.4), extended where it names a protocol (RFC 9220 §3).

    Raises:
        LocalProtocolError: a name or value that HTTP/3 does not allow.
    """
    if protocol is not None:
        if not _TOKEN.fullmatch(protocol):
            raise LocalProtocolError(f"{protocol!r} is no name of a protocol")
        section = request_headers("CONNECT", authority, target, headers)
        return [section[0], (b":protocol", protocol.encode("ascii")), *section[1:]]
    if not _HOST_AND_PORT.fullmatch(authority):
        raise LocalProtocolError(f"{authority!r} is no place to connect to: it must be a host and a port, as host:22")
    return [(b":method", b"CONNECT"), (b":authority", authority.encode("ascii")), *field_section(headers)]


def response_headers(status: int, headers: HeadersLike) -> RawHeaders:
    """The header section of a response, interim ones included.

    Raises:
        LocalProtocolError: a status, name or value that HTTP/3 does not allow.
    """
    if not 100 <= status <= 999 or status == 101:  # RFC 9114 §4.5: there is no switching of protocols.
        raise LocalProtocolError(f"{status!r} is no status of a response")
    return [(b":status", str(status).encode("ascii")), *field_section(headers)]


def request_problem(headers: RawHeaders) -> str | None:
    """What makes a request malformed that came with a method and an authority (RFC 9114 §4.3.1); None: nothing."""
    fields = dict(headers)
    if not _TOKEN.fullmatch(fields[b":method"].decode("latin-1")):
        return "its method is no token"
    hosts = {value for name, value in headers if name == b"host"}
    if hosts - {fields[b":authority"]}:
        return "Host says something else than :authority"
    lengths = {value for name, value in headers if name == b"content-length"}
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        return "its Content-Length is no number"
    path, scheme = fields.get(b":path"), fields.get(b":scheme")
    if fields[b":method"] != b"CONNECT" and b":protocol" in fields:
        return "only CONNECT has a :protocol"
    if fields[b":method"] == b"CONNECT" and b":protocol" not in fields:
        if not _HOST_AND_PORT.fullmatch(fields[b":authority"].decode("latin-1")):
            return "CONNECT needs a host and a port in :authority"
        return "CONNECT has neither :scheme nor :path" if path is not None or scheme is not None else None
    if not _TOKEN.fullmatch(fields.get(b":protocol", b"-").decode("latin-1")):
        return "its :protocol is no token"
    if not scheme or path is None:
        return ":scheme or :path is missing"
    if path == b"*":
        return None if fields[b":method"] == b"OPTIONS" else "only OPTIONS is about the server as a whole"
    return None if _TARGET.fullmatch(path.decode("latin-1")) else "its :path is no path"


def field_section(headers: HeadersLike) -> RawHeaders:
    """Fields as they are sent: lower-case names, values in Latin-1 (RFC 9110 §5.5).

    Raises:
        LocalProtocolError: a name or value that HTTP/3 does not allow.
    """
    section: RawHeaders = []
    for name, value in Headers(headers).fields():
        if not _TOKEN.fullmatch(name):
            raise LocalProtocolError(f"{name!r} is no header name")
        if name in CONNECTION_SPECIFIC or (name == "te" and value.lower() != "trailers"):
            raise LocalProtocolError(f"HTTP/3 has no {name!r} header: connections are QUIC's affair (RFC 9114 §4.2)")
        try:
            encoded = value.strip(" \t").encode("latin-1")
        except UnicodeEncodeError:
            raise LocalProtocolError(f"the value of {name!r} has characters beyond Latin-1") from None
        if _FORBIDDEN.search(encoded):
            raise LocalProtocolError(f"the value of {name!r} holds a line end or a null byte")
        section.append((name.encode("ascii"), encoded))
    return section


def received(headers: RawHeaders) -> Headers:
    """What came, without its pseudo-header fields."""
    return Headers([(n.decode("latin-1"), v.decode("latin-1")) for n, v in headers if not n.startswith(b":")])


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_TARGET = re.compile(r"/[!-~]*|\*")
_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[!$%&'()*+,;=._~0-9A-Za-z-]+):[0-9]{1,5}")  # RFC 9112 §3.2.3
_FORBIDDEN = re.compile(rb"[\x00\r\n]")
CONNECTION_SPECIFIC = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host"}
)
