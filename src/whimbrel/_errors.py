"""What can go wrong, as one tree. One ``except`` for each intent.

::

    WhimbrelError
    ├── ConnectFailed                  also OSError: look-up, no route, port closed
    │   ├── ConnectTimeout             also TimeoutError: what was tried, and for how long
    │   └── HandshakeFailed            .alert
    │       ├── CertificateError       .reason: "expired", "unknown issuer", "wrong name", … .ours
    │       └── AlpnMismatch
    ├── ConnectionLost                 also ConnectionError
    │   ├── ConnectionClosed           .code .reason .by_peer .is_application
    │   ├── IdleTimeout                also TimeoutError
    │   ├── OutageTimeout              also TimeoutError
    │   └── StatelessReset
    ├── MigrationError                 the connection still stands
    │   ├── MigrationDisabled
    │   ├── NoRoute
    │   ├── NoAnswer
    │   └── ConnectionIdsExhausted
    ├── StreamError                    the connection still stands
    │   ├── StreamReset                .code
    │   └── StreamStopped              .code
    ├── DatagramTooLarge               also ValueError
    ├── Busy                           also RuntimeError
    └── ProtocolError
        ├── LocalProtocolError         a caller's mistake
        └── RemoteProtocolError        the peer's

Each class has a stable ``slug`` for programs and logs; ``str()`` names the peer, the path and what to do. The functions
at the end turn what the engine says of a lost connection into these classes: the only place that reads its texts.
"""

from __future__ import annotations

from typing import ClassVar

from whimbrel._path import Path

Lost = tuple[str, int, str, bool]
"""Why the engine says a connection ended: (kind, code, reason, by_peer); see ``Connection.lost`` in ``_core.pyi``."""


class WhimbrelError(Exception):
    """Base of all that whimbrel raises on purpose.

    Args:
        message: what happened; by default, what the class says of itself.
        peer: whom it happened with, as ``host:port``.
        path: the path in use then.
    """

    slug: ClassVar[str] = "error"
    default: ClassVar[str] = "something failed"
    advice: ClassVar[str] = ""

    def __init__(self, message: str = "", *, peer: str | None = None, path: Path | None = None) -> None:
        super().__init__(message)
        self.message = message or self.default
        self.peer = peer
        self.path = path

    def __str__(self) -> str:
        where = describe(self.peer, self.path)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}; {self.advice}" if self.advice else text


class ConnectFailed(WhimbrelError, OSError):
    """No connection came about: the look-up failed, no route leads there, or the port is closed."""

    slug = "connect-failed"
    default = "cannot connect"


class ConnectTimeout(ConnectFailed, TimeoutError):
    """Nobody answered in time. The message says what was tried, and for how long."""

    slug = "connect-timeout"
    default = "no answer in time"
    advice = "check that a QUIC server listens there and that nothing on the way blocks UDP"


class HandshakeFailed(ConnectFailed):
    """The peer answered, but the two did not come to terms.

    Attributes:
        alert: the TLS alert's number (RFC 8446 §6), or None where it was not TLS that failed.
    """

    slug = "handshake-failed"
    default = "the handshake failed"

    def __init__(
        self, message: str = "", *, alert: int | None = None, peer: str | None = None, path: Path | None = None
    ) -> None:
        super().__init__(message, peer=peer, path=path)
        self.alert = alert


class CertificateError(HandshakeFailed):
    """A certificate does not prove who somebody is: the server's to us, or ours to the server.

    In TLS 1.3 a client's handshake is complete before the server has looked at its certificate. `connect` waits for the
    verdict where the server asks for one; otherwise what a server says later is raised by whatever is called next.

    Attributes:
        reason: "expired", "not yet valid", "unknown issuer", "wrong name", "revoked", "bad signature", "wrong purpose"
            or "malformed"; of ours also "missing" and "not accepted".
        ours: whether it is the client's certificate (``cert=``) that the server refused.
    """

    slug = "certificate"
    default = "the certificate is not acceptable"

    _advices: ClassVar[dict[str, str]] = {
        "expired": "the server must renew it (or this machine's clock is wrong)",
        "not yet valid": "check this machine's clock",
        "unknown issuer": "pass the issuer's certificate as verify=, or set SSL_CERT_FILE",
        "wrong name": "connect by a name that the certificate holds, or pass server_hostname=",
    }
    _advices_on_ours: ClassVar[dict[str, str]] = {
        "missing": "pass one, and its key, as cert=",
        "expired": "renew it",
        "unknown issuer": "pass one as cert= whose authority the server trusts",
        "wrong purpose": "pass one as cert= that was made for clients",
    }

    def __init__(
        self,
        reason: str,
        message: str = "",
        *,
        ours: bool = False,
        alert: int | None = None,
        peer: str | None = None,
        path: Path | None = None,
    ) -> None:
        super().__init__(message, alert=alert, peer=peer, path=path)
        self.args = (reason, message)
        self.reason = reason
        self.ours = ours

    def __str__(self) -> str:
        text = super().__str__()
        advice = (self._advices_on_ours if self.ours else self._advices).get(self.reason)
        return f"{text}; {advice}" if advice else text


