"""`Stream.as_asyncio`: code written for asyncio's streams, over one of ours."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from typing import TYPE_CHECKING

import pytest

import whimbrel
from tests.loopback.support import Certificates, pair, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whimbrel import Connection, Stream

pytestmark = pytest.mark.anyio

WINDOW = 64 << 10
TIGHT = whimbrel.Limits(stream_window=WINDOW, connection_window=1 << 20, send_buffer=WINDOW)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def ends(certificates: Certificates) -> AsyncIterator[tuple[Connection, Connection]]:
    async with pair(certificates, server_limits=TIGHT, limits=TIGHT) as both:
        yield both


async def opened(ends: tuple[Connection, Connection]) -> tuple[Streams, Stream]:
    """A stream: at the client as asyncio has it, at the server as it is."""
    client, server = ends
    reader, writer = (await client.open_stream()).as_asyncio()
    writer.write(b".")
    there = await server.accept_stream()
    assert isinstance(there, whimbrel.Stream)
    assert await there.readexactly(1) == b"."
    return (reader, writer), there


# Knows nothing of us: what is written for `asyncio.start_server` and `asyncio.open_connection`.


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for line in reader:
        writer.writelines([line.upper(), b"--\n"])
        await writer.drain()
    writer.write_eof()
    writer.close()
    await writer.wait_closed()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lines: list[bytes]) -> list[bytes]:
    for line in lines:
        writer.write(line + b"\n")
    writer.write_eof()
    answers = []
    while not reader.at_eof():
        with contextlib.suppress(asyncio.IncompleteReadError):
            answers.append(await reader.readuntil(b"--\n"))
    writer.close()
    await writer.wait_closed()
    return answers


async def test_code_for_asyncio_runs_as_it_does_over_tcp(ends: tuple[Connection, Connection]) -> None:
    lines = [os.urandom(size).hex().encode() for size in (0, 1, 1000, 20_000)]
    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with server:
        over_tcp = await ask(*await asyncio.open_connection(*server.sockets[0].getsockname()), lines)
    client, other = ends
    asking = asyncio.create_task(ask(*(await client.open_stream()).as_asyncio(), lines))
    there = await other.accept_stream()
    assert isinstance(there, whimbrel.Stream)
    await shout(*there.as_asyncio())
    assert await asking == over_tcp == [line.upper() + b"\n--\n" for line in lines]


async def test_more_than_all_buffers_hold_goes_both_ways(ends: tuple[Connection, Connection]) -> None:
    (reader, writer), there = await opened(ends)
    there_reader, there_writer = there.as_asyncio()
    data = os.urandom(3_000_000)

    async def send(writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(data), 100_000):
            writer.write(bytearray(data[start : start + 100_000]))
            await writer.drain()
        writer.write_eof()

    async with asyncio.TaskGroup() as tasks:
        for sender in (writer, there_writer):
            tasks.create_task(send(sender))
        both = [tasks.create_task(source.read()) for source in (reader, there_reader)]
    assert [task.result() == data for task in both] == [True, True]
    writer.close()
    there_writer.close()


async def test_drain_waits_while_the_peer_does_not_read(ends: tuple[Connection, Connection]) -> None:
    (_, writer), there = await opened(ends)
    data = os.urandom(1_000_000)
    writer.write(data)
    draining = asyncio.create_task(writer.drain())
    await turns(100)
    assert not draining.done()
    assert writer.transport.get_write_buffer_size() > 64 << 10
    assert await there.readexactly(len(data)) == data
    await draining
    assert writer.transport.get_write_buffer_size() <= 64 << 10
    writer.close()
    await writer.wait_closed()
    assert await there.read() == b""


async def test_the_peer_is_held_back_while_nobody_reads(ends: tuple[Connection, Connection]) -> None:
    (reader, writer), there = await opened(ends)
    data = os.urandom(2_000_000)
    sending = asyncio.create_task(there.write(data))
    await until(lambda: there.bytes_written >= 2 * WINDOW)
    await turns(1000)
    # Twice the reader's limit and a piece more, our window, and what the sender holds: far from all.
    assert there.bytes_written < len(data) // 2
    assert await reader.readexactly(len(data)) == data
    await sending
    writer.close()


async def test_closing_sends_what_was_written_and_reads_no_more(ends: tuple[Connection, Connection]) -> None:
    (_, writer), there = await opened(ends)
    data = os.urandom(1_000_000)
    writer.write(data)
    writer.close()
    assert writer.is_closing()
    assert await there.read() == data
    await writer.wait_closed()
    with pytest.raises(whimbrel.StreamStopped):
        await there.write(bytes(10_000_000))


async def test_each_direction_ends_by_itself(ends: tuple[Connection, Connection]) -> None:
    (reader, writer), there = await opened(ends)
    assert writer.can_write_eof()
    writer.write_eof()
    assert await there.read() == b""
    with pytest.raises(RuntimeError, match="write_eof"):
        writer.write(b"more")
    await there.write(b"still here")
    await there.finish()
    assert await reader.read() == b"still here"
    writer.close()
    await writer.wait_closed()


async def test_a_reset_is_what_it_is_in_tcp(ends: tuple[Connection, Connection]) -> None:
    (reader, writer), there = await opened(ends)
    reading = asyncio.create_task(reader.read(10))
    await turns()
    there.reset(7)
    with pytest.raises(ConnectionResetError) as caught:
        await reading
    assert isinstance(caught.value, whimbrel.StreamReset)
    assert caught.value.code == 7
    with pytest.raises(ConnectionResetError):
        await writer.drain()
    with pytest.raises(ConnectionResetError):
        await writer.wait_closed()
    with pytest.raises(whimbrel.StreamReset):
        await there.read()


async def test_who_reads_no_more_may_still_be_heard(ends: tuple[Connection, Connection]) -> None:
    (reader, writer), there = await opened(ends)
    writer.write(bytes(1_000_000))
    draining = asyncio.create_task(writer.drain())
    await turns()
    there.stop(9)
    with pytest.raises(BrokenPipeError) as caught:
        await draining
    assert isinstance(caught.value, whimbrel.StreamStopped)
    assert caught.value.code == 9
    await there.write(b"enough")
    await there.finish()
    assert await reader.read() == b"enough"
    writer.close()
    await writer.wait_closed()


async def test_an_abort_is_no_good_end(ends: tuple[Connection, Connection]) -> None:
    (_, writer), there = await opened(ends)
    writer.write(bytes(1_000_000))
    writer.transport.abort()
    await writer.wait_closed()
    with pytest.raises(whimbrel.StreamReset):
        await there.read()


async def test_the_end_of_the_connection_reaches_all_that_waits(ends: tuple[Connection, Connection]) -> None:
    (reader, writer), _ = await opened(ends)
    writer.write(bytes(1_000_000))
    waiting = [asyncio.create_task(work) for work in (reader.read(1), writer.drain())]
    await turns()
    await ends[1].close(5, "enough")
    for task in waiting:
        with pytest.raises(ConnectionError):
            await task
    with pytest.raises(whimbrel.ConnectionClosed, match="enough"):
        await writer.wait_closed()


async def test_a_writer_that_is_dropped_is_no_good_end(ends: tuple[Connection, Connection]) -> None:
    (reader, writer), there = await opened(ends)
    writer.write(b"half of it")
    del reader
    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031 - both lines are what drops it
        del writer
        gc.collect()
    with pytest.raises(whimbrel.StreamReset):
        await there.read()


async def test_what_is_known_of_the_way_can_be_asked(ends: tuple[Connection, Connection]) -> None:
    (_, writer), there = await opened(ends)
    client, _ = ends
    path = client.path
    assert writer.get_extra_info("whimbrel_path") == path
    assert writer.get_extra_info("peername") == path.remote
    assert writer.get_extra_info("sockname") == path.local
    assert writer.get_extra_info("whimbrel_stream").id == there.id
    assert writer.get_extra_info("whimbrel_connection") is client
    assert writer.get_extra_info("cipher", "none") == "none"
    writer.transport.set_write_buffer_limits(high=10)
    assert writer.transport.get_write_buffer_limits() == (2, 10)
    with pytest.raises(ValueError, match="order"):
        writer.transport.set_write_buffer_limits(high=1, low=2)
    writer.close()


async def test_the_stream_belongs_to_the_pair(ends: tuple[Connection, Connection]) -> None:
    (reader, writer), there = await opened(ends)
    stream = writer.get_extra_info("whimbrel_stream")
    await turns()
    with pytest.raises(whimbrel.Busy):
        await stream.read(1)
    with pytest.raises(whimbrel.Busy):
        stream.as_asyncio()
    await there.write(b"x")
    assert await reader.read(1) == b"x"
    writer.close()


async def test_what_was_read_before_and_not_asked_for_is_not_lost(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    here = await client.open_stream()
    await here.write(b"line\nrest")
    there = await server.accept_stream()
    assert isinstance(there, whimbrel.Stream)
    assert await there.readline() == b"line\n"
    reader, writer = there.as_asyncio(limit=10)
    assert await reader.readexactly(4) == b"rest"
    await here.write(bytes(30))
    with pytest.raises(asyncio.LimitOverrunError):
        await reader.readuntil(b"\n")
    writer.close()
    here.reset()
