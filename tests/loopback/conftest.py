"""Certificates and event loops for the loopback tests."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.loopback.support import Certificates

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops: they differ in timers and readers, which is where we touch them."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(scope="session")
def issue(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Certificates]:
    """Makes certificates of an authority of their own."""

    def make(*names: str, not_after: dt.datetime | None = None) -> Certificates:
        folder = tmp_path_factory.mktemp("certificates")
        authority = trustme.CA()
        certificate = authority.issue_cert(*names, not_after=not_after)
        files = Certificates(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
        authority.cert_pem.write_to_path(files.ca)
        files.chain.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(files.key)
        return files

    return make


@pytest.fixture(scope="session")
def certificates(issue: Callable[..., Certificates]) -> Certificates:
    return issue("localhost", "127.0.0.1", "::1")


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    address = request.param
    assert isinstance(address, str)
    return address


@pytest.fixture
def scripts() -> Path:
    return Path(__file__).parent / "scripts"
