"""Why there is no tunnel, in all the tongues that have to say it: HTTP, RFC 9209, SOCKS5 (RFC 1928 §6), and English."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from whimbrel._errors import WhimbrelError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Reason(Enum):
    """Each with its HTTP status, the error type of ``proxy-status`` (RFC 9209 §2.3), and the reply of SOCKS5."""

    UNAUTHENTICATED = (407, "http_request_denied", 0x02)
    NOT_ALLOWED = (403, "destination_ip_prohibited", 0x02)
    TOO_MANY_FAILURES = (429, "http_request_denied", 0x01)
    TOO_MANY_TUNNELS = (503, "connection_limit_reached", 0x01)
    BAD_TARGET = (400, "http_request_error", 0x01)
    NAME_UNKNOWN = (502, "dns_error", 0x04)
    PORT_CLOSED = (502, "connection_refused", 0x05)
    UNREACHABLE = (502, "destination_ip_unroutable", 0x03)
    NO_ANSWER = (504, "connection_timeout", 0x04)
    FAILED = (502, "proxy_internal_error", 0x01)
    NO_TUNNELS = (501, "http_request_error", 0x01)
    LOST = (502, "connection_terminated", 0x01)
    """It came to nothing on the way to the server."""

    def __init__(self, status: int, error: str, reply: int) -> None:
        self.status = status
        self.error = error
        self.reply = reply

    @classmethod
    def of(cls, status: int, proxy_status: str) -> Reason:
        """What a server means, which may be somebody else's."""
        found = re.search(r";\s*error=([a-z_]+)", proxy_status)
        told = [reason for reason in cls if reason.status == status]
        for reason in told:
            if found is not None and reason.error == found[1]:
                return reason
        return {401: cls.UNAUTHENTICATED, 404: cls.NO_TUNNELS, 405: cls.NO_TUNNELS}.get(
            status, told[0] if len(told) == 1 else cls.FAILED
        )


class Refused(WhimbrelError):
    """There is no tunnel.

    Attributes:
        reason: why.
    """

    slug = "tunnel-refused"

    def __init__(self, reason: Reason, message: str = "", *, peer: str | None = None) -> None:
        super().__init__(message, peer=peer)
        self.reason = reason


def refused(status: int, headers: Mapping[str, str], target: object, server: str) -> Refused:
    """What a client says of a server's answer."""
    reason = Reason.of(status, headers.get("proxy-status", ""))
    sentence = _SENTENCES.get(reason, "the server could not reach {target} (status {status})")
    return Refused(reason, sentence.format(target=target, status=status), peer=server)


def proxy_status(reason: Reason) -> str:
    """The value of ``proxy-status``."""
    return f"whimbrel; error={reason.error}"


_SENTENCES = {
    Reason.UNAUTHENTICATED: "the server wants another token or certificate: see --token-file and --cert",
    Reason.NOT_ALLOWED: "the server does not allow tunnels to {target}",
    Reason.TOO_MANY_FAILURES: "the server takes nothing from here after too many failed attempts: wait a minute",
    Reason.TOO_MANY_TUNNELS: "the server has too many tunnels open",
    Reason.BAD_TARGET: "the server does not understand the target {target}",
    Reason.NAME_UNKNOWN: "the server cannot find {target}",
    Reason.PORT_CLOSED: "nobody listens at {target}, as seen from the server",
    Reason.UNREACHABLE: "no route leads from the server to {target}",
    Reason.NO_ANSWER: "{target} does not answer the server",
    Reason.NO_TUNNELS: "the server has no tunnels (status {status})",
}
