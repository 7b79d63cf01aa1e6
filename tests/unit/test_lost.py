"""Why a connection ended: how the engine's words are read."""

from __future__ import annotations

import pytest

from whimbrel import _errors as errors
from whimbrel._lost import Lost, connect_error, is_clean, lost_error
from whimbrel._path import Path

PATH = Path(("10.0.0.2", 4000), ("192.0.2.1", 443), "wlan0", True, 0.01, 1452, 0.0)


@pytest.mark.parametrize(
    ("reason", "alert", "problem"),
    [
        ("invalid peer certificate: Expired", 45, "expired"),
        ("invalid peer certificate: certificate expired: verification time 1700000000 (UNIX), but …", 45, "expired"),
        ("invalid peer certificate: certificate not valid yet: verification time 1 (UNIX), but …", 45, "not yet valid"),
        ("invalid peer certificate: UnknownIssuer", 48, "unknown issuer"),
        ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", 46, "unknown issuer"),
        ("invalid peer certificate: NotValidForName", 42, "wrong name"),
        ('invalid peer certificate: certificate not valid for name "a"; certificate is only …', 42, "wrong name"),
        ("invalid peer certificate: Revoked", 44, "revoked"),
        ("invalid peer certificate: BadSignature", 51, "bad signature"),
        ("invalid peer certificate: InvalidPurpose", 43, "wrong purpose"),
        ("invalid peer certificate: BadEncoding", 42, "malformed"),
    ],
)
def test_a_certificate_problem_is_read_from_the_verifier(reason: str, alert: int, problem: str) -> None:
    error = connect_error(("transport", 0x100 + alert, reason, False), peer="a:1", name="a", path=PATH)
    assert isinstance(error, errors.CertificateError)
    assert (error.reason, error.alert) == (problem, alert)


@pytest.mark.parametrize(
    ("lost", "cls", "text"),
    [
        (("idle", 0, "", False), errors.ConnectTimeout, "no answer"),
        (("version", 0, "", True), errors.HandshakeFailed, "does not speak QUIC version 1"),
        (("transport", 0x178, "", True), errors.AlpnMismatch, "none of the application protocols"),
        (("transport", 0x178, "", False), errors.AlpnMismatch, "none of the application protocols"),
        (("transport", 0x128, "no", True), errors.HandshakeFailed, r"the server .* handshake_failure \(40\) \(no\)"),
        (("transport", 0x174, "", True), errors.CertificateError, "asks for a client certificate, and got none"),
        (("transport", 0x132, "odd", False), errors.HandshakeFailed, r"this end .* decode_error \(50\) \(odd\)"),
        (("transport", 0x2, "", True), errors.ConnectFailed, "refuses connections"),
        (("transport", 0xA, "", True), errors.HandshakeFailed, "PROTOCOL_VIOLATION"),
        (("transport", 0x99, "", False), errors.HandshakeFailed, "0x99"),
        (("refused", 0, "", True), errors.ConnectFailed, "nothing listens"),
        (("reset", 0, "", True), errors.ConnectFailed, "stateless reset"),
        (("application", 9, "bye", True), errors.HandshakeFailed, r"code 9 \(bye\)"),
    ],
)
def test_why_a_dial_failed(lost: Lost, cls: type[errors.ConnectFailed], text: str) -> None:
    error = connect_error(lost, peer="a:1", name="a")
    assert type(error) is cls
    with pytest.raises(cls, match=text):
        raise error


@pytest.mark.parametrize(
    ("lost", "cls", "text"),
    [
        (("idle", 0, "", False), errors.IdleTimeout, "idle timeout"),
        (("reset", 0, "", True), errors.StatelessReset, "no longer knows"),
        (("application", 3, "", True), errors.ConnectionClosed, "the peer closed the connection: code 3"),
        (("local", 0, "", False), errors.ConnectionClosed, "this end closed the connection: code 0"),
        (("transport", 0xA, "x", False), errors.ConnectionClosed, r"this end .*PROTOCOL_VIOLATION \(x\)"),
        (("transport", 0x174, "", True), errors.ConnectionClosed, "certificate_required"),
        (("refused", 0, "", True), errors.ConnectionLost, "nothing listens"),
        (("version", 0, "", True), errors.ConnectionLost, "version 1"),
    ],
)
def test_why_a_connection_was_lost(lost: Lost, cls: type[errors.ConnectionLost], text: str) -> None:
    error = lost_error(lost, peer="a:1")
    assert type(error) is cls
    with pytest.raises(cls, match=text):
        raise error


@pytest.mark.parametrize(
    ("lost", "alpn", "clean"),
    [
        (("application", 0, "", True), "test", True),
        (("application", 0x100, "", True), "h3", True),
        (("application", 0x100, "", True), "test", False),
        (("application", 1, "", True), "test", False),
        (("transport", 0, "", True), "test", True),
        (("transport", 1, "", True), "test", False),
        (("local", 5, "", False), "test", True),
        (("idle", 0, "", False), "test", False),
    ],
)
def test_which_ends_are_clean(lost: Lost, alpn: str, clean: bool) -> None:
    assert is_clean(lost, alpn) is clean
