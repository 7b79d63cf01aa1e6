"""Laboratories for the tests of this folder, which are skipped where the machine cannot have one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme

from tests.lab.crossing import Certificates
from whimbrel.testing import CELLULAR, WIFI, Laboratory, LaboratoryUnavailable, Radio, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

# An ordinary user's process enters its user namespace while it has a single thread: now, and not in the first test.
try:
    import pyroute2  # type: ignore[import-untyped]  # noqa: F401

    prepare()
    _reason = ""
except (LaboratoryUnavailable, ModuleNotFoundError) as error:
    _reason = str(error)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority's own, and a server's in its name."""
    folder = tmp_path_factory.mktemp("certificates")
    files = Certificates(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(files.ca))
    leaf.private_key_pem.write_to_path(str(files.key))
    files.chain.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    return files


@pytest.fixture
def lab() -> Iterator[Laboratory]:
    """A laboratory with the default radios, where nothing has been joined yet."""
    yield from _laboratory(WIFI, CELLULAR)


@pytest.fixture
def lossless_lab() -> Iterator[Laboratory]:
    """The same without random loss, for tests that count packets."""
    yield from _laboratory(
        Radio(rtt=WIFI.rtt, rate=WIFI.rate, loss=0), Radio(rtt=CELLULAR.rtt, rate=CELLULAR.rate, loss=0)
    )


def _laboratory(wifi: Radio, cellular: Radio) -> Iterator[Laboratory]:
    if _reason:
        pytest.skip(f"no laboratory: {_reason}")
    try:
        laboratory = Laboratory(wifi=wifi, cellular=cellular)
    except LaboratoryUnavailable as error:
        pytest.skip(f"no laboratory: {error}")
    with laboratory:
        yield laboratory
