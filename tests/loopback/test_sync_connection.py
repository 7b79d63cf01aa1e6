"""A blocking client and a blocking server whole: streams, datagrams, waiting, failing and ending."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import threading
from socket import if_nametoindex
from typing import TYPE_CHECKING

import pytest

import whimbrel
import whimbrel.sync
from tests.loopback.support import ALPN, SOON, echo_server
from tests.loopback.support import dial as dial_async
from tests.loopback.sync_support import (
    Doing,
    dial,
    listen,
    nothing_left,
    opened,
    pair,
    reading,
    until,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback.support import Certificates
    from whimbrel.sync import Connection, Server


def echo(connection: Connection) -> None:
    """A handler that sends back what comes, stream by stream."""
    for stream in connection.streams():
        assert isinstance(stream, whimbrel.sync.Stream)
        with stream:
            stream.write(stream.read())


def test_a_stream_comes_back_as_it_was_sent(certificates: Certificates, host: str) -> None:
    with listen(echo, certificates, host) as server, dial(server, certificates) as connection:
        for number in range(3):
            with connection.open_stream() as stream:
                stream.write(b"hello, ")
                stream.write(bytearray(b"world %d" % number))
                stream.finish()
                assert stream.read(timeout=SOON) == b"hello, world %d" % number
                assert stream.read() == b""


def test_streams_of_one_direction(certificates: Certificates, host: str) -> None:
    with pair(certificates, host) as (client, server):
        for here, there in ((client, server), (server, client)):
            with here.open_send_stream() as sending:
                sending.write(b"one way")
            receiving = there.accept_stream(timeout=SOON)
            assert not isinstance(receiving, whimbrel.sync.Stream)
            assert receiving.id == sending.id
            assert receiving.read(timeout=SOON) == b"one way"


def test_a_connection_says_what_it_is(certificates: Certificates, host: str) -> None:
    with pair(certificates, host, alpn=["other", ALPN]) as (client, server):
        assert client.alpn == server.alpn == ALPN
        assert (client.is_client, server.is_client) == (True, False)
        assert client.peer_certificate is not None
        assert server.peer_certificate is None
        assert client.path.local[0] == client.path.remote[0] == host
        assert client.path.local[1] == server.path.remote[1]
        assert client.path.interface == "lo"
        assert client.stats().bytes_sent > 1200
        assert repr(client).startswith("<Connection to ")


def test_datagrams_cross(certificates: Certificates, host: str) -> None:
    with pair(certificates, host) as (client, server):
        assert client.max_datagram_size > 1000
        receiving = waiting(server, lambda: server.receive_datagram(timeout=SOON))
        client.send_datagram(b"ping")
        assert receiving.result() == b"ping"
        server.send_datagram(memoryview(b"pong"))
        assert client.receive_datagram(timeout=SOON) == b"pong"
        with pytest.raises(whimbrel.DatagramTooLarge):
            client.send_datagram(bytes(10_000))


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_every_wait_may_have_a_limit(certificates: Certificates, timeout: float) -> None:
    limits = whimbrel.Limits(max_streams=1)
    with pair(certificates, server_limits=limits) as (client, server):
        here, there = opened((client, server))
        one_way = client.open_send_stream(timeout=SOON)
        changes, streams = client.path_changes(timeout=timeout), server.streams(timeout=timeout)
        calls: list[Callable[[], object]] = [
            lambda: client.open_stream(timeout=timeout),
            lambda: client.open_send_stream(timeout=timeout),
            lambda: server.accept_stream(timeout=timeout),
            lambda: client.receive_datagram(timeout=timeout),
            lambda: client.wait_closed(timeout=timeout),
            lambda: next(changes),
            lambda: next(streams),
        ]
        for call in calls:
            with pytest.raises(TimeoutError, match=f"within {timeout:g} s"):
                call()
        # All of it remains usable.
        one_way.write(b"x")
        assert next(server.streams(timeout=SOON)).id == one_way.id
        next_stream = waiting(client, lambda: client.open_stream(timeout=SOON))
        for end in (here, there):
            end.finish()
        for end in (here, there):
            assert end.read(timeout=SOON) == b""
        assert next_stream.result().id == here.id + 4


def test_a_thread_that_leads_hands_on(certificates: Certificates) -> None:
    """Three threads wait for different things. Whoever leads is done first, then the next one."""
    with pair(certificates) as (client, server):
        pairs = [opened((client, server)) for _ in range(3)]
        readers = [reading(here, lambda here=here: here.read(1)) for here, _ in pairs]  # type: ignore[misc]
        closing = waiting(client, client.wait_closed)
        for reader, (_, there) in zip(readers, pairs, strict=True):
            assert not reader.is_over
            there.write(b"x")
            assert reader.result() == b"x"
        assert not closing.is_over
        server.close()
        closing.result()


# Moving ---------------------------------------------------------------------------------------------------------------


def test_a_new_port_is_followed_and_told(certificates: Certificates) -> None:
    with pair(certificates, migration=whimbrel.Migration()) as (client, server):
        here, there = opened((client, server))
        told = waiting(server, lambda: next(server.path_changes(timeout=SOON)))
        before = client.path.local
        client._core.pin(if_nametoindex("lo"), "127.0.0.1", True)
        here.write(b"from elsewhere")
        assert there.readexactly(14, timeout=SOON) == b"from elsewhere"
        change = told.result()
        assert isinstance(change, whimbrel.PathMigrated)
        assert change.old.remote == before
        assert change.new.remote == client.path.local != before
        there.write(b"found you")
        assert here.readexactly(9, timeout=SOON) == b"found you"


def test_migrate_asks_the_driver(certificates: Certificates) -> None:
    with pair(certificates, migration=whimbrel.Migration()) as (client, server):
        assert client.migrate(timeout=SOON).interface == "lo"  # It is there already.
        with pytest.raises(whimbrel.NoRoute):
            client.migrate(interface="tun7")
        with pytest.raises(whimbrel.MigrationDisabled):
            server.migrate()


def test_path_changes_end_with_the_connection(certificates: Certificates) -> None:
    with pair(certificates) as (client, _):
        changes = client.path_changes()
        all_of_them = waiting(client, lambda: list(changes))
        client.close()
        assert all_of_them.result() == []
        assert list(client.path_changes()) == []


# The end --------------------------------------------------------------------------------------------------------------


def test_closing_ends_all_that_waits_in_other_threads(certificates: Certificates) -> None:
    with pair(certificates) as (client, server):
        here, _ = opened((client, server))
        waits: list[Doing[object]] = [
            reading(here, here.readall),
            waiting(client, client.accept_stream),
            waiting(client, client.receive_datagram),
        ]
        quiet: list[Doing[object]] = [
            waiting(client, lambda: list(client.streams())),
            waiting(client, client.wait_closed),
        ]
        client.close(5, "enough")
        for one in waits:
            with pytest.raises(whimbrel.ConnectionClosed, match="enough") as caught:
                one.result()
            assert (caught.value.code, caught.value.by_peer) == (5, False)
        assert [one.result() for one in quiet] == [[], None]
        server.wait_closed(timeout=SOON)
        with pytest.raises(whimbrel.ConnectionClosed, match="enough") as caught:
            server.accept_stream()
        assert (caught.value.code, caught.value.by_peer) == (5, True)


def test_what_came_before_a_clean_close_can_still_be_read(certificates: Certificates) -> None:
    with pair(certificates) as (client, server):
        here, there = opened((client, server))
        here.write(bytes(100_000))
        here.finish()
        with client.open_stream() as other:
            other.write(b"too")
        client.close()
        assert there.read(timeout=SOON) == bytes(100_000)
        assert [stream.read() for stream in server.streams()] == [b"too"]


def test_leaving_the_block_by_an_exception_says_so(certificates: Certificates) -> None:
    ends: list[Connection] = []
    over = threading.Event()

    def handler(connection: Connection) -> None:
        ends.append(connection)
        connection.wait_closed()
        over.set()

    with listen(handler, certificates) as server:
        connection = dial(server, certificates)
        with pytest.raises(ZeroDivisionError), connection:
            raise ZeroDivisionError
        assert over.wait(SOON)
        with pytest.raises(whimbrel.ConnectionClosed) as caught:
            ends[0].accept_stream()
        assert caught.value.code == 1


def test_a_handler_that_fails_closes_its_own_connection(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(connection: Connection) -> None:
        if connection.receive_datagram() == b"fail":
            raise ZeroDivisionError
        echo(connection)

    with listen(handler, certificates) as server, dial(server, certificates) as good:
        with dial(server, certificates) as bad:
            bad.send_datagram(b"fail")
            with pytest.raises(whimbrel.ConnectionClosed) as caught:
                bad.receive_datagram(timeout=SOON)
            assert (caught.value.code, caught.value.by_peer) == (1, True)
        good.send_datagram(b"go on")
        with good.open_stream() as stream:
            stream.write(b"still here")
            stream.finish()
            assert stream.read(timeout=SOON) == b"still here"
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith("the handler of 127.0.0.1:")


def test_a_server_that_closes(certificates: Certificates) -> None:
    """Its handlers end, those who wait for it as well, and it drains if it is told to."""
    with listen(echo, certificates) as server:
        assert [host for host, _ in server.addresses] == ["127.0.0.1"]
        serving = Doing(server.serve_forever)
        connections = [dial(server, certificates) for _ in range(3)]
        until(lambda: len(server.connections) == len(server._handlers) == 3)
        assert {thread.name.partition(":")[0] for thread in server._handlers} == {"whimbrel 127.0.0.1"}
        assert (server.stats().connections, server.stats().accepted) == (3, 3)
        with pytest.raises(TimeoutError, match=r"0\.01 s"):
            server.serve_forever(timeout=0.01)
        draining = Doing(lambda: server.close(drain=SOON))
        connections.pop().close()
        until(lambda: len(server._handlers) == 2)
        assert not draining.is_over
        for connection in connections:
            connection.close()
        draining.result()
        serving.result()
        assert server.stats().connections == 0
        server.close()
    with pytest.raises(whimbrel.ConnectTimeout):
        dial(server, certificates, timeout=0.2)


def test_a_server_closes_connections_under_its_handlers(certificates: Certificates) -> None:
    with nothing_left(), listen(echo, certificates) as server, dial(server, certificates) as connection:
        until(lambda: len(server._handlers) == 1)
        server.close()
        assert not server._handlers
        with pytest.raises(whimbrel.ConnectionClosed, match="closing"):
            connection.receive_datagram(timeout=SOON)


# Dials that fail ------------------------------------------------------------------------------------------------------


def test_nobody_answers(certificates: Certificates) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole, nothing_left():
        hole.bind(("127.0.0.1", 0))
        with pytest.raises(whimbrel.ConnectTimeout, match=r"no answer within 0\.2 s"):
            whimbrel.sync.connect(*hole.getsockname(), alpn=ALPN, verify=certificates.ca, timeout=0.2)


def test_the_certificate_is_not_good(certificates: Certificates, issue: Callable[..., Certificates]) -> None:
    other = issue("127.0.0.1")
    with listen(echo, certificates) as server, nothing_left():
        with pytest.raises(whimbrel.CertificateError) as caught:
            dial(server, other)
        assert caught.value.reason == "unknown issuer"


def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch, certificates: Certificates) -> None:
    def nobody(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(whimbrel.ConnectFailed, match=r"cannot find 'nowhere\.example': Name or service not known"):
        whimbrel.sync.connect("nowhere.example", 1, alpn=ALPN, verify=certificates.ca)


def test_the_next_address_joins_in(monkeypatch: pytest.MonkeyPatch, certificates: Certificates) -> None:
    """The name's first address is silent."""
    with listen(echo, certificates) as server, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as hole:
        port = server.addresses[0][1]
        hole.bind(("::1", port))
        addresses = [(None, None, None, None, (host, port)) for host in ("::1", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with (
            nothing_left(),
            whimbrel.sync.connect("localhost", port, alpn=ALPN, verify=certificates.ca, migration=None) as connection,
        ):
            assert connection.path.remote == ("127.0.0.1", port)


def test_no_verification_warns_the_caller(certificates: Certificates) -> None:
    with listen(echo, certificates) as server:
        with pytest.warns(whimbrel.InsecureWarning, match="not verified") as caught:
            connection = whimbrel.sync.connect(*server.addresses[0], alpn=ALPN, verify=False, migration=None)
        connection.close()
        assert caught[0].filename == __file__


def test_a_session_goes_on_and_data_may_be_sent_early(certificates: Certificates) -> None:
    """Whether they are is a matter of time: of a busy machine the handshake may be over before."""
    heard: list[bool] = []

    def handler(connection: Connection) -> None:
        for stream in connection.streams():
            assert isinstance(stream, whimbrel.sync.Stream)
            with stream:
                heard.append(stream.early)
                connection.wait_handshake(timeout=SOON)
                stream.write(stream.readall())

    store = whimbrel.SessionStore()

    def visit(server: Server) -> tuple[bool, bool | None]:
        with (
            whimbrel.sync.connect(
                *server.addresses[0], alpn=ALPN, verify=certificates.ca, sessions=store, early_data=True
            ) as connection,
            connection.open_stream() as stream,
        ):
            stream.write(b"hello")
            stream.finish()
            assert stream.read(timeout=SOON) == b"hello"
            connection.wait_handshake(timeout=SOON)
            return connection.session_reused, connection.early_data_accepted

    with whimbrel.sync.serve(handler, "127.0.0.1", cert=certificates.pair, alpn=ALPN, early_data=True) as server:
        assert visit(server) == (False, None)
        assert {visit(server) for _ in range(5)} == {(True, True)}
    assert heard[0] is False


# With the other face --------------------------------------------------------------------------------------------------


async def test_a_blocking_client_and_an_asyncio_server(certificates: Certificates) -> None:
    data = os.urandom(5 << 20)

    def ask(address: tuple[str, int]) -> bytes:
        with (
            whimbrel.sync.connect(*address, alpn=ALPN, verify=certificates.ca) as connection,
            connection.open_stream() as stream,
        ):
            sending = Doing(lambda: (stream.write(data), stream.finish()))  # type: ignore[func-returns-value]
            answer = io.BufferedReader(stream).read()
            sending.result()
            return answer

    async with echo_server(certificates) as server:
        assert await asyncio.to_thread(ask, server.addresses[0]) == data


async def test_an_asyncio_client_and_a_blocking_server(certificates: Certificates) -> None:
    data = os.urandom(5 << 20)
    server: Server = listen(echo, certificates)
    try:
        async with (
            dial_async(server, certificates) as connection,  # type: ignore[arg-type]
            await connection.open_stream() as stream,
        ):
            await stream.write(data)
            await stream.finish()
            assert await stream.read() == data
    finally:
        await asyncio.to_thread(server.close)