class AlpnMismatch(HandshakeFailed):
    """The two ends have no application protocol in common (RFC 9001 §8.1)."""

    slug = "alpn-mismatch"
    default = "the server speaks none of the application protocols offered"
    advice = "pass one that it speaks as alpn="


class ConnectionLost(WhimbrelError, ConnectionError):
    """The connection is over."""

    slug = "connection-lost"
    default = "the connection was lost"


class ConnectionClosed(ConnectionLost):
    """One of the ends closed the connection (RFC 9000 §10.2).

    Attributes:
        code: the error code, from the application's space or from QUIC's (RFC 9000 §20).
        reason: the phrase that came with it.
        by_peer: whether the other end closed it.
        is_application: whether the code is the application's.
    """

    slug = "connection-closed"

    def __init__(
        self,
        code: int,
        reason: str = "",
        *,
        by_peer: bool = False,
        is_application: bool = True,
        peer: str | None = None,
        path: Path | None = None,
    ) -> None:
        who = "the peer" if by_peer else "this end"
        name = f"code {code}" if is_application else transport_error_name(code)
        super().__init__(f"{who} closed the connection: {name}{f' ({reason})' if reason else ''}", peer=peer, path=path)
        self.args = (code, reason)
        self.code = code
        self.reason = reason
        self.by_peer = by_peer
        self.is_application = is_application


class IdleTimeout(ConnectionLost, TimeoutError):
    """Nothing came for as long as the smaller of the two ends' idle timeouts (RFC 9000 §10.1)."""

    slug = "idle-timeout"
    default = "nothing came for the whole idle timeout"
    advice = "connect again, or use keepalive= where long silences are normal"


class OutageTimeout(ConnectionLost, TimeoutError):
    """There was no network at all for ``Migration.outage`` seconds."""

    slug = "outage-timeout"
    default = "no network for too long"
    advice = "connect again when there is one, or hold on longer with Migration(outage=...)"


class StatelessReset(ConnectionLost):
    """The peer no longer knows this connection (RFC 9000 §10.3); usually it was started anew."""

    slug = "stateless-reset"
    default = "the peer no longer knows this connection"
    advice = "connect again"


class MigrationError(WhimbrelError):
    """A move did not happen. The connection still stands, on the path it had."""

    slug = "migration-failed"
    default = "the connection did not move"


class MigrationDisabled(MigrationError):
    """The peer forbids migration (RFC 9000 §18.2), or the caller chose ``migration=None``, or this is a server."""

    slug = "migration-disabled"
    default = "this connection may not migrate"
    advice = "it stays on its path; connect again to use another network"


class NoRoute(MigrationError):
    """No network leads to the peer by the interface asked for."""

    slug = "no-route"
    default = "no route leads there over that interface"
    advice = "see whimbrel.network.routes_to() for those that have one"


class NoAnswer(MigrationError):
    """Nothing came back over the other network."""

    slug = "no-answer"
    default = "nothing came back over the other network"
    advice = "the connection stays where it is; try again later"


class ConnectionIdsExhausted(MigrationError):
    """The peer left no spare connection ID, so a move could be traced (RFC 9000 §9.5)."""

    slug = "connection-ids-exhausted"
    default = "the peer has left no spare connection ID"
    advice = "try again after a round trip"


class StreamError(WhimbrelError):
    """One stream failed. The connection and its other streams still stand."""

    slug = "stream-failed"
    default = "the stream failed"

    def __init__(
        self,
        code: int,
        message: str = "",
        *,
        stream: int | None = None,
        peer: str | None = None,
        path: Path | None = None,
    ) -> None:
        name = "a stream" if stream is None else f"stream {stream}"
        super().__init__(message or self.default.format(stream=name, code=code), peer=peer, path=path)
        self.args = (code, message)
        self.code = code
        self.stream = stream


