"""Servers that ask clients who they are, and what clients hear whom they do not accept."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

import whimbrel
from tests.loopback.recorder import recorder
from tests.loopback.support import ALPN, Certificates, dial, echo, nothing_left

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from whimbrel import Connection, Server

    Issue = Callable[..., Certificates]


@pytest.fixture(scope="module")
def known(issue: Issue) -> Certificates:
    """The authority whose clients are let in, and one of these."""
    return issue("anna@example.org")


@contextlib.asynccontextmanager
async def strict(certificates: Certificates, known: Certificates) -> AsyncIterator[Server]:
    async with whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, client_ca=known.ca) as server:
        yield server


async def refusal(
    certificates: Certificates, known: Certificates, *, cert: tuple[Path, Path] | None
) -> whimbrel.CertificateError:
    """What dialling a server that wants to know raises; nothing is left of the attempt."""
    async with strict(certificates, known) as server, nothing_left():
        options = {} if cert is None else {"cert": cert}
        with pytest.raises(whimbrel.CertificateError) as caught:
            await dial(server, certificates, **options)  # type: ignore[arg-type]
        assert not server.connections
        assert caught.value.ours
        assert str(server.addresses[0][1]) in str(caught.value)
        return caught.value


def leaf(certificates: Certificates) -> bytes:
    """The first certificate of a chain, DER."""
    import ssl

    text = certificates.chain.read_text()
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[: text.index(end) + len(end)])


async def test_a_client_that_is_known_is_let_in(certificates: Certificates, known: Certificates) -> None:
    seen: list[bytes | None] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection.peer_certificate)
        await echo(connection)

    async with (
        whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn=ALPN, client_ca=known.ca) as server,
        dial(server, certificates, cert=known.pair) as connection,
        await connection.open_stream() as stream,
    ):
        await stream.write(b"it is me")
        await stream.finish()
        assert await stream.read() == b"it is me"
    assert seen == [leaf(known)]


async def test_a_server_that_does_not_ask_is_shown_nothing(certificates: Certificates, known: Certificates) -> None:
    seen: list[bytes | None] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection.peer_certificate)
        await echo(connection)

    async with (
        whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn=ALPN) as server,
        dial(server, certificates, cert=known.pair) as connection,
        await connection.open_stream() as stream,
    ):
        await stream.finish()
        assert await stream.read() == b""
    assert seen == [None]


async def test_a_client_that_shows_none(certificates: Certificates, known: Certificates) -> None:
    error = await refusal(certificates, known, cert=None)
    assert error.reason == "missing"
    assert "asks for a client certificate" in str(error)
    assert "cert=" in str(error)


async def test_a_client_of_another_authority(certificates: Certificates, known: Certificates, issue: Issue) -> None:
    error = await refusal(certificates, known, cert=issue("mallory").pair)
    assert error.reason == "unknown issuer"
    assert "does not trust the issuer of the client certificate" in str(error)


async def test_a_client_whose_certificate_has_expired(certificates: Certificates, tmp_path: Path) -> None:
    authority = trustme.CA()
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    certificate = authority.issue_cert("late@example.org", not_after=yesterday)
    files = Certificates(tmp_path / "ca.pem", tmp_path / "chain.pem", tmp_path / "key.pem")
    authority.cert_pem.write_to_path(files.ca)
    certificate.cert_chain_pems[0].write_to_path(files.chain)
    certificate.private_key_pem.write_to_path(files.key)
    error = await refusal(certificates, files, cert=files.pair)
    assert error.reason == "expired"
    assert "the client certificate has expired" in str(error)
    assert "renew it" in str(error)


async def test_a_refusal_that_comes_after_connect_is_raised_by_the_next_call(
    certificates: Certificates, known: Certificates
) -> None:
    """Early data let a client begin before the server has said what it thinks of it."""
    store = whimbrel.SessionStore()

    def serve(client_ca: Path | None) -> whimbrel._server._Serve:
        return whimbrel.serve(
            echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, client_ca=client_ca, early_data=True
        )

    def dial_early(address: tuple[str, int]) -> whimbrel._client._Connect:
        return whimbrel.connect(
            *address, alpn=ALPN, verify=certificates.ca, migration=None, sessions=store, early_data=True
        )

    async with serve(None) as lenient, serve(known.ca) as strict, recorder(lenient) as between:
        async with dial_early(between.address) as connection, await connection.open_stream() as stream:
            await stream.finish()
            await stream.read()
        await between.begin(strict)
        async with dial_early(between.address) as connection:
            stream = await connection.open_stream()
            with pytest.raises(whimbrel.CertificateError, match="asks for a client certificate"):
                await stream.read()
            with pytest.raises(whimbrel.CertificateError):
                await connection.accept_stream()
            with pytest.raises(whimbrel.CertificateError):
                await stream.write(b"more")


async def test_connect_waits_for_the_verdict_only_where_there_is_one(
    certificates: Certificates, known: Certificates
) -> None:
    async with (
        whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN) as server,
        recorder(server) as between,
    ):
        dialling = asyncio.create_task(_dial_to(between.address, certificates, known))
        between.hold_replies = True
        connection = await dialling  # Though nothing of the handshake's end has reached the server.
        assert not server.connections
        between.release()
        await connection.close()
    async with strict(certificates, known) as server, recorder(server) as between:
        between.hold_replies = True
        dialling = asyncio.create_task(_dial_to(between.address, certificates, known))
        while len(between.of_client()) < 3:  # noqa: ASYNC110 - its part of the handshake, which is held
            await asyncio.sleep(0)
        assert not dialling.done()
        between.release()
        await (await dialling).close()


async def _dial_to(address: tuple[str, int], certificates: Certificates, known: Certificates) -> Connection:
    return await whimbrel.connect(*address, alpn=ALPN, verify=certificates.ca, cert=known.pair, migration=None)


# Files ----------------------------------------------------------------------------------------------------------------


def connect_with(cert: tuple[Path, Path]) -> None:
    whimbrel.connect("127.0.0.1", 443, alpn=ALPN, cert=cert, migration=None)


def serve_with(cert: tuple[Path, Path]) -> None:
    whimbrel.serve(echo, "127.0.0.1", cert=cert, alpn=ALPN)


both_ends = pytest.mark.parametrize("use", [connect_with, serve_with])


@both_ends
def test_a_key_of_another_certificate(use: Callable[..., None], known: Certificates, issue: Issue) -> None:
    other = issue("other")
    with pytest.raises(ValueError, match="not that of the certificate") as caught:
        use((known.chain, other.key))
    assert str(known.chain) in str(caught.value)
    assert str(other.key) in str(caught.value)


@both_ends
def test_chain_and_key_in_the_wrong_order(use: Callable[..., None], known: Certificates) -> None:
    with pytest.raises(ValueError, match="in cert= the chain comes first") as caught:
        use((known.key, known.chain))
    assert str(known.key) in str(caught.value)


@both_ends
def test_a_file_that_is_not_there(use: Callable[..., None], known: Certificates, tmp_path: Path) -> None:
    for pair in [(tmp_path / "none.pem", known.key), (known.chain, tmp_path / "none.pem")]:
        with pytest.raises(FileNotFoundError, match=r"cannot read the .*none\.pem"):
            use(pair)


@both_ends
def test_a_file_that_may_not_be_read(use: Callable[..., None], known: Certificates, tmp_path: Path) -> None:
    # What root may not read either: a folder.
    with pytest.raises(IsADirectoryError, match="cannot read the private key"):
        use((known.chain, tmp_path))
    if os.geteuid() != 0:
        key = tmp_path / "key.pem"
        key.write_bytes(known.key.read_bytes())
        key.chmod(0)
        with pytest.raises(PermissionError, match="cannot read the private key"):
            use((known.chain, key))


@both_ends
def test_files_with_something_else_in_them(use: Callable[..., None], known: Certificates, tmp_path: Path) -> None:
    odd = tmp_path / "odd.pem"
    odd.write_text("hello")
    with pytest.raises(ValueError, match=r"odd\.pem' holds no PEM certificate"):
        use((odd, known.key))
    with pytest.raises(ValueError, match=r"odd\.pem' holds no PEM private key"):
        use((known.chain, odd))
    odd.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ValueError, match=r"odd\.pem' and the private key .* cannot be used together"):
        use((odd, known.key))


@pytest.mark.parametrize("content", ["hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_authorities_that_are_none(certificates: Certificates, tmp_path: Path, content: str) -> None:
    odd = tmp_path / "odd.pem"
    odd.write_text(content)
    with pytest.raises(ValueError, match=r"the CA file .*odd\.pem"):
        whimbrel.connect("127.0.0.1", 443, alpn=ALPN, verify=odd)
    with pytest.raises(ValueError, match=r"the client CA file .*odd\.pem"):
        whimbrel.serve(echo, cert=certificates.pair, alpn=ALPN, client_ca=odd)
