"""A client and a server whole: streams, datagrams, and how a connection ends."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os

import pytest

import whimbrel
from tests.loopback.support import Certificates, dial, echo_server, pair, relay, turns


async def test_a_stream_comes_back_as_it_was_sent(certificates: Certificates, host: str) -> None:
    async with (
        echo_server(certificates, host) as server,
        dial(server, certificates) as connection,
        await connection.open_stream() as stream,
    ):
        await stream.write(b"hello, ")
        await stream.write(bytearray(b"world"))
        await stream.finish()
        assert await stream.read() == b"hello, world"
        assert await stream.read() == b""


async def test_bulk_goes_both_ways_at_once(certificates: Certificates, host: str) -> None:
    up, down = os.urandom(24 << 20), os.urandom(24 << 20)
    async with pair(certificates, host) as (client, server):
        ours, theirs = await client.open_stream(), None

        async def send(stream: whimbrel.Stream, data: bytes) -> None:
            await stream.write(data)
            await stream.finish()

        async def receive(stream: whimbrel.Stream) -> str:
            digest = hashlib.sha256()
            async for chunk in stream:
                digest.update(chunk)
            return digest.hexdigest()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send(ours, up))
            theirs = await server.accept_stream()
            assert isinstance(theirs, whimbrel.Stream)
            tasks.create_task(send(theirs, down))
            at_server, at_client = tasks.create_task(receive(theirs)), tasks.create_task(receive(ours))
        assert at_server.result() == hashlib.sha256(up).hexdigest()
        assert at_client.result() == hashlib.sha256(down).hexdigest()
        assert ours.bytes_written == len(up)


async def test_more_streams_than_the_peer_allows_wait_for_their_turn(certificates: Certificates) -> None:
    limits = whimbrel.Limits(max_streams=8)

    async def ask(connection: whimbrel.Connection, number: int) -> None:
        async with await connection.open_stream() as stream:
            await stream.write(b"%d" % number)
            await stream.finish()
            assert await stream.read() == b"%d" % number

    async def answer(connection: whimbrel.Connection) -> None:
        async with asyncio.TaskGroup() as answers:
            async for stream in connection.streams():
                assert isinstance(stream, whimbrel.Stream)
                answers.create_task(send_back(stream))

    async def send_back(stream: whimbrel.Stream) -> None:
        async with stream:
            await stream.write(await stream.read())

    async with (
        whimbrel.serve(answer, "127.0.0.1", cert=certificates.pair, alpn="test", limits=limits) as server,
        dial(server, certificates) as connection,
        asyncio.TaskGroup() as asks,
    ):
        for number in range(200):
            asks.create_task(ask(connection, number))


async def test_streams_of_one_direction(certificates: Certificates, host: str) -> None:
    async with pair(certificates, host) as (client, server):
        for here, there in ((client, server), (server, client)):
            async with await here.open_send_stream() as sending:
                await sending.write(b"one way")
                assert not hasattr(sending, "read")
            receiving = await there.accept_stream()
            assert not isinstance(receiving, whimbrel.Stream)
            assert receiving.id == sending.id
            assert await receiving.read() == b"one way"


async def test_a_connection_says_what_it_is(certificates: Certificates, host: str) -> None:
    async with pair(certificates, host, alpn=["other", "test"]) as (client, server):
        assert client.alpn == server.alpn == "test"
        assert client.is_client
        assert not server.is_client
        assert client.peer_certificate is not None
        assert server.peer_certificate is None
        path = client.path
        assert path.local[0] == path.remote[0] == host
        assert path.local[1] == server.path.remote[1]
        assert path.interface == "lo"
        assert path.validated
        assert path.rtt > 0
        stats = client.stats()
        assert stats.bytes_sent > 1200
        assert stats.datagrams_received > 0
        assert stats.moves == 0


async def test_nobody_moves_a_connection_that_stays(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        for end in (client, server):
            with pytest.raises(whimbrel.MigrationDisabled):
                await end.migrate()


async def test_path_changes_end_with_the_connection(certificates: Certificates) -> None:
    async with pair(certificates) as (client, _):
        changes = client.path_changes()
        waiting = asyncio.create_task(anext(changes, None))
        await turns()
        assert not waiting.done()
        await client.close()
        assert await waiting is None
        assert [change async for change in client.path_changes()] == []


async def test_datagrams_cross(certificates: Certificates, host: str) -> None:
    async with pair(certificates, host) as (client, server):
        assert client.max_datagram_size > 1000
        waiting = asyncio.create_task(server.receive_datagram())
        await turns()
        client.send_datagram(b"ping")
        assert await waiting == b"ping"
        server.send_datagram(memoryview(b"pong"))
        assert await client.receive_datagram() == b"pong"
        with pytest.raises(whimbrel.DatagramTooLarge, match="70000 bytes is larger than"):
            client.send_datagram(bytes(70_000))


async def test_a_clean_close_ends_iteration_quietly(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        accepting = asyncio.create_task(server.accept_stream())
        await turns()
        await client.close()
        assert [stream async for stream in server.streams()] == []
        with pytest.raises(whimbrel.ConnectionClosed) as caught:
            await accepting
        error = caught.value
        assert (error.code, error.by_peer, error.is_application) == (0, True, True)
        assert isinstance(error, ConnectionError)


async def test_a_close_with_a_code_is_an_error_for_all_who_wait(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        stream = await client.open_stream()
        await stream.write(b"x")
        waiting = [
            asyncio.create_task(wait)  # type: ignore[arg-type]
            for wait in (stream.read(), client.accept_stream(), client.receive_datagram(), anext(client.streams()))
        ]
        await turns()
        await server.close(7, "enough")
        for task in waiting:
            with pytest.raises(whimbrel.ConnectionClosed, match=r"the peer closed.*code 7 \(enough\)") as caught:
                await task
            assert (caught.value.code, caught.value.reason) == (7, "enough")
        with pytest.raises(whimbrel.ConnectionClosed):
            await client.open_stream()
        with pytest.raises(whimbrel.ConnectionClosed):
            await stream.write(b"more")
        await client.wait_closed()


async def test_what_came_before_the_close_can_still_be_read(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        async with await server.open_stream() as stream:
            await stream.write(b"last words")
        await server.close(3)
        await client.wait_closed()
        late = await client.accept_stream()
        assert await late.read() == b"last words"


async def test_close_waits_until_finished_streams_have_arrived(certificates: Certificates) -> None:
    data = os.urandom(4 << 20)
    async with pair(certificates) as (client, server):
        stream = await client.open_send_stream()
        await stream.write(data)
        await stream.finish()
        closing = asyncio.create_task(client.close())
        received = await server.accept_stream()
        assert await received.read() == data
        await closing
        await client.close()


async def test_close_waits_no_longer_than_it_should(certificates: Certificates) -> None:
    async with echo_server(certificates) as server, relay(server) as between:
        connection = await whimbrel.connect(*between.address, alpn="test", verify=certificates.ca, migration=None)
        stream = await connection.open_stream()
        between.silent = True
        await stream.write(b"nobody hears this")
        await stream.finish()
        async with asyncio.timeout(5):
            await connection.close(linger=0.1)


async def test_leaving_with_an_exception_tells_the_peer(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        with pytest.raises(ZeroDivisionError):
            async with client:
                raise ZeroDivisionError
        with pytest.raises(whimbrel.ConnectionClosed) as caught:
            await server.accept_stream()
        assert caught.value.code == 1


async def test_a_failing_handler_ends_its_own_connection_only(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(connection: whimbrel.Connection) -> None:
        stream = await connection.accept_stream()
        assert isinstance(stream, whimbrel.Stream)
        if await stream.readline() == b"fail\n":
            raise ZeroDivisionError("on purpose")
        await stream.write(b"fine")
        await stream.finish()
        await connection.wait_closed()

    async with (
        whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn="test") as server,
        dial(server, certificates) as good,
        dial(server, certificates) as bad,
    ):
        stream = await bad.open_stream()
        with caplog.at_level(logging.ERROR, "whimbrel"):
            await stream.write(b"fail\n")
            with pytest.raises(whimbrel.ConnectionClosed) as caught:
                await stream.read()
        assert caught.value.code == 1
        assert "on purpose" in caplog.text
        assert f"127.0.0.1:{bad.path.local[1]}" in caplog.text
        async with await good.open_stream() as stream:
            await stream.write(b"work\n")
            assert await stream.read() == b"fine"
        assert len(server.connections) == 1


async def test_a_silent_peer_is_lost_after_the_idle_timeout(certificates: Certificates) -> None:
    async with echo_server(certificates) as server, relay(server) as between:
        host, port = between.address
        async with whimbrel.connect(
            host, port, alpn="test", verify=certificates.ca, migration=None, idle_timeout=0.3
        ) as connection:
            between.silent = True
            with pytest.raises(whimbrel.IdleTimeout) as caught:
                await connection.accept_stream()
            assert isinstance(caught.value, TimeoutError)
            assert f"{host}:{port}" in str(caught.value)


async def test_the_server_closes_those_who_stay(certificates: Certificates) -> None:
    async with echo_server(certificates) as server, dial(server, certificates) as connection:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve_forever())
            await turns()
            assert not serving.done()
            await server.close()
            await server.close()
        await connection.wait_closed()
        assert [stream async for stream in connection.streams()] == []


async def test_a_draining_server_lets_the_work_finish(certificates: Certificates) -> None:
    began = asyncio.Event()

    async def handler(connection: whimbrel.Connection) -> None:
        stream = await connection.accept_stream()
        began.set()
        assert isinstance(stream, whimbrel.Stream)
        async with stream:
            await stream.write(await stream.read())
        await connection.wait_closed()

    async with (
        whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn="test") as server,
        dial(server, certificates) as connection,
    ):
        stream = await connection.open_stream()
        await stream.write(b"begun, ")
        await began.wait()
        closing = asyncio.create_task(server.close(drain=10))
        await turns()
        with pytest.raises(whimbrel.WhimbrelError):
            async with dial(server, certificates, timeout=5) as late:
                await late.accept_stream()
        await stream.write(b"and done")
        await stream.finish()
        assert await stream.read() == b"begun, and done"
        await connection.close()
        await closing


async def test_a_server_on_all_addresses_has_one_port(certificates: Certificates) -> None:
    async with whimbrel.serve(_nothing, cert=certificates.pair, alpn="test") as server:
        (first, port), (second, same) = server.addresses
        assert {first, second} == {"0.0.0.0", "::"}
        assert port == same
        for host in ("127.0.0.1", "::1", "localhost"):
            async with whimbrel.connect(host, port, alpn="test", verify=certificates.ca, migration=None) as connection:
                assert connection.path.remote[1] == port


async def test_client_certificates_are_asked_for_and_verified(certificates: Certificates) -> None:
    seen: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def handler(connection: whimbrel.Connection) -> None:
        seen.put_nowait(connection.peer_certificate)
        await connection.wait_closed()

    async with whimbrel.serve(
        handler, "127.0.0.1", cert=certificates.pair, alpn="test", client_ca=certificates.ca
    ) as server:
        async with dial(server, certificates, cert=certificates.pair) as connection:
            assert await seen.get() == connection.peer_certificate
        # TLS 1.3: the client's handshake is complete before the server has seen its certificate.
        with pytest.raises((whimbrel.ConnectionClosed, whimbrel.HandshakeFailed), match="certificate_required"):
            async with dial(server, certificates) as connection:
                await connection.accept_stream()


async def _nothing(connection: whimbrel.Connection) -> None:
    await connection.wait_closed()
