"""Clients that take and do not give, or the other way round; and others beside them, who must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING

import pytest

import whimbrel
from tests.loopback.hostile import BOTH_WAYS, MIB, Flood, Initials, OddClient, frame, no_warnings, resident
from tests.loopback.support import ALPN, SOON, Certificates, dial, echo, nothing_left, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback.hostile import Sockets
    from whimbrel import Connection, Server

SMALL = whimbrel.Limits(stream_window=256 << 10, connection_window=512 << 10, max_streams=16, send_buffer=256 << 10)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def echo_server(
    certificates: Certificates, sockets: Sockets = "wildcard", limits: whimbrel.Limits = SMALL
) -> whimbrel._server._Serve:
    return whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, limits=limits, sockets=sockets)


async def is_well(server: Server, certificates: Certificates) -> None:
    """Somebody else gets what he wants."""
    async with asyncio.timeout(SOON), dial(server, certificates) as client:
        stream = await client.open_stream()
        await stream.write(b"hello")
        await stream.finish()
        assert await stream.read() == b"hello"


# Takers ---------------------------------------------------------------------------------------------------------------


@BOTH_WAYS
async def test_a_client_that_never_reads_has_the_server_keep_one_buffer_for_it(
    certificates: Certificates, sockets: Sockets
) -> None:
    written: list[whimbrel.SendStream] = []

    async def pour(connection: Connection) -> None:
        stream = await connection.open_send_stream()
        written.append(stream)
        while True:
            await stream.write(bytes(1 << 16))

    async with (
        whimbrel.serve(pour, "127.0.0.1", cert=certificates.pair, alpn=ALPN, limits=SMALL, sockets=sockets) as server,
        dial(server, certificates, limits=SMALL) as greedy,
    ):
        most = SMALL.send_buffer + SMALL.stream_window
        await until(lambda: bool(written) and written[0].bytes_written >= SMALL.stream_window)
        before = resident()
        # While somebody else gets many times as much, over the same loop, the greedy one could have had more.
        async with dial(server, certificates, limits=SMALL) as other:
            stream = await other.accept_stream()
            received = 0
            while received < 8 * MIB:
                received += len(await stream.read(1 << 16))
        assert written[0].bytes_written <= most
        assert resident() - before < 4 * MIB
        assert greedy is not None


# Givers ---------------------------------------------------------------------------------------------------------------


@BOTH_WAYS
async def test_a_client_that_sends_and_never_finishes_fills_one_window(
    certificates: Certificates, sockets: Sockets
) -> None:
    arrived = asyncio.Event()

    async def ignore(connection: Connection) -> None:
        arrived.set()
        await connection.wait_closed()

    async with (
        whimbrel.serve(ignore, "127.0.0.1", cert=certificates.pair, alpn=ALPN, limits=SMALL, sockets=sockets) as server,
        dial(server, certificates, limits=SMALL) as client,
    ):
        await arrived.wait()
        streams = [await client.open_stream() for _ in range(SMALL.max_streams)]
        pouring = [asyncio.create_task(stream.write(bytes(4 * MIB))) for stream in streams]
        most = SMALL.connection_window
        await until(lambda: sum(stream.bytes_written for stream in streams) >= most)
        for _ in range(20):  # Time enough for more, if more were possible: whole connections of somebody else.
            await (await dial(server, certificates)).close()
        taken = sum(stream.bytes_written for stream in streams)
        assert taken <= SMALL.connection_window + SMALL.send_buffer
        assert not any(task.done() for task in pouring)
        for task in pouring:
            task.cancel()
        await asyncio.gather(*pouring, return_exceptions=True)


@BOTH_WAYS
async def test_streams_that_are_opened_and_abandoned_end_at_the_limit(
    certificates: Certificates, sockets: Sockets
) -> None:
    async with echo_server(certificates, sockets) as server, dial(server, certificates) as client:
        abandoned = [await client.open_stream() for _ in range(SMALL.max_streams)]
        for stream in abandoned:
            await stream.write(b"x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.open_stream()
        await is_well(server, certificates)


async def test_streams_that_are_reset_at_once_leave_nothing(certificates: Certificates) -> None:
    """As CVE-2023-44487 did to HTTP/2: opened and given up as fast as it goes."""

    async def bear(connection: Connection) -> None:
        async for stream in connection.streams():
            with contextlib.suppress(whimbrel.StreamError):
                assert isinstance(stream, whimbrel.Stream)
                await stream.write(await stream.read())
                await stream.finish()

    async with (
        whimbrel.serve(bear, "127.0.0.1", cert=certificates.pair, alpn=ALPN, limits=SMALL) as server,
        dial(server, certificates) as client,
    ):
        for _ in range(200):
            (await client.open_stream()).reset(1)
        gc.collect()
        before = resident()
        for _ in range(3000):
            stream = await client.open_stream()
            await stream.write(b"x")
            stream.reset(1)
            stream.stop(1)
        await is_well(server, certificates)
        gc.collect()
        assert resident() - before < 8 * MIB


# Newcomers ------------------------------------------------------------------------------------------------------------


async def test_thousands_of_handshakes_that_never_end_cost_little_and_are_forgotten(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    initials = Initials().take(3000)
    with no_warnings(caplog):
        async with whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, idle_timeout=1.0) as server:
            await is_well(server, certificates)
            gc.collect()
            before = resident()
            with Flood(server.addresses[0], initials, len(initials)) as flood:
                await flood.over()
            await is_well(server, certificates)
            stats = server.stats()
            assert stats.retried > 0
            assert stats.accepted < 300
            assert resident() - before < 64 * MIB
            async with asyncio.timeout(SOON):
                await until(lambda: not server._connections)


async def test_newcomers_beyond_the_limit_are_refused_and_told(certificates: Certificates) -> None:
    limits = whimbrel.Limits(max_connections=3)
    async with echo_server(certificates, limits=limits) as server:
        clients = [await dial(server, certificates) for _ in range(3)]
        with pytest.raises(whimbrel.ConnectFailed, match="refuses connections"):
            await dial(server, certificates)
        assert server.stats().refused == 1
        await clients.pop().close()
        await until(lambda: len(server.connections) == 2)
        clients.append(await dial(server, certificates))
        for client in clients:
            stream = await client.open_stream()
            await stream.write(b"still here")
            await stream.finish()
            assert await stream.read() == b"still here"
            await client.close()


async def test_a_certificate_of_many_times_the_limit_still_arrives(
    issue: Callable[..., Certificates],
) -> None:
    """§8.1: what is beyond three times the client's bytes waits until it has answered, and no longer."""
    large = issue("127.0.0.1", *(f"name{number}.example.org" for number in range(800)))
    assert large.chain.stat().st_size > 16_000
    async with echo_server(large) as server:
        await is_well(server, large)


