"""Dials that fail, each with one sentence that says why."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import pytest

import whimbrel
from tests.loopback.support import Certificates, Options, dial, echo_server, nothing_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Issue = Callable[..., Certificates]


async def failure(
    certificates: Certificates, trusted: Certificates | None = None, **options: Unpack[Options]
) -> Exception:
    """What dialling a server with these certificates raises; nothing is left of the attempt."""
    async with echo_server(certificates) as server, nothing_left():
        with pytest.raises(whimbrel.ConnectFailed) as caught:
            await dial(server, trusted or certificates, **options)
        assert f"127.0.0.1:{server.addresses[0][1]}" in str(caught.value)
        assert isinstance(caught.value, OSError)
        return caught.value


async def test_an_expired_certificate(issue: Issue) -> None:
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    error = await failure(issue("127.0.0.1", not_after=yesterday))
    assert isinstance(error, whimbrel.CertificateError)
    assert error.reason == "expired"
    assert "certificate has expired" in str(error)


async def test_a_certificate_of_an_unknown_issuer(issue: Issue, certificates: Certificates) -> None:
    error = await failure(issue("127.0.0.1"), trusted=certificates)
    assert isinstance(error, whimbrel.CertificateError)
    assert error.reason == "unknown issuer"
    assert "verify=" in str(error)


async def test_a_certificate_for_another_name(issue: Issue) -> None:
    error = await failure(issue("other.example"))
    assert isinstance(error, whimbrel.CertificateError)
    assert error.reason == "wrong name"
    assert "'127.0.0.1'" in str(error)


async def test_a_self_signed_certificate(certificates: Certificates, tmp_path: Path) -> None:
    # As people make them with `openssl req -x509`: an authority's certificate used as a server's.
    import trustme

    authority = trustme.CA()
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    authority.cert_pem.write_to_path(chain)
    authority.private_key_pem.write_to_path(key)
    error = await failure(Certificates(certificates.ca, chain, key))
    assert isinstance(error, whimbrel.CertificateError)
    assert error.reason == "unknown issuer"


async def test_the_name_to_verify_may_be_another(issue: Issue) -> None:
    named = issue("other.example")
    async with echo_server(named) as server, dial(server, named, server_hostname="other.example") as connection:
        assert connection.alpn == "test"


async def test_no_verification_warns(certificates: Certificates) -> None:
    async with echo_server(certificates) as server:
        with pytest.warns(whimbrel.InsecureWarning, match="not verified") as caught:
            described = whimbrel.connect("127.0.0.1", server.addresses[0][1], alpn="test", verify=False, migration=None)
        assert caught[0].filename == __file__
        async with described as connection:
            assert connection.peer_certificate is not None


async def test_no_protocol_in_common(certificates: Certificates) -> None:
    error = await failure(certificates, alpn="other")
    assert isinstance(error, whimbrel.AlpnMismatch)
    assert error.alert == 120


@pytest.fixture
def silence() -> Iterator[int]:
    """A port where datagrams arrive and nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        yield hole.getsockname()[1]


async def test_nobody_answers(silence: int, certificates: Certificates) -> None:
    loop = asyncio.get_running_loop()
    async with nothing_left():
        began = loop.time()
        with pytest.raises(whimbrel.ConnectTimeout) as caught:
            await whimbrel.connect("127.0.0.1", silence, alpn="test", verify=certificates.ca, timeout=0.2)
        assert loop.time() - began < 1
    assert isinstance(caught.value, TimeoutError)
    assert str(caught.value).startswith(f"127.0.0.1:{silence}: no answer within 0.2 s")


async def test_nothing_listens(certificates: Certificates) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    async with nothing_left():
        with pytest.raises(whimbrel.ConnectFailed):
            await whimbrel.connect("127.0.0.1", port, alpn="test", verify=certificates.ca, timeout=0.2)


async def test_all_addresses_are_tried_and_named(
    silence: int, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ("127.0.0.1", silence), ("127.0.0.2", silence))
    async with nothing_left():
        with pytest.raises(whimbrel.ConnectTimeout, match=r"tried 127\.0\.0\.1:\d+, 127\.0\.0\.2:\d+"):
            await whimbrel.connect("twice.example", silence, alpn="test", verify=certificates.ca, timeout=0.4)


