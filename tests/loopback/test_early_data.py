"""0-RTT: what is sent before the server has answered, taken or refused, and what a server can know of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

import whimbrel
import whimbrel.sync
from tests.loopback.recorder import recorder
from tests.loopback.support import ALPN, Certificates, echo, relay, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from whimbrel import Connection, Limits, SessionStore

    Handler = Callable[[Connection], Awaitable[None]]


def serve(
    certificates: Certificates,
    handler: Handler = echo,
    port: int = 0,
    *,
    early_data: bool = True,
    limits: Limits = whimbrel.Limits(),  # noqa: B008 - frozen
) -> whimbrel._server._Serve:
    return whimbrel.serve(
        handler, "127.0.0.1", port, cert=certificates.pair, alpn=ALPN, early_data=early_data, limits=limits
    )


def dial(
    certificates: Certificates,
    address: tuple[str, int],
    store: SessionStore,
    *,
    early_data: bool = True,
    timeout: float | None = 10.0,
    limits: Limits = whimbrel.Limits(),  # noqa: B008 - frozen
) -> whimbrel._client._Connect:
    return whimbrel.connect(
        *address,
        alpn=ALPN,
        verify=certificates.ca,
        migration=None,
        sessions=store,
        early_data=early_data,
        timeout=timeout,
        limits=limits,
    )


async def say(connection: Connection, data: bytes = b"hello") -> bytes:
    async with await connection.open_stream() as stream:
        await stream.write(data)
        await stream.finish()
        return await stream.read()


async def acquainted(certificates: Certificates, address: tuple[str, int]) -> SessionStore:
    """A store with tickets of that server, whose handler echoes."""
    store = whimbrel.SessionStore()
    async with dial(certificates, address, store) as connection:
        assert await say(connection) == b"hello"
    return store


@contextlib.asynccontextmanager
async def forgetful(
    certificates: Certificates, handler: Handler = echo
) -> AsyncIterator[tuple[tuple[str, int], SessionStore]]:
    """A server that was started anew since the store knows it: it refuses all that comes early."""
    async with serve(certificates) as before:
        address = before.addresses[0]
        store = await acquainted(certificates, address)
    async with serve(certificates, handler, address[1]):
        yield address, store


async def test_it_needs_a_store() -> None:
    with pytest.raises(ValueError, match="sessions="):
        whimbrel.connect("127.0.0.1", 443, alpn=ALPN, early_data=True)


async def test_without_a_ticket_the_handshake_is_awaited(certificates: Certificates) -> None:
    store = whimbrel.SessionStore()
    async with serve(certificates) as server, dial(certificates, server.addresses[0], store) as connection:
        assert not connection.session_reused
        await connection.wait_handshake()  # Complete already.
        assert await say(connection) == b"hello"
        assert connection.early_data_accepted is None


async def test_data_arrive_before_the_handshake_is_complete(certificates: Certificates) -> None:
    heard: list[tuple[bytes, bool]] = []
    proven: list[asyncio.Task[None]] = []

    async def handler(connection: Connection) -> None:
        proven.append(asyncio.create_task(connection.wait_handshake()))
        async for stream in connection.streams():
            assert isinstance(stream, whimbrel.Stream)
            async with stream:
                heard.append((await stream.read(), stream.early))
                await stream.write(heard[-1][0])

    async with serve(certificates, handler) as server, recorder(server) as between:
        store = await acquainted(certificates, between.address)
        await between.begin(server)
        between.hold_replies = True
        async with dial(certificates, between.address, store) as connection:
            # Nothing of the server's has come yet: all this is the ticket's.
            assert (connection.alpn, connection.early_data_accepted) == (ALPN, None)
            assert connection.peer_certificate is not None
            assert await say(connection, b"early") == b"early"
            await connection.wait_handshake()
            assert connection.early_data_accepted is True
            assert connection.session_reused
            # The server does not know yet that it is us.
            assert [task.done() for task in proven] == [True, False]
            between.release()
            assert await say(connection, b"late") == b"late"
            await proven[1]
    assert heard == [(b"hello", False), (b"early", True), (b"late", False)]


async def test_the_handshake_takes_no_round_trip_from_the_data(certificates: Certificates) -> None:
    async with serve(certificates) as server, recorder(server) as between:
        store = await acquainted(certificates, between.address)
        await between.begin(server)
        async with dial(certificates, between.address, store) as connection:
            await say(connection, b"x" * 5000)
    senders = [sender for sender, _ in between.carried]
    before = [datagram for _, datagram in between.carried[: senders.index("server")]]
    # RFC 9000 §17.2.3: a long header of type 0x1 is a 0-RTT packet; the bit beside may be greased (RFC 9287).
    assert any(datagram[0] & 0xB0 == 0x90 for datagram in before)


async def test_a_refusal_is_not_noticed_by_streams(certificates: Certificates) -> None:
    async with forgetful(certificates) as (address, store), dial(certificates, address, store) as connection:
        streams = [await connection.open_stream() for _ in range(5)]
        for number, stream in enumerate(streams):
            await stream.write(b"%d" % number * 10_000)
        for stream in streams:
            await stream.finish()
        for number, stream in enumerate(streams):
            assert await stream.read() == b"%d" % number * 10_000
        assert connection.early_data_accepted is False
        assert not connection.session_reused
        assert await say(connection, b"afterwards") == b"afterwards"


async def test_a_refusal_of_a_stream_that_goes_on(certificates: Certificates) -> None:
    async with forgetful(certificates) as (address, store), dial(certificates, address, store) as connection:
        stream = await connection.open_stream()
        await stream.write(b"before ")
        await connection.wait_handshake()
        assert connection.early_data_accepted is False
        await stream.write(b"and after")
        await stream.finish()
        assert await stream.read() == b"before and after"


async def test_more_is_written_early_than_a_server_takes_at_once(certificates: Certificates) -> None:
    # The windows of the server that refuses are smaller than those that its predecessor gave.
    data = bytes(range(256)) * 2000
    async with serve(certificates) as before:
        address = before.addresses[0]
        store = await acquainted(certificates, address)
    small = whimbrel.Limits(stream_window=50_000, connection_window=8 << 20, max_streams=2)
    async with (
        serve(certificates, port=address[1], limits=small),
        dial(certificates, address, store) as connection,
        asyncio.TaskGroup() as tasks,
    ):
        # Opened while the old limits are believed in, so that all of it is early.
        streams = [await connection.open_stream() for _ in range(6)]
        for stream in streams:
            await stream.write(data[:60_000])

        async def talk(stream: whimbrel.Stream) -> None:
            async with stream:
                writing = asyncio.create_task(rest(stream))
                assert await stream.read() == data
                await writing

        async def rest(stream: whimbrel.Stream) -> None:
            await stream.write(data[60_000:])
            await stream.finish()

        for stream in streams:
            tasks.create_task(talk(stream))
        late = tasks.create_task(say(connection))
    assert await late == b"hello"


async def test_what_was_given_up_early_stays_so_after_a_refusal(certificates: Certificates) -> None:
    async def handler(connection: Connection) -> None:
        async for stream in connection.streams():
            if isinstance(stream, whimbrel.Stream):
                with contextlib.suppress(whimbrel.StreamReset):
                    async with stream:
                        await stream.write(await stream.read())

    async with forgetful(certificates, handler) as (address, store), dial(certificates, address, store) as connection:
        gone = await connection.open_stream()
        await gone.write(b"never mind")
        gone.reset(7)
        gone.stop(7)
        one_way = await connection.open_send_stream()
        one_way.reset(7)
        # The IDs of the later ones depend on the earlier.
        assert await say(connection) == b"hello"
        assert connection.early_data_accepted is False


async def test_what_was_given_up_early_stays_so_when_it_is_taken(certificates: Certificates) -> None:
    codes: list[int] = []

    async def handler(connection: Connection) -> None:
        async for stream in connection.streams():
            assert isinstance(stream, whimbrel.Stream)
            try:
                async with stream:
                    await stream.write(await stream.read())
            except whimbrel.StreamReset as error:
                codes.append(error.code)

    async with serve(certificates, handler) as server:
        store = await acquainted(certificates, server.addresses[0])
        async with dial(certificates, server.addresses[0], store) as connection:
            gone = await connection.open_stream()
            await gone.write(b"never mind")
            gone.reset(7)
            gone.stop(7)
            assert await say(connection) == b"hello"
            assert connection.early_data_accepted is True
    assert codes == [7]


async def test_a_server_that_does_not_want_it_is_spared(certificates: Certificates) -> None:
    async with serve(certificates, early_data=False) as server:
        store = await acquainted(certificates, server.addresses[0])
        async with dial(certificates, server.addresses[0], store) as connection:
            # Its tickets do not allow it, so nothing went early; they do resume.
            assert connection.session_reused
            assert connection.early_data_accepted is None
            assert await say(connection) == b"hello"


async def test_a_client_that_does_not_want_it_is_spared(certificates: Certificates) -> None:
    async with serve(certificates) as server:
        store = await acquainted(certificates, server.addresses[0])
        async with dial(certificates, server.addresses[0], store, early_data=False) as connection:
            assert connection.session_reused
            assert connection.early_data_accepted is None
            assert await say(connection) == b"hello"


async def test_a_replay_is_not_taken(certificates: Certificates) -> None:
    """Somebody records the first packets of a client and sends them once more, from elsewhere."""
    heard: list[bytes] = []

    async def handler(connection: Connection) -> None:
        async for stream in connection.streams():
            assert isinstance(stream, whimbrel.Stream)
            async with stream:
                heard.append(await stream.read())
                await stream.write(heard[-1])

    async with serve(certificates, handler) as server, recorder(server) as between:
        store = await acquainted(certificates, between.address)
        await between.begin(server)
        async with dial(certificates, between.address, store) as connection:
            assert await say(connection, b"pay 100") == b"pay 100"
        recorded = between.of_client()
        async with recorder(server) as thief:
            # As long as the server remembers that connection, copies of its packets are of no use at all.
            while not thief.carried:
                for datagram in recorded:
                    thief.send(datagram)
                await asyncio.sleep(0.01)
            # The server has taken the copy for a newcomer, and answers with a handshake that nobody can complete.
            async with dial(certificates, server.addresses[0], store) as other:
                assert await say(other) == b"hello"
    assert heard == [b"hello", b"pay 100", b"hello"]


async def test_a_server_that_is_gone_is_noticed_in_time(certificates: Certificates) -> None:
    async with serve(certificates) as server, relay(server) as between:
        store = await acquainted(certificates, between.address)
        between.silent = True
        async with dial(certificates, between.address, store, timeout=0.2) as connection:
            stream = await connection.open_stream()
            await stream.write(b"is anybody there?")
            with pytest.raises(whimbrel.ConnectTimeout, match=r"no answer within 0\.2 s"):
                await stream.read()
            with pytest.raises(whimbrel.ConnectTimeout):
                await connection.wait_handshake()


async def test_a_server_of_somebody_else_is_not_believed(
    certificates: Certificates, issue: Callable[..., Certificates]
) -> None:
    async with (
        serve(certificates) as before,
        serve(issue("127.0.0.1")) as other,
        recorder(before) as between,
    ):
        store = await acquainted(certificates, between.address)
        await between.begin(other)
        async with dial(certificates, between.address, store) as connection:
            stream = await connection.open_stream()
            await stream.write(b"a secret for the old one")
            with pytest.raises(whimbrel.CertificateError, match="not trusted"):
                await stream.read()


async def test_datagrams_go_early_too(certificates: Certificates) -> None:
    async def handler(connection: Connection) -> None:
        with contextlib.suppress(whimbrel.ConnectionClosed):
            while True:
                connection.send_datagram(await connection.receive_datagram())

    async with serve(certificates, handler) as server:
        store = whimbrel.SessionStore()
        async with dial(certificates, server.addresses[0], store) as connection:
            connection.send_datagram(b"first")
            assert await connection.receive_datagram() == b"first"
        async with dial(certificates, server.addresses[0], store) as connection:
            connection.send_datagram(b"early")
            assert await connection.receive_datagram() == b"early"
            assert connection.early_data_accepted is True


async def test_early_data_go_again_after_a_retry(certificates: Certificates) -> None:
    async with whimbrel.serve(
        echo, ["127.0.0.1", "::1"], cert=certificates.pair, alpn=ALPN, early_data=True, retry="always"
    ) as server:
        port = server.addresses[0][1]
        store = whimbrel.SessionStore()

        def dial_from(host: str) -> whimbrel._client._Connect:
            return whimbrel.connect(
                host,
                port,
                server_hostname="localhost",
                alpn=ALPN,
                verify=certificates.ca,
                migration=None,
                sessions=store,
                early_data=True,
            )

        async with dial_from("127.0.0.1") as connection:
            assert await say(connection) == b"hello"
        # The ticket is for the name; the token is for an address that we do not come from now.
        async with dial_from("::1") as connection:
            assert await say(connection, b"x" * 30_000) == b"x" * 30_000
            assert connection.early_data_accepted is True
        assert server.stats().retried == 2


async def test_of_several_addresses_only_one_that_answered_before_is_trusted_with_early_data(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(certificates) as server:
        port = server.addresses[0][1]
        # An address that leads nowhere comes first, as for a name whose IPv6 is broken.
        found = [("127.0.0.2", port), ("127.0.0.1", port)]

        async def resolve(host: str, port: int) -> list[tuple[str, int]]:
            return found

        monkeypatch.setattr("whimbrel._client.resolve", resolve)
        store = whimbrel.SessionStore()
        for expected in (None, True):
            async with whimbrel.connect(
                "several.example",
                port,
                server_hostname="localhost",
                alpn=ALPN,
                verify=certificates.ca,
                migration=None,
                sessions=store,
                early_data=True,
            ) as connection:
                assert await say(connection) == b"hello"
                await connection.wait_handshake()
                assert connection.early_data_accepted is expected


def test_threads_send_early_too(certificates: Certificates) -> None:
    heard: list[tuple[bytes, bool]] = []

    def handler(connection: whimbrel.sync.Connection) -> None:
        for stream in connection.streams():
            assert isinstance(stream, whimbrel.sync.Stream)
            with stream:
                heard.append((stream.readall(), stream.early))
                stream.write(heard[-1][0])

    def say_so(connection: whimbrel.sync.Connection, data: bytes) -> bytes:
        with connection.open_stream() as stream:
            stream.write(data)
            stream.finish()
            return stream.readall()

    def serve_by_threads(port: int = 0) -> whimbrel.sync.Server:
        return whimbrel.sync.serve(handler, "127.0.0.1", port, cert=certificates.pair, alpn=ALPN, early_data=True)

    store = whimbrel.SessionStore()

    def dial_by_thread(address: tuple[str, int]) -> whimbrel.sync.Connection:
        return whimbrel.sync.connect(
            *address, alpn=ALPN, verify=certificates.ca, migration=None, sessions=store, early_data=True
        )

    with serve_by_threads() as server:
        address = server.addresses[0]
        for expected in (None, True):
            with dial_by_thread(address) as connection:
                assert say_so(connection, b"hello") == b"hello"
                connection.wait_handshake(timeout=10)
                assert connection.early_data_accepted is expected
    with serve_by_threads(address[1]), dial_by_thread(address) as connection:
        assert say_so(connection, b"again") == b"again"
        assert connection.early_data_accepted is False
    assert [data for data, _ in heard] == [b"hello", b"hello", b"again"]
    assert not heard[0][1]
    assert not heard[2][1]


def test_threads_notice_a_server_that_is_gone(certificates: Certificates) -> None:
    store = whimbrel.SessionStore()

    def handler(connection: whimbrel.sync.Connection) -> None:
        connection.wait_closed()

    with whimbrel.sync.serve(handler, "127.0.0.1", cert=certificates.pair, alpn=ALPN, early_data=True) as server:
        address = server.addresses[0]
        with whimbrel.sync.connect(
            *address, alpn=ALPN, verify=certificates.ca, migration=None, sessions=store
        ) as connection:
            connection.open_stream().write(b"to have waited for the ticket")
            while not len(store):
                connection.stats()
    # Nobody answers there, and the kernel does not say so either.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(address)
        with whimbrel.sync.connect(
            *address, alpn=ALPN, verify=certificates.ca, migration=None, sessions=store, early_data=True, timeout=0.2
        ) as connection:
            began = time.monotonic()
            with pytest.raises(whimbrel.ConnectTimeout, match=r"within 0\.2 s"):
                connection.accept_stream(timeout=10)
            assert time.monotonic() - began < 5


@pytest.mark.parametrize("taken", [True, False])
async def test_early_data_survive_the_loss_of_the_first_packets(certificates: Certificates, *, taken: bool) -> None:
    async with serve(certificates) as before, serve(certificates) as other, recorder(before) as between:
        store = await acquainted(certificates, between.address)
        await between.begin(before if taken else other)
        between.silent = True
        async with dial(certificates, between.address, store) as connection:
            stream = await connection.open_stream()
            await stream.write(b"x" * 30_000)
            await stream.finish()
            await until(lambda: len(between.carried) > 3)
            between.silent = False
            assert await stream.read() == b"x" * 30_000
            assert connection.early_data_accepted is taken


async def test_early_connections_follow_the_network_like_others(certificates: Certificates) -> None:
    async with serve(certificates) as server, recorder(server) as between:
        store = await acquainted(certificates, between.address)
        async with whimbrel.connect(
            *between.address, alpn=ALPN, verify=certificates.ca, sessions=store, early_data=True
        ) as connection:
            with pytest.raises(whimbrel.NoAnswer):
                # It has to wait for the handshake (RFC 9000 §9), whatever else there is to say.
                await connection.migrate(timeout=0)
            assert await say(connection) == b"hello"
            assert connection.early_data_accepted is True
            path = await connection.migrate(timeout=5)
            assert path.interface == "lo"
            assert await say(connection) == b"hello"


async def test_who_gives_up_a_move_leaves_that_of_another_task_alone(certificates: Certificates) -> None:
    async with serve(certificates) as server, recorder(server) as between:
        store = await acquainted(certificates, between.address)
        async with whimbrel.connect(
            *between.address, alpn=ALPN, verify=certificates.ca, sessions=store, early_data=True
        ) as connection:
            first = asyncio.create_task(connection.migrate())  # Nothing is decided before the handshake is complete.
            await asyncio.sleep(0)
            with pytest.raises(whimbrel.NoAnswer):
                await connection.migrate(timeout=0)
            assert await say(connection) == b"hello"
            assert (await asyncio.wait_for(first, 10)).interface == "lo"


async def test_a_move_ends_with_the_connection(certificates: Certificates) -> None:
    async with serve(certificates) as server, recorder(server) as between:
        store = await acquainted(certificates, between.address)
        async with whimbrel.connect(
            *between.address, alpn=ALPN, verify=certificates.ca, sessions=store, early_data=True
        ) as connection:
            moving = asyncio.create_task(connection.migrate())
            await asyncio.sleep(0)
            await connection.close()
            with pytest.raises(whimbrel.ConnectionClosed):
                await asyncio.wait_for(moving, 10)