@BOTH_WAYS
async def test_clients_that_close_right_after_the_handshake(
    certificates: Certificates, sockets: Sockets, caplog: pytest.LogCaptureFixture
) -> None:
    with no_warnings(caplog):
        async with nothing_left(), echo_server(certificates, sockets) as server:
            for _ in range(30):
                client = await dial(server, certificates)
                await client.close(3)
            await until(lambda: not server.connections)
            await is_well(server, certificates)


@BOTH_WAYS
@pytest.mark.parametrize("pause", [0.0, 0.002, 0.02, 0.1])
async def test_a_server_that_is_closed_in_the_middle_of_everything(
    certificates: Certificates, sockets: Sockets, pause: float, caplog: pytest.LogCaptureFixture
) -> None:
    async def visit(server: Server) -> None:
        try:
            async with dial(server, certificates, timeout=1.0) as client:
                stream = await client.open_stream()
                while True:
                    await stream.write(bytes(10_000))
                    await stream.read(5_000)
        except (whimbrel.WhimbrelError, OSError):
            pass

    with no_warnings(caplog):
        async with nothing_left():
            async with echo_server(certificates, sockets) as server:
                visits = [asyncio.create_task(visit(server)) for _ in range(15)]
                await asyncio.sleep(pause)
            await asyncio.gather(*visits)


# Frames that nobody may send ------------------------------------------------------------------------------------------

