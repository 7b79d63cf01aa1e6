"""The exception tree: what each is caught as, what it says, and how the engine's words are read."""

from __future__ import annotations

import copy
import pickle

import pytest

from whimbrel import _errors as errors
from whimbrel._path import Path

PATH = Path(("10.0.0.2", 4000), ("192.0.2.1", 443), "wlan0", True, 0.01, 1452, 0.0)


def every_class() -> list[type[errors.WhimbrelError]]:
    """Those of this module; whimbrel.http adds its own to the tree."""
    found, waiting = [], [errors.WhimbrelError]
    while waiting:
        cls = waiting.pop()
        if cls.__module__ == errors.__name__:
            found.append(cls)
        waiting.extend(cls.__subclasses__())
    return found


def test_each_class_has_a_slug_of_its_own() -> None:
    slugs = [cls.slug for cls in every_class()]
    assert len(slugs) == len(set(slugs)) == 24


@pytest.mark.parametrize(
    ("cls", "also"),
    [
        (errors.ConnectFailed, OSError),
        (errors.ConnectTimeout, TimeoutError),
        (errors.CertificateError, errors.HandshakeFailed),
        (errors.ConnectionLost, ConnectionError),
        (errors.IdleTimeout, TimeoutError),
        (errors.OutageTimeout, TimeoutError),
        (errors.DatagramTooLarge, ValueError),
        (errors.Busy, RuntimeError),
    ],
)
def test_some_are_also_what_the_standard_library_knows(cls: type, also: type) -> None:
    assert issubclass(cls, also)


def test_a_message_names_peer_path_and_what_to_do() -> None:
    error = errors.NoAnswer(peer="example.org:443", path=PATH)
    assert str(error) == (
        "example.org:443 (192.0.2.1:443 over wlan0): nothing came back over the other network; "
        "the connection stays where it is; try again later"
    )
    assert str(errors.ConnectFailed("cannot find 'x'", peer="x:1")) == "x:1: cannot find 'x'"
    assert str(errors.LocalProtocolError("a rule")) == "a rule"


@pytest.mark.parametrize("lost", [("application", 7, "enough", True), ("idle", 0, "", False), ("reset", 0, "", True)])
def test_errors_survive_copying_and_pickling(lost: errors.Lost) -> None:
    error = errors.lost_error(lost, peer="peer:1", path=PATH)
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_all_classes_can_be_copied() -> None:
    for cls in every_class():
        arguments: tuple[object, ...] = ()
        if issubclass(cls, errors.StreamError):
            arguments = (7,)
        elif cls is errors.CertificateError:
            arguments = ("expired",)
        elif cls is errors.ConnectionClosed:
            arguments = (7, "why")
        error = cls(*arguments)  # type: ignore[arg-type]
        assert str(pickle.loads(pickle.dumps(error))) == str(error) != ""


def test_stream_errors_are_made_from_a_code_alone() -> None:
    # As the native module makes them.
    assert str(errors.StreamReset(5)) == "the peer reset a stream with code 5"
    assert errors.StreamStopped(6).code == 6


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
    error = errors.connect_error(("transport", 0x100 + alert, reason, False), peer="a:1", name="a", path=PATH)
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
def test_why_a_dial_failed(lost: errors.Lost, cls: type[errors.ConnectFailed], text: str) -> None:
    error = errors.connect_error(lost, peer="a:1", name="a")
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
def test_why_a_connection_was_lost(lost: errors.Lost, cls: type[errors.ConnectionLost], text: str) -> None:
    error = errors.lost_error(lost, peer="a:1")
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
def test_which_ends_are_clean(lost: errors.Lost, alpn: str, clean: bool) -> None:
    assert errors.is_clean(lost, alpn) is clean


@pytest.mark.parametrize("cls", errors.MigrationError.__subclasses__())
def test_a_refused_move_by_its_slug(cls: type[errors.MigrationError]) -> None:
    assert type(errors.migration_error(cls.slug, peer="a:1")) is cls
    assert type(errors.migration_error("something new", peer="a:1")) is errors.MigrationError


def test_addresses_as_people_write_them() -> None:
    assert errors.address_text(("192.0.2.1", 443)) == "192.0.2.1:443"
    assert errors.address_text(("2001:db8::1", 443)) == "[2001:db8::1]:443"
