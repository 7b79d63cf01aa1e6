"""Why a connection ended: what the engine says of it, as exceptions. The only place that reads the engine's texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whimbrel._error_codes import alert_name, transport_error_name
from whimbrel._errors import (
    AlpnMismatch,
    CertificateError,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    ConnectTimeout,
    HandshakeFailed,
    IdleTimeout,
    StatelessReset,
)

if TYPE_CHECKING:
    from whimbrel._path import Path

Lost = tuple[str, int, str, bool]
"""Why the engine says a connection ended: (kind, code, reason, by_peer); see ``Connection.lost`` in ``_core.pyi``."""


def connect_error(lost: Lost, *, peer: str, name: str, path: Path | None = None) -> ConnectFailed:
    """The exception for a connection that ended before its handshake did.

    Args:
        lost: what the engine says.
        peer: ``host:port`` as the caller gave it.
        name: the name that the certificate had to hold.
        path: the path that was tried.
    """
    kind, code, reason, by_peer = lost
    match kind:
        case "late":
            return ConnectTimeout(reason, peer=peer, path=path)
        case "idle":
            return ConnectTimeout("no answer for the whole idle timeout", peer=peer, path=path)
        case "version":
            return HandshakeFailed("the server does not speak QUIC version 1", peer=peer, path=path)
        case "transport" if 0x100 <= code <= 0x1FF:
            return _tls_error(code - 0x100, reason, by_peer, peer, name, path)
        case "transport" if code == 0x2 and by_peer:
            return ConnectFailed(f"the server refuses connections now{_aside(reason)}", peer=peer, path=path)
        case "refused":
            return ConnectFailed(f"nothing listens there{_aside(reason)}", peer=peer, path=path)
        case "reset":
            return ConnectFailed("the server answered with a stateless reset", peer=peer, path=path)
        case "transport":
            who = "the server" if by_peer else "this end"
            text = f"{who} ended the handshake: {transport_error_name(code)}{_aside(reason)}"
            return HandshakeFailed(text, peer=peer, path=path)
        case _:
            who = "the server" if by_peer else "this end"
            return HandshakeFailed(f"{who} closed it with code {code}{_aside(reason)}", peer=peer, path=path)


def is_refusal(lost: Lost) -> bool:
    """Whether it was the peer's TLS that ended the connection: a server found fault with our part of the handshake."""
    kind, code, _, by_peer = lost
    return kind == "transport" and by_peer and 0x100 <= code <= 0x1FF


def lost_error(lost: Lost, *, peer: str, path: Path | None = None) -> ConnectionLost:
    """The exception for a connection that ended after its handshake; a new one each time, for each task that waits."""
    kind, code, reason, by_peer = lost
    match kind:
        case "idle":
            return IdleTimeout(peer=peer, path=path)
        case "reset":
            return StatelessReset(peer=peer, path=path)
        case "refused":
            return ConnectionLost("the peer's machine says that nothing listens there any more", peer=peer, path=path)
        case "version":
            return ConnectionLost("the peer no longer speaks QUIC version 1", peer=peer, path=path)
        case _:
            is_application = kind in ("application", "local")
            return ConnectionClosed(code, reason, by_peer=by_peer, is_application=is_application, peer=peer, path=path)


def is_clean(lost: Lost, alpn: str) -> bool:
    """Whether a connection ended without an error, so that iteration over it ends quietly."""
    kind, code, _, _ = lost
    match kind:
        case "local":
            return True
        case "application":
            # RFC 9114 §8.1: H3_NO_ERROR is 0x100; it means nothing in other protocols.
            return code == 0 or (code == 0x100 and alpn.startswith("h3"))
        case "transport":
            return code == 0
        case _:
            return False


def _tls_error(alert: int, reason: str, by_peer: bool, peer: str, name: str, path: Path | None) -> HandshakeFailed:
    if alert == 120:
        return AlpnMismatch(alert=alert, peer=peer, path=path)
    if by_peer:
        if alert in _ABOUT_OUR_CERTIFICATE:
            return _refused_certificate(alert, reason, peer, path)
        text = f"the server ended the handshake with TLS alert {alert_name(alert)}{_aside(reason)}"
        return HandshakeFailed(text, alert=alert, peer=peer, path=path)
    problem = certificate_problem(alert, reason)
    if problem is None:
        text = f"this end refused with TLS alert {alert_name(alert)}{_aside(reason)}"
        return HandshakeFailed(text, alert=alert, peer=peer, path=path)
    text = {
        "expired": "the server's certificate has expired",
        "not yet valid": "the server's certificate is not valid yet",
        "unknown issuer": "the server's certificate comes from an issuer that is not trusted here",
        "wrong name": f"the server's certificate is not for {name!r}",
        "revoked": "the server's certificate was revoked",
        "bad signature": "the signature of the server's certificate is wrong",
        "wrong purpose": "the server's certificate is not meant for servers",
    }.get(problem, f"the server's certificate is malformed{_aside(reason)}")
    return CertificateError(problem, text, alert=alert, peer=peer, path=path)


def _refused_certificate(alert: int, reason: str, peer: str, path: Path | None) -> CertificateError:
    """What a server says of ours. Not all say more than an alert, and not all alerts say much."""
    problem = "missing" if alert == 116 else certificate_problem(alert, reason)
    if problem == "malformed" and alert != 42:
        problem = "not accepted"
    text = {
        "missing": "the server asks for a client certificate, and got none",
        "expired": "the client certificate has expired",
        "not yet valid": "the client certificate is not valid yet",
        "unknown issuer": "the server does not trust the issuer of the client certificate",
        "revoked": "the client certificate was revoked",
        "bad signature": "the signature of the client certificate is wrong",
        "wrong purpose": "the client certificate is not meant for clients",
    }.get(problem or "", "the server does not accept the client certificate")
    says = f"the server's TLS alert is {alert_name(alert)}{_aside(reason)}"
    return CertificateError(problem or "not accepted", f"{text}: {says}", ours=True, alert=alert, peer=peer, path=path)


def certificate_problem(alert: int, reason: str) -> str | None:
    """What is wrong with a certificate, read from our verifier's words; None where it was something else.

    The verifier's texts are "invalid peer certificate: " and either a name (``UnknownIssuer``) or a sentence
    ("certificate expired: verification time …"): both forms are looked for, since they differ by its version.
    """
    words = reason.lower().replace(" ", "")
    for sign, problem in _CERTIFICATE_SIGNS:
        if sign in words:
            return problem
    if "certificate" in words or alert in (42, 43, 44, 45, 46, 48):
        return _CERTIFICATE_ALERTS.get(alert, "malformed")
    return None


def _aside(reason: str) -> str:
    return f" ({reason})" if reason else ""


_CERTIFICATE_SIGNS = (
    ("notvalidyet", "not yet valid"),
    ("expired", "expired"),
    ("unknownissuer", "unknown issuer"),
    ("notvalidforname", "wrong name"),
    ("revoked", "revoked"),
    ("badsignature", "bad signature"),
    ("purpose", "wrong purpose"),
    # A certificate that signs itself as an authority and stands in for a server: no chain to anything trusted.
    ("causedasendentity", "unknown issuer"),
)
_CERTIFICATE_ALERTS = {44: "revoked", 45: "expired", 48: "unknown issuer"}
_ABOUT_OUR_CERTIFICATE = frozenset({42, 43, 44, 45, 46, 48, 116})