PROTOCOL_VIOLATION, FRAME_ENCODING_ERROR, STREAM_STATE_ERROR, STREAM_LIMIT_ERROR = 0x0A, 0x07, 0x05, 0x04
FLOW_CONTROL_ERROR, FINAL_SIZE_ERROR, CONNECTION_ID_LIMIT_ERROR, CRYPTO_BUFFER_EXCEEDED = 0x03, 0x06, 0x09, 0x0D


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([frame(0x1E)], PROTOCOL_VIOLATION, id="HANDSHAKE_DONE, §19.20"),
        pytest.param([frame(0x07, 4, data=b"some")], PROTOCOL_VIOLATION, id="NEW_TOKEN, §19.7"),
        pytest.param([frame(0x02, 1 << 30, 0, 0, 0)], PROTOCOL_VIOLATION, id="ACK of what was never sent, §13.1"),
        pytest.param([frame(0x02, 1, 0, 0, 5)], FRAME_ENCODING_ERROR, id="ACK below 0, §19.3.1"),
        pytest.param([frame(0x19, 1000)], PROTOCOL_VIOLATION, id="RETIRE_CONNECTION_ID never issued, §19.16"),
        pytest.param(
            [frame(0x18, 1, 2, data=b"\x08" + bytes(24))], FRAME_ENCODING_ERROR, id="Retire Prior To too large, §19.15"
        ),
        pytest.param([frame(0x0A, 1, 1, data=b"x")], STREAM_STATE_ERROR, id="STREAM that we did not open, §19.8"),
        pytest.param([frame(0x0A, 3, 1, data=b"x")], STREAM_STATE_ERROR, id="STREAM of ours to send on, §19.8"),
        pytest.param([frame(0x0A, 4 * 1000, 1, data=b"x")], STREAM_LIMIT_ERROR, id="STREAM beyond the limit, §4.6"),
        pytest.param([frame(0x0E, 0, 1 << 40, 1, data=b"x")], FLOW_CONTROL_ERROR, id="STREAM beyond the window, §4.1"),
        pytest.param(
            [frame(0x0B, 0, 1, data=b"x"), frame(0x0E, 0, 5, 1, data=b"x")],
            FINAL_SIZE_ERROR,
            id="STREAM after its end, §4.5",
        ),
        pytest.param([frame(0x04, 0, 0, 1 << 40)], FLOW_CONTROL_ERROR, id="RESET_STREAM beyond the window, §4.5"),
        pytest.param([frame(0x12, 1 << 61)], FRAME_ENCODING_ERROR, id="MAX_STREAMS too large, §19.11"),
        pytest.param([frame(0x11, 2, 5)], STREAM_STATE_ERROR, id="MAX_STREAM_DATA of what only we read, §19.10"),
        pytest.param([frame(0x05, 2, 0)], STREAM_STATE_ERROR, id="STOP_SENDING of what only we read, §19.5"),
        pytest.param([frame(0x06, 1 << 20, 1, data=b"x")], CRYPTO_BUFFER_EXCEEDED, id="CRYPTO far ahead, §7.5"),
        pytest.param([frame(0x21)], FRAME_ENCODING_ERROR, id="a frame that there is not, §12.4"),
        pytest.param([frame(0x0F, 0, 0, 100, data=b"x")], FRAME_ENCODING_ERROR, id="a frame cut short, §12.4"),
    ],
)
async def test_what_breaks_the_rules_ends_its_own_connection_only(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, frames: list[bytes], code: int
) -> None:
    with no_warnings(caplog):
        async with echo_server(certificates) as server, dial(server, certificates) as honest:
            stream = await honest.open_stream()
            async with OddClient(certificates) as odd:
                await odd.connect(server.addresses[0])
                odd.send_frames(*frames)
                async with asyncio.timeout(SOON):
                    ended = await odd.ended()
            assert ended.error_code == code
            await stream.write(b"hello")
            await stream.finish()
            assert await stream.read() == b"hello"


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([frame(0x1A, data=bytes(8))] * 20, id="PATH_CHALLENGE"),
        pytest.param([frame(0x1B, data=bytes(8))] * 20, id="PATH_RESPONSE that nobody asked for"),
        pytest.param([frame(0x01)] * 100, id="PING"),
        pytest.param([frame(0x10, 1 << 60)] * 20, id="MAX_DATA"),
        pytest.param([frame(0x14, 0), frame(0x16, 0), frame(0x17, 0)] * 20, id="BLOCKED"),
        pytest.param([frame(0x0E, 0, 2, 1, data=b"x"), frame(0x0E, 0, 200_000, 1, data=b"x")], id="STREAM with holes"),
    ],
)
async def test_what_is_allowed_but_useless_costs_little(certificates: Certificates, frames: list[bytes]) -> None:
    async with echo_server(certificates) as server, OddClient(certificates) as odd:
        await odd.connect(server.addresses[0])
        sent = 0
        before = resident()
        for _ in range(2000):
            odd.send_frames(*frames)
            sent += 100
            if sent % 5000 == 0:
                await asyncio.sleep(0)
        await is_well(server, certificates)
        assert resident() - before < 16 * MIB
        assert odd.closed is None
