"""Sessions that go on where an earlier connection stopped, and those that must not."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypedDict, Unpack

import pytest

import whimbrel
from tests.loopback.support import ALPN, Certificates, echo, echo_server, relay

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from whimbrel import Connection, Server

    Issue = Callable[..., Certificates]


class Options(TypedDict, total=False):
    """Of `connect`, as far as these tests vary them."""

    alpn: str
    verify: bool | Path
    cert: tuple[Path, Path]
    server_hostname: str


def dial(
    server: Server,
    certificates: Certificates,
    store: whimbrel.SessionStore | None,
    **options: Unpack[Options],
) -> whimbrel._client._Connect:
    options.setdefault("alpn", ALPN)
    options.setdefault("verify", certificates.ca)
    return whimbrel.connect(*server.addresses[0], migration=None, sessions=store, **options)


async def say(connection: Connection, data: bytes = b"hello") -> bytes:
    """What the echo server answers. By then the client has the server's tickets."""
    async with await connection.open_stream() as stream:
        await stream.write(data)
        await stream.finish()
        return await stream.read()


async def visit(
    server: Server, certificates: Certificates, store: whimbrel.SessionStore, **options: Unpack[Options]
) -> bool:
    """One connection to an echo server; whether it resumed a session."""
    async with dial(server, certificates, store, **options) as connection:
        assert await say(connection) == b"hello"
        return connection.session_reused


async def test_the_second_connection_resumes(certificates: Certificates) -> None:
    store = whimbrel.SessionStore()
    async with echo_server(certificates) as server:
        assert not await visit(server, certificates, store)
        assert len(store) == 1
        assert await visit(server, certificates, store)
        assert await visit(server, certificates, store)


async def test_without_a_store_nothing_is_resumed(certificates: Certificates) -> None:
    async with echo_server(certificates) as server:
        for _ in range(2):
            async with dial(server, certificates, None) as connection:
                await say(connection)
                assert not connection.session_reused


async def test_both_ends_know(certificates: Certificates) -> None:
    store = whimbrel.SessionStore()
    seen: list[bool] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection.session_reused)
        await echo(connection)

    async with whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn=ALPN) as server:
        for _ in range(2):
            await visit(server, certificates, store)
    assert seen == [False, True]


async def test_a_resumed_session_keeps_the_certificate(certificates: Certificates) -> None:
    store = whimbrel.SessionStore()
    async with echo_server(certificates) as server:
        async with dial(server, certificates, store) as first:
            await say(first)
        async with dial(server, certificates, store) as second:
            assert second.session_reused
            assert second.peer_certificate is not None
            assert second.peer_certificate == first.peer_certificate
            assert second.alpn == ALPN


async def test_a_server_started_anew_is_simply_met_again(certificates: Certificates) -> None:
    store = whimbrel.SessionStore()
    async with echo_server(certificates) as server:
        port = server.addresses[0][1]
        await visit(server, certificates, store)
    async with whimbrel.serve(echo, "127.0.0.1", port, cert=certificates.pair, alpn=ALPN) as again:
        assert not await visit(again, certificates, store)
        assert await visit(again, certificates, store)


async def test_a_ticket_never_serves_who_trusts_others(certificates: Certificates, issue: Issue) -> None:
    store = whimbrel.SessionStore()
    async with echo_server(certificates) as server:
        with pytest.warns(whimbrel.InsecureWarning):
            assert not await visit(server, certificates, store, verify=False)
        # Whoever verifies nothing must not vouch for the server to those who do.
        assert not await visit(server, certificates, store)
        other = issue("127.0.0.1")
        with pytest.raises(whimbrel.CertificateError):
            await visit(server, certificates, store, verify=other.ca)
        assert await visit(server, certificates, store)


async def test_a_ticket_is_for_one_name_one_port_and_one_protocol(certificates: Certificates) -> None:
    store = whimbrel.SessionStore()
    async with (
        whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=[ALPN, "other"]) as server,
        echo_server(certificates) as another,
    ):
        await visit(server, certificates, store)
        assert not await visit(another, certificates, store)
        assert not await visit(server, certificates, store, server_hostname="localhost")
        assert not await visit(server, certificates, store, alpn="other")
        assert await visit(server, certificates, store)


async def test_a_ticket_is_for_one_client_certificate(certificates: Certificates, issue: Issue) -> None:
    store = whimbrel.SessionStore()
    anna, bert = issue("anna"), issue("bert")
    both = anna.ca.parent / "both.pem"
    both.write_bytes(anna.ca.read_bytes() + bert.ca.read_bytes())
    seen: list[bytes | None] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection.peer_certificate)
        await echo(connection)

    async with whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn=ALPN, client_ca=both) as server:
        assert not await visit(server, certificates, store, cert=anna.pair)
        assert not await visit(server, certificates, store, cert=bert.pair)
        assert await visit(server, certificates, store, cert=anna.pair)
    assert seen[0] is not None
    assert seen[0] == seen[2] != seen[1]


async def test_each_ticket_is_used_once(certificates: Certificates) -> None:
    # RFC 8446 §C.4: otherwise somebody on the way sees that two connections are of one client.
    store = whimbrel.SessionStore()
    async with echo_server(certificates) as server, relay(server) as between:
        host, port = between.address

        def dial_there(timeout: float) -> whimbrel._client._Connect:
            return whimbrel.connect(
                host, port, alpn=ALPN, verify=certificates.ca, migration=None, sessions=store, timeout=timeout
            )

        async with dial_there(10) as connection:
            await say(connection)
        assert len(store) == 1
        between.silent = True
        for _ in range(8):
            with pytest.raises(whimbrel.ConnectTimeout):
                await dial_there(0.01)
        assert len(store) == 0
        between.silent = False
        async with dial_there(10) as connection:
            assert not connection.session_reused


async def test_a_store_forgets_when_told(certificates: Certificates) -> None:
    store = whimbrel.SessionStore()
    async with echo_server(certificates) as server:
        await visit(server, certificates, store)
        store.clear()
        assert len(store) == 0
        assert not await visit(server, certificates, store)


def test_a_store_is_empty_in_a_child(certificates: Certificates) -> None:
    store = whimbrel.SessionStore()

    async def fill() -> None:
        async with echo_server(certificates) as server:
            await visit(server, certificates, store)

    asyncio.run(fill())
    assert len(store) == 1
    child = os.fork()
    if child == 0:
        os._exit(len(store))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_store_says_what_it_is() -> None:
    store = whimbrel.SessionStore()
    assert repr(store) == "<SessionStore of 0 servers>"
    assert store  # An empty one is one, too.


async def test_an_address_that_was_proven_is_not_asked_for_proof_again(certificates: Certificates) -> None:
    # NEW_TOKEN, RFC 9000 §8.1.3: it spares the round trip of a Retry.
    store = whimbrel.SessionStore()
    async with whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, retry="always") as server:
        for _ in range(3):
            await visit(server, certificates, store)
        assert server.stats().retried == 1
        async with dial(server, certificates, None) as stranger:
            await say(stranger)
        assert server.stats().retried == 2
