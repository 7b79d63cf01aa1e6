"""What becomes of streams whose reader wants no more (STOP_SENDING, RFC 9000 §3.5)."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

import pytest

from tests.loopback.support import pair, until
from whimbrel import Limits, Stream, StreamStopped

if TYPE_CHECKING:
    from tests.loopback.support import Certificates
    from whimbrel import Connection

pytestmark = pytest.mark.anyio

FEW = Limits(max_streams=4)


async def stream_of(client: Connection, server: Connection) -> tuple[Stream, Stream]:
    """Both ends of one stream, client first; a server that never lets go of one would bring this to a standstill."""
    near = await asyncio.wait_for(client.open_stream(), 10)
    await near.write(b"?")
    await near.finish()
    far = await server.accept_stream()
    assert isinstance(far, Stream)
    assert await far.read() == b"?"
    return near, far


async def write_for_ever(stream: Stream) -> None:
    while True:
        await stream.write(bytes(1000))
        await asyncio.sleep(0)


async def test_a_stream_whose_writer_was_stopped_makes_room_for_another(certificates: Certificates) -> None:
    async with pair(certificates, server_limits=FEW) as (client, server):
        for _ in range(20):
            near, far = await stream_of(client, server)
            near.stop(7)
            with pytest.raises(StreamStopped) as stopped:
                await write_for_ever(far)
            assert stopped.value.code == 7


async def test_what_a_finished_stream_has_not_sent_is_dropped_when_it_is_stopped(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        near, far = await stream_of(client, server)
        await far.write(bytes(400_000))
        await far.finish()
        near.stop(7)
        for _ in range(50):  # Round trips enough for all of it, would it be sent.
            other, another = await stream_of(client, server)
            await another.write(b"!")
            await another.finish()
            assert await other.read() == b"!"
        assert server.stats().bytes_sent < 100_000


async def test_bytes_beyond_the_window_are_dropped_with_a_stopped_stream(certificates: Certificates) -> None:
    async with pair(certificates, limits=Limits(stream_window=10_000)) as (client, server):
        near, far = await stream_of(client, server)
        writing = asyncio.create_task(far.write(bytes(1_000_000)))
        await until(lambda: far.bytes_written > 0)
        near.stop(7)
        with pytest.raises(StreamStopped):
            await writing


async def test_a_writer_is_told_though_the_connection_has_no_room(certificates: Certificates) -> None:
    async with pair(certificates, limits=Limits(connection_window=10_000)) as (client, server):
        near, far = await stream_of(client, server)
        _, full = await stream_of(client, server)
        filling = asyncio.create_task(full.write(bytes(1_000_000)))
        await until(lambda: full.bytes_written == 10_000)
        writing = asyncio.create_task(far.write(b"no room"))
        await asyncio.sleep(0)
        assert far.bytes_written == 0
        near.stop(7)
        with pytest.raises(StreamStopped):
            await writing
        filling.cancel()


async def test_who_does_not_write_is_told(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        near, far = await stream_of(client, server)
        told = asyncio.Event()
        far.on_stopped(told.set)
        assert not told.is_set()
        near.stop(7)
        await told.wait()
        with pytest.raises(StreamStopped):
            await far.write(b"!")


async def test_who_asks_late_is_told_as_well(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        near, far = await stream_of(client, server)
        stopped = asyncio.Event()
        far.on_stopped(stopped.set)
        near.stop(7)
        await stopped.wait()
        told = asyncio.Event()
        far.on_stopped(told.set)
        await told.wait()


async def test_who_asks_no_more_is_not_told(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        near, far = await stream_of(client, server)
        other, another = await stream_of(client, server)
        told = asyncio.Event()
        far.on_stopped(lambda: pytest.fail("was told"))
        another.on_stopped(told.set)
        far.on_stopped(None)
        near.stop(7)
        other.stop(7)
        await told.wait()


async def test_who_has_finished_is_kept_in_mind_no_longer(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        near, far = await stream_of(client, server)
        reset = await client.open_stream()
        calls = [asyncio.Event(), asyncio.Event()]
        for stream, call in zip((far, reset), calls, strict=True):
            stream.on_stopped(call.set)
        kept = [weakref.ref(call) for call in calls]
        del call, calls
        await far.finish()
        assert await near.read() == b""
        reset.reset()
        await until(lambda: all(reference() is None for reference in kept))
