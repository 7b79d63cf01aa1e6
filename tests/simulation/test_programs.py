"""Programs in virtual time: they run as they are."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import pytest

import whimbrel
from tests.simulation.support import CELLULAR, WIFI, add_cellular, add_wifi
from whimbrel import http
from whimbrel._stream_base import SendingHalf

if TYPE_CHECKING:
    from whimbrel.testing import SimulatedNetwork

PORT = 4433


async def echo(connection: whimbrel.Connection) -> None:
    async for stream in connection.streams():
        assert isinstance(stream, whimbrel.Stream)
        await stream.write(await stream.read())
        await stream.finish()


async def ask(connection: whimbrel.Connection, what: bytes) -> bytes:
    async with await connection.open_stream() as stream:
        await stream.write(what)
        await stream.finish()
        return await stream.read()


def test_a_program_takes_virtual_time(network: SimulatedNetwork) -> None:
    add_cellular(network)
    files = network.certificate

    async def program() -> list[float]:
        loop, times = asyncio.get_running_loop(), []
        async with (
            whimbrel.serve(echo, port=PORT, cert=(files.chain, files.key), alpn="echo") as server,
            whimbrel.connect(network.name, PORT, alpn="echo", verify=files.authority, keepalive=30.0) as connection,
        ):
            assert server.addresses[0][1] == PORT
            for _ in range(3):
                begun = loop.time()
                assert await ask(connection, b"hello") == b"hello"
                times.append(loop.time() - begun)
                await asyncio.sleep(3600)
        return times

    begun = time.monotonic()
    times = network.run(program(), horizon=4 * 3600)
    assert times == pytest.approx([2 * CELLULAR] * 3, abs=0.010)
    assert network.now > 3 * 3600
    assert time.monotonic() - begun < 60


def test_writers_who_wait_for_room_are_not_all_woken_for_a_little_of_it(
    network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each acknowledgement makes room for some bytes, and hundreds may wait for it."""
    add_cellular(network)
    files, count, size = network.certificate, 200, 10_000
    limits = whimbrel.Limits(max_streams=count, send_buffer=32 << 10)
    tries = list[int]()
    write = SendingHalf._try_write

    def try_write(half: SendingHalf, data: bytes | memoryview) -> int:
        tries.append(write(half, data))
        return tries[-1]

    async def program() -> list[bytes]:
        async with (
            whimbrel.serve(echo, port=PORT, cert=(files.chain, files.key), alpn="echo", limits=limits),
            whimbrel.connect(network.name, PORT, alpn="echo", verify=files.authority, limits=limits) as connection,
        ):
            monkeypatch.setattr(SendingHalf, "_try_write", try_write)
            what = bytes(size)
            return await asyncio.gather(*(ask(connection, what) for _ in range(count)))

    assert network.run(program()) == [bytes(size)] * count
    refused = tries.count(0)
    assert refused < 8 * (len(tries) - refused)


def test_a_program_is_moved_and_told(network: SimulatedNetwork) -> None:
    wifi, _ = add_wifi(network), add_cellular(network)
    files = network.certificate

    async def program() -> tuple[str | None, str | None]:
        async with (
            whimbrel.serve(echo, port=PORT, cert=(files.chain, files.key), alpn="echo"),
            whimbrel.connect(network.name, PORT, alpn="echo", verify=files.authority) as connection,
        ):
            changes = connection.path_changes()
            network.at(network.now + 1.0, wifi.down)
            moved = await anext(change async for change in changes if isinstance(change, whimbrel.PathMigrated))
            assert await ask(connection, b"still there") == b"still there"
            wifi.up()
            path = await connection.migrate(interface="wlan0")
            return moved.new.interface, path.interface

    assert network.run(program()) == ("wwan0", "wlan0")


def test_connections_of_one_device_are_kept_apart(network: SimulatedNetwork) -> None:
    wifi, _ = add_wifi(network), add_cellular(network)
    files = network.certificate

    async def talk(number: int) -> None:
        async with whimbrel.connect(network.name, PORT, alpn="echo", verify=files.authority) as connection:
            for turn in range(5):
                said = f"{number} {turn}".encode() * 1000
                assert await ask(connection, said) == said
                await asyncio.sleep(0.5)

    async def program() -> None:
        async with whimbrel.serve(echo, port=PORT, cert=(files.chain, files.key), alpn="echo"):
            await asyncio.gather(*(talk(number) for number in range(10)))

    network.at(1.2, wifi.down)
    network.run(program())
    assert len(network.moves) == 10
    assert network.now < 10.0


@pytest.mark.parametrize("ipv6", [False, True])
def test_a_name_leads_to_the_family_that_there_is(network: SimulatedNetwork, ipv6: bool) -> None:
    network.interface("wlan0", ipv4=not ipv6, ipv6=ipv6)
    files = network.certificate

    async def program() -> str:
        async with (
            whimbrel.serve(echo, port=PORT, cert=(files.chain, files.key), alpn="echo"),
            whimbrel.connect(network.name, PORT, alpn="echo", verify=files.authority) as connection,
        ):
            assert await ask(connection, b"x" * 50_000) == b"x" * 50_000
            return connection.path.remote[0]

    assert (":" in network.run(program())) is ipv6


