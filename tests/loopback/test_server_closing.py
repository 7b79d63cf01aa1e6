"""How servers and their clients part."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Literal

import pytest

import whimbrel
from tests.loopback.support import ALPN, dial, echo_server, nothing_left, relay, until

if TYPE_CHECKING:
    from tests.loopback.support import Certificates
    from whimbrel import Connection, Server


@pytest.mark.parametrize("sockets", ["wildcard", "connected"])
async def test_clients_are_told_and_closing_is_quick(
    certificates: Certificates, host: str, sockets: Literal["wildcard", "connected"]
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.wait_closed()

    async with nothing_left():
        async with whimbrel.serve(handler, host, cert=certificates.pair, alpn=ALPN, sockets=sockets) as server:
            clients = [await dial(server, certificates) for _ in range(5)]
            await until(lambda: len(server.connections) == 5)
            began = asyncio.get_running_loop().time()
            await server.close()
            # They answered, so that there was nothing to wait for: three probe timeouts are 0.3 s at least.
            assert asyncio.get_running_loop().time() - began < 0.25
        for client in clients:
            await client.wait_closed()
            with pytest.raises(whimbrel.ConnectionClosed):
                await client.accept_stream()


async def test_a_client_that_missed_the_goodbye_is_told_again(certificates: Certificates) -> None:
    async with echo_server(certificates) as server, relay(server) as between:
        client = await whimbrel.connect(*between.address, alpn=ALPN, verify=certificates.ca, migration=None)
        stream = await client.open_stream()
        await stream.write(b"?")
        await stream.readexactly(1)
        between.silent = True
        closing = asyncio.create_task(server.close())
        await until(lambda: server._endpoint.unanswered() == 1)
        assert not closing.done()
        between.silent = False
        await stream.write(b"?")
        await client.wait_closed()
        with pytest.raises(whimbrel.ConnectionClosed) as caught:
            await client.accept_stream()
        assert caught.value.by_peer
        await closing


async def test_a_client_that_is_gone_holds_nobody_up(certificates: Certificates) -> None:
    async with nothing_left(), echo_server(certificates) as server, relay(server) as between:
        client = await whimbrel.connect(*between.address, alpn=ALPN, verify=certificates.ca, migration=None)
        await until(lambda: len(server.connections) == 1)
        between.silent = True
        began = asyncio.get_running_loop().time()
        await server.close()
        assert asyncio.get_running_loop().time() - began < 2
        await client.close()


async def test_closing_twice_at_once_and_again_is_harmless(certificates: Certificates) -> None:
    async with echo_server(certificates) as server, dial(server, certificates) as client:
        await until(lambda: len(server.connections) == 1)
        await asyncio.gather(server.close(), server.close())
        await server.close()
        await client.wait_closed()


async def test_closing_can_be_given_up_in_favour_of_haste(certificates: Certificates) -> None:
    async with nothing_left(), echo_server(certificates) as server, relay(server) as between:
        client = await whimbrel.connect(*between.address, alpn=ALPN, verify=certificates.ca, migration=None)
        await until(lambda: len(server.connections) == 1)
        between.silent = True
        closing = asyncio.create_task(server.close())
        await until(lambda: server._endpoint.unanswered() == 1)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert server._closed
        await client.close()


async def test_what_a_client_says_before_it_goes_at_once_is_heard(certificates: Certificates) -> None:
    """Handshake, data and close are there before the server's loop turns: its guard thread took them in."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        async for stream in connection.streams():
            heard.put_nowait(await stream.read())

    async with whimbrel.serve(handler, "127.0.0.1", cert=certificates.pair, alpn=ALPN) as server:
        client = threading.Thread(target=lambda: asyncio.run(say_and_go(server, certificates)))
        client.start()
        client.join()  # Our loop stands still meanwhile.
        assert await heard.get() == b"all I have to say"
        assert server.stats().handshakes_failed == 0


async def say_and_go(server: Server, certificates: Certificates) -> None:
    async with dial(server, certificates) as client, await client.open_send_stream() as stream:
        await stream.write(b"all I have to say")
