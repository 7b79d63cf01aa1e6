"""The exception tree: what each is caught as, and what it says."""

from __future__ import annotations

import copy
import pickle

import pytest

from whimbrel import _errors as errors
from whimbrel._lost import Lost, lost_error
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
def test_errors_survive_copying_and_pickling(lost: Lost) -> None:
    error = lost_error(lost, peer="peer:1", path=PATH)
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


@pytest.mark.parametrize("cls", errors.MigrationError.__subclasses__())
def test_a_refused_move_by_its_slug(cls: type[errors.MigrationError]) -> None:
    assert type(errors.migration_error(cls.slug, peer="a:1")) is cls
    assert type(errors.migration_error("something new", peer="a:1")) is errors.MigrationError


def test_addresses_as_people_write_them() -> None:
    assert errors.address_text(("192.0.2.1", 443)) == "192.0.2.1:443"
    assert errors.address_text(("2001:db8::1", 443)) == "[2001:db8::1]:443"