async def test_a_second_address_answers_where_the_first_is_silent(
    silence: int, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with echo_server(certificates) as server, nothing_left():
        resolve_to(monkeypatch, ("127.0.0.1", silence), server.addresses[0])
        async with dial(server, certificates, server_hostname="localhost") as direct:
            assert direct.alpn == "test"
        async with whimbrel.connect(
            "localhost", server.addresses[0][1], alpn="test", verify=certificates.ca, migration=None
        ) as connection:
            assert connection.path.remote == server.addresses[0]


async def test_an_answer_of_one_address_is_not_waited_over(
    silence: int, issue: Issue, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with echo_server(issue("localhost")) as server, nothing_left():
        resolve_to(monkeypatch, ("127.0.0.1", silence), server.addresses[0])
        with pytest.raises(whimbrel.CertificateError):
            await whimbrel.connect("localhost", 1, alpn="test", verify=certificates.ca, timeout=None)


async def test_no_route(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    from whimbrel import _machine

    monkeypatch.setattr(_machine, "route_to", lambda _: None)
    with pytest.raises(whimbrel.ConnectFailed, match=r"192\.0\.2\.1:443: no network leads there"):
        await whimbrel.connect("192.0.2.1", 443, alpn="test", verify=certificates.ca)


async def test_an_unknown_host(certificates: Certificates) -> None:
    with pytest.raises(whimbrel.ConnectFailed, match=r"cannot find 'nowhere\.invalid'"):
        await whimbrel.connect("nowhere.invalid", 443, alpn="test", verify=certificates.ca)
    for host in ("a" * 300, "spaces in between"):
        with pytest.raises(whimbrel.ConnectFailed):
            await whimbrel.connect(host, 443, alpn="test", verify=certificates.ca)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpn": []}, "alpn must name"),
        ({"alpn": ""}, "alpn must name"),
        ({"alpn": "é"}, "alpn must name"),
        ({"timeout": 0}, "timeout is seconds"),
        ({"idle_timeout": 0, "migration": None}, "idle_timeout"),
    ],
)
async def test_arguments_that_make_no_sense(certificates: Certificates, options: Options, text: str) -> None:
    merged: Options = {"alpn": "test", "verify": certificates.ca, **options}
    with pytest.raises(ValueError, match=text):
        whimbrel.connect("127.0.0.1", 443, **merged)


@pytest.mark.parametrize(("host", "port"), [("", 443), ("127.0.0.1", 0), ("127.0.0.1", 65536)])
async def test_addresses_that_make_no_sense(certificates: Certificates, host: str, port: int) -> None:
    with pytest.raises(ValueError, match="must"):
        whimbrel.connect(host, port, alpn="test", verify=certificates.ca)


async def test_files_that_make_no_sense(certificates: Certificates, tmp_path: Path) -> None:
    async def never(connection: whimbrel.Connection) -> None:
        raise AssertionError

    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ValueError, match="certificate"):
        whimbrel.connect("127.0.0.1", 443, alpn="test", verify=broken)
    with pytest.raises(FileNotFoundError, match="cannot read the private key"):
        whimbrel.serve(never, cert=(certificates.chain, tmp_path / "missing.pem"), alpn="test")
    with pytest.raises(ValueError, match="holds no PEM private key"):
        whimbrel.serve(never, cert=(certificates.chain, certificates.chain), alpn="test")


async def test_a_key_of_another_certificate(certificates: Certificates, issue: Issue) -> None:
    async def never(connection: whimbrel.Connection) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="key"):
        whimbrel.serve(never, cert=(certificates.chain, issue("127.0.0.1").key), alpn="test")


async def test_a_port_in_use(silence: int, certificates: Certificates) -> None:
    async def never(connection: whimbrel.Connection) -> None:
        raise AssertionError

    async with nothing_left():
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{silence}: Address already in use"):
            await whimbrel.serve(never, "127.0.0.1", silence, cert=certificates.pair, alpn="test")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Every name has these addresses."""
    from whimbrel import _client

    async def look_up(self: object) -> list[tuple[str, int]]:
        return list(addresses)

    monkeypatch.setattr(_client._Connect, "_look_up", look_up)
