"""Where a tunnel leads: a TCP port of a host, or a UNIX socket; how both are written, and how CONNECT names them.

CONNECT has room for a host and a port (RFC 9110 §9.3.6). A socket's path is put where the host stands, percent-encoded
as RFC 3986 §3.2.2 lets a name be, with a port that no TCP service has: ``%2Frun%2Fdocker.sock:0``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote, unquote

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_SOCKET_PATH = 107
"""Bytes: what sockaddr_un has room for, less the zero at its end (unix(7))."""


class BadTarget(ValueError):
    """This names nothing that a tunnel could lead to. The message says why."""


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A TCP port."""

    host: str
    """A name in lower case and ASCII, without a dot at its end, or an address without brackets."""
    port: int

    @property
    def address(self) -> IpAddress | None:
        """The host, where it is an address and no name."""
        return as_address(self.host)

    @property
    def authority(self) -> str:
        """As CONNECT names it; the port is never left out."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.authority


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A UNIX socket, by its absolute path."""

    path: str

    @property
    def authority(self) -> str:
        """As CONNECT names it, between two ends of ours."""
        return f"{quote(self.path, safe='')}:0"

    def __str__(self) -> str:
        return self.path


Target: TypeAlias = TcpTarget | UnixTarget


def parse_target(text: str) -> Target:
    """What ``HOST:PORT``, ``[ADDRESS]:PORT`` or ``/PATH`` stands for.

    Raises:
        BadTarget: nothing of these.
    """
    if text.startswith("/"):
        return unix_target(text)
    host, port = split_port(text)
    return tcp_target(host, port)


def parse_authority(authority: str) -> Target:
    """What the ``:authority`` of a CONNECT request stands for.

    Raises:
        BadTarget: nothing that a tunnel could lead to.
    """
    if authority.lower().startswith("%2f") and authority.endswith(":0"):
        try:
            return unix_target(unquote(authority[:-2], errors="strict"))
        except UnicodeDecodeError:
            raise BadTarget(f"{authority!r} is no path") from None
    host, port = split_port(authority)
    return tcp_target(host, port)


def tcp_target(host: str, port: int) -> TcpTarget:
    """A TCP target out of a host as somebody wrote it.

    Raises:
        BadTarget: the host is neither an address nor a name.
    """
    address = as_address(host)
    return TcpTarget(host_name(host) if address is None else str(address), port)


def unix_target(path: str) -> UnixTarget:
    """A UNIX socket's target.

    Raises:
        BadTarget: the path is relative, leads through ``..``, or no socket can have it.
    """
    if not path.startswith("/") or path.endswith("/") or not {"", ".", ".."}.isdisjoint(path[1:].split("/")):
        raise BadTarget(f"{path!r} is no plain absolute path of a socket")
    if not path.isprintable() or len(path.encode()) > MAX_SOCKET_PATH:
        raise BadTarget(f"{path!r} is no path that a socket can have ({MAX_SOCKET_PATH} bytes at most)")
    return UnixTarget(path)


def split_port(text: str) -> tuple[str, int]:
    """Host and port apart, the host without its brackets.

    Raises:
        BadTarget: there is no port, or an IPv6 address without brackets.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        raise BadTarget(f"{text!r} names no port: HOST:PORT is wanted")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise BadTarget(f"{text!r}: brackets are for IPv6 addresses")
    elif ":" in host:
        raise BadTarget(f"{text!r}: an IPv6 address needs brackets, as in [2001:db8::1]:22")
    return host, parse_port(port, text)


def parse_port(port: str, text: str = "") -> int:
    """A port's number, 1 to 65535.

    Raises:
        BadTarget: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise BadTarget(f"{text or port!r}: {port!r} is no port: 1 to 65535")
    return int(port)


def host_name(host: str) -> str:
    """A name as it is compared: in ASCII and lower case, without the dot of the root.

    Raises:
        BadTarget: it is none.
    """
    try:
        name = (host if host.isascii() else host.encode("idna").decode("ascii")).lower().removesuffix(".")
    except UnicodeError:
        name = ""
    # Underscores are no letters of host names, and yet many have them.
    if len(name) > 253 or not all(re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", x) for x in name.split(".")):
        raise BadTarget(f"{host!r} is neither a host's name nor an address")
    return name


def as_address(host: str) -> IpAddress | None:
    """An address, or None for what is none; IPv4 that is dressed as IPv6 (RFC 4291 §2.5.5.2) is undressed."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if "%" in host:  # A zone is known to the machine alone that has it.
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
