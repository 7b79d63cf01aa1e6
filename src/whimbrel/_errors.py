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

Each class has a stable ``slug`` for programs and logs; ``str()`` names the peer, the path and what to do. Which of them
the end of a connection is, `_lost.py` reads from what the engine says.
"""

from __future__ import annotations

from typing import ClassVar

from whimbrel._error_codes import transport_error_name
from whimbrel._path import Path


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
