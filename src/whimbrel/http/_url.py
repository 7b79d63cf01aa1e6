"""Addresses of what is asked for: ``https`` URLs (RFC 3986, RFC 9110 §4.2.2), taken apart and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from whimbrel._errors import LocalProtocolError

DEFAULT_PORT = 443


class InvalidUrl(LocalProtocolError, ValueError):
    """This is no URL that HTTP/3 can fetch. The message says why."""

    slug = "invalid-url"


@dataclass(frozen=True, slots=True)
class Url:
    """An ``https`` URL, without its fragment."""

    host: str
    """A name in ASCII, or an address without brackets."""
    port: int
    target: str
    """Path and query, percent-encoded: what ``:path`` carries (RFC 9114 §4.3.1)."""

    @classmethod
    def parse(cls, text: str) -> Url:
        """Take a URL apart.

        Raises:
            InvalidUrl: it is malformed, or asks for something other than HTTP over QUIC.
        """
        # urlsplit() drops line ends silently, which would turn one URL into another.
        if _FORBIDDEN.search(text):
            raise InvalidUrl(f"{text!r} is not a URL: it holds a space or a control character")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidUrl(f"{text!r} is not a URL: {str(error).rstrip('.')}") from None
        if parts.scheme.lower() != "https":
            raise InvalidUrl(_scheme_problem(text, parts.scheme))
        if not host:
            raise InvalidUrl(f"{text!r} is not a URL: it names no host")
        if "@" in parts.netloc:
            raise InvalidUrl(f"{_without_user(text)!r}: user names in URLs are not supported (RFC 9110 §4.2.4)")
        if port == 0:
            raise InvalidUrl(f"{text!r} is not a URL: port 0 does not exist")
        target = quote(parts.path or "/", safe=_SAFE)
        if parts.query:
            target += "?" + quote(parts.query, safe=_SAFE)
        return cls(_ascii_host(text, host), port or DEFAULT_PORT, target)

    @property
    def authority(self) -> str:
        """Host and port as ``:authority`` carries them; the default port is left out (RFC 9110 §4.2.3)."""
        return authority(self.host, self.port)

    @property
    def origin(self) -> tuple[str, int]:
        """What may share a connection."""
        return (self.host, self.port)

    def join(self, reference: str) -> Url:
        """Where a reference, such as a Location header, leads from here (RFC 3986 §5).

        Raises:
            InvalidUrl: as for `parse`.
        """
        return Url.parse(urljoin(str(self), reference))

    def __str__(self) -> str:
        return f"https://{self.authority}{self.target}"


def authority(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == DEFAULT_PORT else f"{name}:{port}"


_FORBIDDEN = re.compile(r"[\x00-\x20\x7f]")
_SAFE = "!#$%&'()*+,/:;=?@[]~"  # Reserved characters, and % since what is encoded already stays as it is.


def _scheme_problem(text: str, scheme: str) -> str:
    if "://" not in text:
        return f"{text!r} is not a URL: it does not begin with https://"
    return f"{text!r}: HTTP/3 needs https, not {scheme or 'nothing'}"


def _without_user(text: str) -> str:
    # A password has no place in messages and logs.
    return re.sub(r"//[^/?#]*@", "//…@", text)


def _ascii_host(text: str, host: str) -> str:
    if ":" in host:
        return host
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise InvalidUrl(f"{text!r} is not a URL: {host!r} is no host name") from None
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", name):
        raise InvalidUrl(f"{text!r} is not a URL: {host!r} is no host name")
    return name