def test_http_works(network: SimulatedNetwork) -> None:
    wifi, _ = add_wifi(network), add_cellular(network)
    files = network.certificate

    async def answer(request: http.Request) -> None:
        await request.respond(200, {}, b"hello " * 50_000)

    async def program() -> int:
        async with (
            http.serve(answer, port=443, cert=(files.chain, files.key)),
            http.connect(f"https://{network.name}/", verify=files.authority) as client,
        ):
            response = await client.request("GET", "/")
            return len(await response.read())

    network.at(0.2, wifi.down)
    assert network.run(program()) == 300_000
    assert [move.new.interface for move in network.moves] == ["wwan0"]


def test_a_move_of_http_brings_enough_for_two_challenges_and_no_more(network: SimulatedNetwork) -> None:
    interfaces = add_wifi(network), add_cellular(network)
    files = network.certificate

    async def answer(request: http.Request) -> None:
        await request.respond(200, {}, b"hello")

    async def program() -> None:
        async with (
            http.serve(answer, port=443, cert=(files.chain, files.key)),
            http.connect(f"https://{network.name}/", verify=files.authority) as client,
        ):
            for interface in ("wwan0", "wlan0", "wwan0"):
                await client.request("GET", "/")
                await asyncio.sleep(10.0)  # In which the search for a larger MTU ends, and new connection IDs come.
                await client.connection.migrate(interface=interface)
            assert await (await client.request("GET", "/")).read() == b"hello"

    network.run(program())
    packets = sorted((packet for each in interfaces for packet in each.packets), key=lambda packet: packet.time)
    assert len(network.moves) == 3
    for move in network.moves:
        after = [packet for packet in packets if move.new.local in (packet.source, packet.destination)]
        first_flight = [packet.length for packet in after if packet.time - after[0].time < WIFI]
        assert 800 <= sum(first_flight) < 1000


def test_padding_stays_whole_where_there_is_little_room(network: SimulatedNetwork) -> None:
    add_wifi(network)
    add_cellular(network)
    files = network.certificate
    padding, own = b"[" + b"p" * 784 + b"]", b"(" + b"o" * 1498 + b")"
    received, finished = b"", asyncio.Event()

    async def read_slowly(connection: whimbrel.Connection) -> None:
        nonlocal received
        stream = await connection.accept_stream()
        while data := await stream.read(450):
            received += data
            await asyncio.sleep(0.2)
        finished.set()

    async def program() -> None:
        async with (
            whimbrel.serve(
                read_slowly,
                port=PORT,
                cert=(files.chain, files.key),
                alpn="slow",
                limits=whimbrel.Limits(stream_window=1000),
            ),
            whimbrel.connect(network.name, PORT, alpn="slow", verify=files.authority) as connection,
        ):
            stream = await connection.open_send_stream()
            stream.pad_moves(padding)
            cut_short = asyncio.create_task(stream.write(own))
            await asyncio.sleep(WIFI / 2)
            cut_short.cancel()
            await asyncio.sleep(1.0)
            await connection.migrate(interface="wwan0")
            await stream.write(own[1000:])

            async def write() -> None:
                for _ in range(8):
                    await stream.write(own)
                    await asyncio.sleep(0.8)

            writing = asyncio.create_task(write())
            for _ in range(4):
                for interface in ("wlan0", "wwan0"):
                    await connection.migrate(interface=interface)
                    await asyncio.sleep(1.1)
            await writing
            await stream.write(own)
            await stream.finish()
            await finished.wait()

    network.run(program())
    assert re.fullmatch(rb"(\[p{784}\]|\(o{1498}\))+", received)
    assert received.count(own) == 10
    assert 1 <= received.count(padding) <= 8


def test_nobody_is_at_another_name_or_port(network: SimulatedNetwork) -> None:
    add_wifi(network)

    async def program(name: str) -> None:
        await whimbrel.connect(name, PORT, alpn="echo", verify=network.certificate.authority, timeout=5.0)

    with pytest.raises(whimbrel.ConnectFailed, match="cannot find"):
        network.run(program("elsewhere.test"))
    with pytest.raises(whimbrel.ConnectTimeout):
        network.run(program(network.name))
    assert network.now == pytest.approx(5.0, abs=0.1)


def test_threads_are_waited_for_while_time_stands_still(network: SimulatedNetwork) -> None:
    async def program() -> int:
        return await asyncio.to_thread(sum, range(100_000))

    assert network.run(program()) == sum(range(100_000))
    assert network.now == 0.0


def test_a_program_that_never_ends_is_cancelled(network: SimulatedNetwork) -> None:
    ended: list[float] = []

    async def program() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(network.now)

    with pytest.raises(TimeoutError, match="not done after 50 s"):
        network.run(program(), horizon=50.0)
    assert ended == [50.0]


def test_what_goes_wrong_in_a_task_ends_the_run(network: SimulatedNetwork) -> None:
    async def program() -> None:
        asyncio.get_running_loop().call_later(1.0, lambda: 1 // 0)
        await asyncio.sleep(10)

    with pytest.raises(ZeroDivisionError):
        network.run(program())


def test_a_loop_without_end_is_noticed(network: SimulatedNetwork) -> None:
    async def program() -> None:
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="time stands still"):
        network.run(program())
