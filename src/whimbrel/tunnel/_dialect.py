"""What programs say to a proxy: SOCKS5 (RFC 1928) or HTTP's CONNECT (RFC 9110 §9.3.6). Bytes in, bytes out, no I/O.

Which of them it is, the first byte tells: 5 is SOCKS's version, and no method of HTTP begins with it.
"""

from __future__ import annotations

import ipaddress
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from whimbrel.tunnel._refusal import Reason
from whimbrel.tunnel._target import BadTarget, Target, parse_authority, tcp_target

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_HEAD = 16 << 10
"""Bytes of a CONNECT request. The fields are not looked at, but some programs send long ones."""


class BadGreeting(Exception):
    """This is no request that a proxy could serve.

    Attributes:
        reply: what to send before hanging up.
    """

    def __init__(self, sentence: str, reply: bytes = b"") -> None:
        super().__init__(sentence)
        self.reply = reply


class Dialect(ABC):
    """One program's way of asking for a tunnel."""

    target: Target | None = None
    """What it asks for, once it has said so."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def rest(self) -> bytes:
        """What came behind the request: the first bytes for the tunnel."""
        return bytes(self._buffer)

    @abstractmethod
    def receive(self, data: bytes) -> bytes:
        """Take in what came; returns what to answer now.

        Raises:
            BadGreeting: it is not what the dialect allows, or not what is served.
        """

    @abstractmethod
    def granted(self) -> bytes:
        """What to say when the tunnel is there."""

    @abstractmethod
    def refused(self, reason: Reason, sentence: str) -> bytes:
        """What to say when there will be none."""


def dialect_of(first: bytes) -> Dialect:
    """Which dialect begins so.

    Raises:
        BadGreeting: none of them.
    """
    if first[:1] == b"\x05":
        return Socks5()
    if first[:1].isalpha():
        return HttpConnect()
    what = "SOCKS4 is not spoken here: use SOCKS5" if first[:1] == b"\x04" else "this is neither SOCKS5 nor HTTP"
    raise BadGreeting(what)


class Socks5(Dialect):
    """SOCKS5 without authentication, CONNECT alone."""

    def __init__(self) -> None:
        super().__init__()
        self._step: Callable[[], bytes | None] | None = self._methods

    def receive(self, data: bytes) -> bytes:
        self._buffer += data
        answer = b""
        while self._step is not None and (said := self._step()) is not None:
            answer += said
        return answer

    def granted(self) -> bytes:
        return _socks_reply(0)

    def refused(self, reason: Reason, sentence: str) -> bytes:
        return _socks_reply(reason.reply)

    def _methods(self) -> bytes | None:
        buffer = self._buffer
        if buffer[0] != 5:
            raise BadGreeting(f"SOCKS version {buffer[0]} is not spoken here")
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return None
        methods = self._take(2 + buffer[1])[2:]
        if 0 not in methods:
            raise BadGreeting("the program insists on a password, and none is taken here", b"\x05\xff")
        self._step = self._request
        return b"\x05\x00"

    def _request(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 5:
            return None
        version, command, _, kind, first = buffer[:5]
        if version != 5:
            raise BadGreeting(f"SOCKS version {version} is not spoken here", _socks_reply(1))
        if command != 1:
            raise BadGreeting("only CONNECT is served, of what SOCKS5 has", _socks_reply(7))
        length = {1: 4, 3: 1 + first, 4: 16}.get(kind)
        if length is None:
            raise BadGreeting(f"address type {kind} is none of SOCKS5", _socks_reply(8))
        if len(buffer) < 4 + length + 2:
            return None
        request = self._take(4 + length + 2)
        try:
            self.target = _socks_target(kind, request[4:-2], int.from_bytes(request[-2:], "big"))
        except BadTarget as error:
            raise BadGreeting(str(error), _socks_reply(1)) from None
        self._step = None
        return b""

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


class HttpConnect(Dialect):
    """HTTP/1.1's CONNECT; its fields are passed over."""

    def receive(self, data: bytes) -> bytes:
        self._buffer += data
        if self.target is not None:
            return b""
        head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD:
            raise BadGreeting("the request's head is too long", _http_reply(431, "the request's head is too long"))
        if not end:
            return b""
        line = head.partition(b"\r\n")[0].decode("latin-1")
        found = re.fullmatch(r"([!-~]+) ([!-~]+) HTTP/1\.[01]", line)
        if found is None:
            raise BadGreeting("this is no HTTP request", _http_reply(400, "this is no HTTP request"))
        if found[1] != "CONNECT":
            sentence = "only CONNECT is served: plain http:// needs a program that asks its proxy for it, or SOCKS5"
            raise BadGreeting(f"{found[1]} was asked for; {sentence}", _http_reply(501, sentence))
        try:
            self.target = parse_authority(found[2])
        except BadTarget as error:
            raise BadGreeting(str(error), _http_reply(400, str(error))) from None
        self._buffer = bytearray(rest)
        return b""

    def granted(self) -> bytes:
        return b"HTTP/1.1 200 Connection established\r\n\r\n"

    def refused(self, reason: Reason, sentence: str) -> bytes:
        # 407 would have the program ask its user for a password, which is not what is missing.
        return _http_reply(403 if reason is Reason.UNAUTHENTICATED else reason.status, sentence)


def _socks_reply(code: int) -> bytes:
    # The bound address is told as nothing: it is the server's, and programs do not look at it after CONNECT.
    return bytes((5, code, 0, 1)) + bytes(6)


def _socks_target(kind: int, address: bytes, port: int) -> Target:
    if port == 0:
        raise BadTarget("port 0 does not exist")
    if kind == 3:
        try:
            return tcp_target(address[1:].decode("utf-8"), port)
        except UnicodeDecodeError:
            raise BadTarget(f"{address[1:]!r} is no name") from None
    return tcp_target(str(ipaddress.ip_address(address)), port)


def _http_reply(status: int, sentence: str) -> bytes:
    content = f"whimbrel: {sentence}\n".encode()
    head = (
        f"HTTP/1.1 {status} Refused\r\ncontent-type: text/plain; charset=utf-8\r\n"
        f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + content
