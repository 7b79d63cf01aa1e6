"""How streams read, write, end and wait."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

import whimbrel
from tests.loopback.support import Certificates, pair, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whimbrel import Connection, Stream

TIGHT = whimbrel.Limits(stream_window=64 << 10, connection_window=1 << 20, send_buffer=64 << 10)


@pytest.fixture
async def ends(certificates: Certificates) -> AsyncIterator[tuple[Connection, Connection]]:
    async with pair(certificates, server_limits=TIGHT, limits=TIGHT) as both:
        yield both


async def opened(ends: tuple[Connection, Connection], first: bytes = b"") -> tuple[Stream, Stream]:
    """A stream as both ends see it, after the client has sent `first` on it."""
    client, server = ends
    here = await client.open_stream()
    await here.write(b"." + first)
    there = await server.accept_stream()
    assert isinstance(there, whimbrel.Stream)
    assert await there.readexactly(1) == b"."
    return here, there


async def test_read_gives_what_is_there(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    assert await there.read(0) == b""
    waiting = asyncio.create_task(there.read(1000))
    await turns()
    await here.write(b"some")
    assert await waiting == b"some"
    await here.write(b"thing")
    assert await there.readexactly(2) == b"th"
    assert await there.read(2) == b"in"
    await here.finish()
    assert await there.read() == b"g"
    assert await there.read() == await there.read(10) == b""


@pytest.mark.parametrize("part", [slice(0, 50_000), slice(10_000, 40_000)], ids=["whole", "part"])
async def test_what_nobody_can_change_is_sent_from_where_it_is(
    ends: tuple[Connection, Connection], part: slice
) -> None:
    """Of a `bytes` object no copy is made; it is let go once the peer has what was to be sent of it."""
    here, there = await opened(ends)
    data = os.urandom(50_000)
    references = sys.getrefcount(data)
    reading = asyncio.create_task(there.read())
    await here.write(data if part.start == 0 else memoryview(data)[part])
    assert sys.getrefcount(data) > references
    await here.finish()
    assert await reading == data[part]
    await until(lambda: sys.getrefcount(data) == references)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_a_buffer_may_be_changed_once_it_was_taken(
    ends: tuple[Connection, Connection], kind: type[bytearray | memoryview]
) -> None:
    here, there = await opened(ends)
    data = bytearray(os.urandom(60_000))
    before = bytes(data)
    await here.write(data if kind is bytearray else memoryview(data))
    data[:] = bytes(len(data))
    await here.finish()
    assert await there.read() == before


async def test_readexactly_waits_for_all_of_it(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    data = os.urandom(1 << 20)
    reading = asyncio.create_task(there.readexactly(len(data)))
    await here.write(data)
    assert await reading == data
    assert await there.readexactly(0) == b""
    with pytest.raises(ValueError, match="not negative"):
        await there.readexactly(-1)


async def test_readexactly_keeps_what_came_before_the_end(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    await here.write(b"short")
    await here.finish()
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await there.readexactly(10)
    assert (caught.value.partial, caught.value.expected) == (b"short", 10)
    with pytest.raises(asyncio.IncompleteReadError):
        await there.readexactly(1)


async def test_lines_come_one_by_one(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    await here.write(b"one\ntwo\nthr")
    assert await there.readline() == b"one\n"
    assert await there.readline() == b"two\n"
    waiting = asyncio.create_task(there.readline())
    await turns()
    await here.write(b"ee\nrest")
    assert await waiting == b"three\n"
    await here.finish()
    assert await there.readline() == b"rest"
    assert await there.readline() == b""


async def test_a_separator_may_come_in_two_pieces(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    waiting = asyncio.create_task(there.readuntil(b"\r\n\r\n"))
    for piece in (b"head\r", b"\n\r", b"\nbody"):
        await here.write(piece)
        await turns(20)
    assert await waiting == b"head\r\n\r\n"
    buffer = bytearray(10)
    assert await there.readinto(buffer) == 4
    assert buffer[:4] == b"body"
    await here.write(b"no separator")
    await here.finish()
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await there.readuntil(b"\r\n")
    assert caught.value.partial == b"no separator"
    with pytest.raises(ValueError, match="at least one byte"):
        await there.readuntil(b"")


async def test_a_line_without_end_is_refused_and_stays_readable(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    data = os.urandom(200_000).replace(b"\n", b" ")
    writing = asyncio.create_task(here.write(data))
    with pytest.raises(asyncio.LimitOverrunError):
        await there.readline()
    assert await there.readexactly(len(data)) == data
    await writing


async def test_readinto_fills_a_buffer(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    buffer = bytearray(8)
    waiting = asyncio.create_task(there.readinto(memoryview(buffer)[2:6]))
    await turns()
    await here.write(b"abcdefg")
    assert await waiting == 4
    assert buffer == b"\0\0abcd\0\0"
    assert await there.readinto(buffer) == 3
    assert await there.readinto(bytearray()) == 0
    await here.write(b"h")
    with pytest.raises(BufferError):
        await there.readinto(b"read-only")
    await here.finish()
    assert await there.readinto(buffer) == 1
    assert await there.readinto(buffer) == 0


async def test_iteration_gives_chunks(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    data = os.urandom(500_000)

    async def send() -> None:
        await here.write(data)
        await here.finish()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        assert b"".join([chunk async for chunk in there]) == data


async def test_a_reset_reaches_the_reader_with_its_code(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    waiting = asyncio.create_task(there.read())
    await turns()
    here.reset(42)
    with pytest.raises(whimbrel.StreamReset, match=f"reset stream {here.id} with code 42") as caught:
        await waiting
    assert caught.value.code == 42
    for again in (there.read(), there.readexactly(1), there.readline()):
        with pytest.raises(whimbrel.StreamReset) as caught:
            await again
        assert caught.value.code == 42
    here.reset(43)
    with pytest.raises(whimbrel.LocalProtocolError, match="was reset by this end"):
        await here.write(b"more")
    # The other direction, and the connection, still stand.
    await there.write(b"well?")
    await there.finish()
    assert await here.read() == b"well?"


async def test_a_stop_reaches_the_writer_with_its_code(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    writing = asyncio.create_task(here.write(bytes(1 << 20)))
    await until(lambda: here.bytes_written > 1)
    there.stop(7)
    with pytest.raises(whimbrel.StreamStopped, match=f"stopped reading stream {here.id} with code 7") as caught:
        await writing
    assert caught.value.code == 7
    for _ in range(2):
        with pytest.raises(whimbrel.StreamStopped):
            await here.write(b"more")
        with pytest.raises(whimbrel.StreamStopped):
            await here.finish()
    with pytest.raises(whimbrel.LocalProtocolError, match="was stopped by this end"):
        await there.read()
    there.stop(8)


async def test_stop_and_reset_wake_the_task_that_waits_here(ends: tuple[Connection, Connection]) -> None:
    here, _ = await opened(ends)
    reading = asyncio.create_task(here.read())
    writing = asyncio.create_task(here.write(bytes(1 << 20)))
    await until(lambda: here.bytes_written > 1)
    here.stop()
    here.reset()
    for task in (reading, writing):
        with pytest.raises(whimbrel.LocalProtocolError):
            await task


async def test_one_task_at_a_time(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    reading = asyncio.create_task(there.readexactly(5))
    writing = asyncio.create_task(here.write(bytes(1 << 20)))
    blocked = asyncio.create_task(here.read())
    await until(lambda: here.bytes_written > 1)
    await turns()
    with pytest.raises(whimbrel.Busy, match="another task reads"):
        await here.read(1)
    with pytest.raises(whimbrel.Busy, match="another task reads"):
        await here.readline()
    with pytest.raises(whimbrel.Busy, match="another task writes"):
        await here.write(b"x")
    with pytest.raises(RuntimeError, match="one reader and one writer"):
        await here.finish()
    assert await reading == bytes(5)
    blocked.cancel()
    writing.cancel()
    await asyncio.wait([blocked, writing])


async def test_nothing_is_written_after_the_end(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    await here.finish()
    await here.finish()
    with pytest.raises(whimbrel.LocalProtocolError, match="was finished by this end"):
        await here.write(b"more")
    assert await there.read() == b""


async def test_leaving_a_stream_finishes_it_or_gives_it_up(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    async with here:
        await here.write(b"all")
    assert await there.read() == b"all"

    here, there = await opened(ends)
    with pytest.raises(ZeroDivisionError):
        async with here:
            raise ZeroDivisionError
    with pytest.raises(whimbrel.StreamReset):
        await there.read()
    with pytest.raises(whimbrel.StreamStopped):
        await there.write(bytes(1 << 20))


async def test_a_reader_who_had_enough_is_no_failure_of_the_writer(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    async with here:
        there.stop()
        await there.write(b"enough")
        assert await here.readexactly(6) == b"enough"


async def test_a_dropped_stream_is_given_up(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    del here
    gc.collect()
    with pytest.raises(whimbrel.StreamReset):
        await there.read()
    with pytest.raises(whimbrel.StreamStopped):
        await there.write(bytes(1 << 20))


async def test_a_cancelled_read_loses_nothing(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    reads = (
        (there.read, b"all of it"),
        (lambda: there.readexactly(9), b"nine byte"),
        (lambda: there.readuntil(b"!"), b"no mark"),
        (lambda: there.read(100), b""),
        (lambda: there.readinto(bytearray(100)), b""),
    )
    for begin, data in reads:
        task = asyncio.create_task(begin())
        await turns()
        await here.write(data[:-1])
        await turns(50)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await here.write(data[-1:])
        assert await there.readexactly(len(data)) == data


async def test_a_cancelled_write_says_how_much_was_taken(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    data = os.urandom(1 << 20)
    before = here.bytes_written
    writing = asyncio.create_task(here.write(data))
    await until(lambda: here.bytes_written > before)
    await turns()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    taken = here.bytes_written - before
    assert 0 < taken < len(data)

    async def go_on() -> None:
        await here.write(memoryview(data)[taken:])
        await here.finish()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on())
        assert await there.read() == data
    assert here.bytes_written - before == len(data)


async def test_an_unread_stream_stops_its_writer_and_no_other(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    data = os.urandom(4 << 20)
    writing = asyncio.create_task(here.write(data))
    other, echo = await opened(ends)
    for number in range(200):
        await other.write(b"%03d" % number)
        await echo.write(await echo.readexactly(3))
        assert await other.readexactly(3) == b"%03d" % number
    assert not writing.done()
    assert here.bytes_written <= TIGHT.stream_window + TIGHT.send_buffer
    assert await there.readexactly(len(data)) == data
    await writing


async def test_a_buffer_may_change_once_it_was_written(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    buffer = bytearray(b"before")
    await here.write(buffer)
    buffer[:] = b"after!"
    assert await there.readexactly(6) == b"before"
    await here.write(b"")
    await here.write(memoryview(bytearray(b"a.b.c."))[::2].tobytes())
    assert await there.readexactly(3) == b"abc"


async def test_small_writes_that_follow_each_other_share_a_packet(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    before = ends[0].stats().packets_sent
    for _ in range(10):
        await here.write(b"word ")
    await here.finish()
    assert await there.read() == b"word " * 10
    # One of its own may be an acknowledgement's.
    assert ends[0].stats().packets_sent - before <= 2


async def test_small_writes_leave_though_the_loop_is_blocked(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    await here.write(b"now")
    before = ends[0].stats().packets_sent
    deadline = time.monotonic() + 5.0
    while ends[0].stats().packets_sent == before and time.monotonic() < deadline:
        pass
    assert ends[0].stats().packets_sent > before
    assert await there.readexactly(3) == b"now"


async def test_what_was_written_just_before_the_end_arrives(ends: tuple[Connection, Connection]) -> None:
    here, there = await opened(ends)
    await here.write(b"last words")
    await ends[0].close()
    assert await there.readexactly(10) == b"last words"


async def test_requests_that_are_made_at_once_share_packets(ends: tuple[Connection, Connection]) -> None:
    """Also where each looks for its answer right away."""
    client, server = ends
    streams = [await client.open_stream() for _ in range(50)]
    before = client.stats().datagrams_sent

    async def ask(stream: Stream) -> bytes:
        await stream.write(b"ping")
        await stream.finish()
        return await stream.read()

    async def answer() -> None:
        for _ in streams:
            stream = await server.accept_stream()
            assert isinstance(stream, whimbrel.Stream)
            await stream.write(await stream.read())
            await stream.finish()

    *answers, _ = await asyncio.gather(*map(ask, streams), answer())
    assert answers == [b"ping"] * 50
    assert client.stats().datagrams_sent - before < 25