class StreamReset(StreamError):
    """The peer gave up sending on a stream (RESET_STREAM); what it sent may be incomplete.

    Attributes:
        code: the peer's reason, the application's code.
    """

    slug = "stream-reset"
    default = "the peer reset {stream} with code {code}"


class StreamStopped(StreamError):
    """The peer reads no more of a stream (STOP_SENDING).

    Attributes:
        code: the peer's reason, the application's code.
    """

    slug = "stream-stopped"
    default = "the peer stopped reading {stream} with code {code}"


class DatagramTooLarge(WhimbrelError, ValueError):
    """A datagram does not fit into one packet, or the peer takes none (RFC 9221 §3)."""

    slug = "datagram-too-large"
    default = "the datagram is too large"
    advice = "see Connection.max_datagram_size"


class Busy(WhimbrelError, RuntimeError):
    """Two tasks read, or two write, one stream at once."""

    slug = "busy"
    default = "another task is at it already"
    advice = "one reader and one writer at a time for each stream"


class ProtocolError(WhimbrelError):
    """Somebody broke the rules of a protocol."""

    slug = "protocol-error"
    default = "a rule of the protocol was broken"


class LocalProtocolError(ProtocolError):
    """The caller asked for what the protocol does not allow."""

    slug = "local-protocol-error"


class RemoteProtocolError(ProtocolError):
    """The peer did what the protocol does not allow."""

    slug = "remote-protocol-error"


class InsecureWarning(UserWarning):
    """Certificates are not verified: anybody on the way can read and change everything."""


# What the engine says of the end of a connection ---------------------------------------------------------------------


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


def migration_error(slug: str, *, peer: str, path: Path | None = None) -> MigrationError:
    """The exception for a move that the policy refused, by its slug."""
    for cls in (MigrationDisabled, NoRoute, NoAnswer, ConnectionIdsExhausted):
        if cls.slug == slug:
            return cls(peer=peer, path=path)
    return MigrationError(peer=peer, path=path)


def describe(peer: str | None, path: Path | None) -> str:
    """Peer and path for a person: ``example.org:443 (192.0.2.1:443 over wlan0)``; "" where nothing is known."""
    if path is None:
        return peer or ""
    remote = address_text(path.remote)
    way = [remote] if remote != peer else []
    if path.interface is not None:
        way.append(f"over {path.interface}")
    if peer is None:
        return " ".join(way)
    return f"{peer} ({' '.join(way)})" if way else peer


def address_text(address: tuple[str, int]) -> str:
    """An address as ``192.0.2.1:443`` or ``[2001:db8::1]:443``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def transport_error_name(code: int) -> str:
    """QUIC's name for one of its own error codes (RFC 9000 §20.1), TLS alerts included (RFC 9001 §4.8)."""
    if 0x100 <= code <= 0x1FF:
        return f"TLS alert {alert_name(code - 0x100)}"
    return _TRANSPORT_ERRORS.get(code, f"QUIC error {code:#x}")


def alert_name(alert: int) -> str:
    """TLS's name for an alert (RFC 8446 §6), with its number."""
    name = _ALERTS.get(alert)
    return f"{name} ({alert})" if name else str(alert)


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
_ALERTS = {
    10: "unexpected_message",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}
_TRANSPORT_ERRORS = {
    0x0: "NO_ERROR",
    0x1: "INTERNAL_ERROR",
    0x2: "CONNECTION_REFUSED",
    0x3: "FLOW_CONTROL_ERROR",
    0x4: "STREAM_LIMIT_ERROR",
    0x5: "STREAM_STATE_ERROR",
    0x6: "FINAL_SIZE_ERROR",
    0x7: "FRAME_ENCODING_ERROR",
    0x8: "TRANSPORT_PARAMETER_ERROR",
    0x9: "CONNECTION_ID_LIMIT_ERROR",
    0xA: "PROTOCOL_VIOLATION",
    0xB: "INVALID_TOKEN",
    0xC: "APPLICATION_ERROR",
    0xD: "CRYPTO_BUFFER_EXCEEDED",
    0xE: "KEY_UPDATE_ERROR",
    0xF: "AEAD_LIMIT_REACHED",
    0x10: "NO_VIABLE_PATH",
}
