"""How blocking streams read, write, end and wait."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import shutil
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest

import whimbrel
from tests.loopback.support import SOON
from tests.loopback.sync_support import Doing, opened, pair, reading, until, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Buffer

    from tests.loopback.support import Certificates
    from whimbrel.sync import Connection

TIGHT = whimbrel.Limits(stream_window=64 << 10, connection_window=1 << 20, send_buffer=64 << 10)


@pytest.fixture
def ends(certificates: Certificates) -> Iterator[tuple[Connection, Connection]]:
    with pair(certificates, server_limits=TIGHT, limits=TIGHT) as both:
        yield both


def test_read_gives_what_is_there(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    assert there.read(0) == b""
    waiting = reading(there, lambda: there.read(1000))
    assert here.write(b"some") == 4
    assert waiting.result() == b"some"
    here.write(b"thing")
    assert there.readexactly(2) == b"th"
    assert there.read(2) == b"in"
    here.finish()
    assert there.read() == b"g"
    assert there.read() == there.read(10) == there.readall() == b""


def test_both_directions_at_once_and_more_than_the_windows_hold(ends: tuple[Connection, Connection]) -> None:
    data = os.urandom(3 << 20)
    here, there = opened(ends)

    def echo() -> None:
        shutil.copyfileobj(there, there)
        there.finish()

    def send() -> int:
        try:
            return here.write(data)
        finally:
            here.finish()

    echoing, sending = Doing(echo), Doing(send)
    assert here.read(timeout=SOON) == data
    assert sending.result() == len(data)
    echoing.result()


def test_readexactly_waits_for_all_of_it(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    data = os.urandom(1 << 20)
    waiting = reading(there, lambda: there.readexactly(len(data)))
    here.write(data)
    assert waiting.result() == data
    assert there.readexactly(0) == b""
    with pytest.raises(ValueError, match="not negative"):
        there.readexactly(-1)


def test_readexactly_keeps_what_came_before_the_end(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    here.write(b"short")
    here.finish()
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        there.readexactly(10)
    assert (caught.value.partial, caught.value.expected) == (b"short", 10)


def test_a_separator_may_come_in_two_pieces(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    waiting = reading(there, lambda: there.readuntil(b"\r\n\r\n"))
    for piece in (b"head\r", b"\n\r"):
        here.write(piece)
        until(lambda piece=piece: there._buffer.endswith(piece))  # type: ignore[misc]
    here.write(b"\nbody")
    assert waiting.result() == b"head\r\n\r\n"
    buffer = bytearray(10)
    assert there.readinto(buffer, timeout=SOON) == 4
    assert buffer[:4] == b"body"


def test_a_line_without_end_is_refused_and_stays_readable(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    data = os.urandom(200_000).replace(b"\n", b" ")
    sending = Doing(lambda: here.write(data))
    with pytest.raises(asyncio.LimitOverrunError):
        there.readline(timeout=SOON)
    assert there.readline(10) == data[:10]
    assert there.readexactly(len(data) - 10) == data[10:]
    assert sending.result() == len(data)


def test_lines(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    here.write(b"one\ntwo\nthree\nfour\nrest")
    here.finish()
    assert there.readline(2) == b"on"
    assert there.readline(2) == b"e\n"
    assert there.readline() == b"two\n"
    assert there.readlines(3) == [b"three\n"]
    assert there.readlines() == [b"four\n", b"rest"]
    assert there.readline() == there.readline(5) == b""


# As a file ------------------------------------------------------------------------------------------------------------


def test_it_is_a_raw_file(ends: tuple[Connection, Connection]) -> None:
    here, _ = opened(ends)
    assert isinstance(here, io.RawIOBase)
    assert here.readable()
    assert here.writable()
    assert not here.seekable()
    with pytest.raises(io.UnsupportedOperation):
        here.fileno()
    up = ends[0].open_send_stream()
    up.write(b"x")
    down = ends[1].accept_stream(timeout=SOON)
    assert (up.readable(), up.writable()) == (False, True)
    assert (down.readable(), down.writable()) == (True, False)


def test_a_buffered_reader_gives_lines(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    lines = [f"line {number}\n".encode() * (number % 7 + 1) for number in range(5000)]

    def send() -> None:
        with here:
            for line in lines:
                here.write(line)

    sending = Doing(send)
    with io.BufferedReader(there) as reader:
        assert list(reader) == b"".join(lines).splitlines(keepends=True)
    sending.result()
    assert there.closed


def test_a_buffered_writer_and_text(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)

    def write() -> None:
        with io.TextIOWrapper(io.BufferedWriter(here, 100), encoding="utf-8") as text:
            for number in range(5000):
                text.write(f"Zeile {number} — ü\n")

    sending = Doing(write)
    with io.TextIOWrapper(io.BufferedReader(there), encoding="utf-8") as text:
        assert list(text)[-1] == "Zeile 4999 — ü\n"
    sending.result()


def test_copyfileobj_carries_a_file(ends: tuple[Connection, Connection], tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    here, there = opened(ends)

    def send() -> None:
        with source.open("rb") as file, here:
            shutil.copyfileobj(file, here)

    sending = Doing(send)
    with target.open("wb") as file, there:
        shutil.copyfileobj(there, file)
    sending.result()
    assert target.read_bytes() == data


def test_a_tar_archive_goes_through_a_stream(ends: tuple[Connection, Connection], tmp_path: Path) -> None:
    here, there = opened(ends)
    files = {f"file {number}": os.urandom(number * 1000) for number in range(30)}

    def pack() -> None:
        with here, tarfile.open(fileobj=here, mode="w|gz") as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))

    packing = Doing(pack)
    unpacked = {}
    with there, tarfile.open(fileobj=there, mode="r|gz") as archive:
        for entry in archive:
            content = archive.extractfile(entry)
            assert content is not None
            unpacked[entry.name] = content.read()
    packing.result()
    assert unpacked == files


def test_iteration_gives_chunks(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    data = os.urandom(1 << 20)

    def send() -> None:
        with here:
            here.write(data)

    sending = Doing(send)
    assert b"".join(there) == data
    sending.result()


# Time limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_read_whose_time_is_up_loses_nothing(ends: tuple[Connection, Connection], timeout: float) -> None:
    here, there = opened(ends, b"abc")
    assert there.read(2, timeout=SOON) == b"ab"
    calls: list[Callable[[], bytes]] = [
        lambda: there.readexactly(10, timeout=timeout),
        lambda: there.readuntil(b"\n", timeout=timeout),
        lambda: there.readline(timeout=timeout),
        lambda: there.readline(100, timeout=timeout),
        lambda: there.read(timeout=timeout),
        lambda: there.readall(timeout=timeout),
    ]
    for call in calls:
        with pytest.raises(TimeoutError, match=f"within {timeout:g} s"):
            call()
    assert there.read(10, timeout=timeout) == b"c"
    with pytest.raises(TimeoutError):
        there.read(10, timeout=timeout)
    with pytest.raises(TimeoutError):
        there.readinto(bytearray(10), timeout=timeout)
    here.write(b"def")
    here.finish()
    assert there.read(timeout=SOON) == b"def"


def test_a_write_whose_time_is_up_has_sent_what_it_says(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    data = os.urandom(1 << 20)
    with pytest.raises(TimeoutError):
        here.write(data, timeout=0.05)
    taken = here.bytes_written - 1  # The first went with `opened`.
    assert 0 < taken < len(data)
    sending = Doing(lambda: here.write(memoryview(data)[taken:]))
    assert there.readexactly(len(data), timeout=SOON) == data
    assert sending.result() == len(data) - taken
    assert here.bytes_written == len(data) + 1


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_written(ends: tuple[Connection, Connection], kind: Callable[[bytes], Buffer]) -> None:
    here, there = opened(ends)
    data = os.urandom(3 << 20)
    sending = Doing(lambda: here.write(kind(data)))
    assert there.readexactly(len(data), timeout=SOON) == data
    assert sending.result() == len(data)
    assert here.write(kind(b"")) == 0


# Threads --------------------------------------------------------------------------------------------------------------


def test_a_second_reader_is_turned_away(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    first = reading(there, lambda: there.readexactly(3))
    for call in (lambda: there.read(1), lambda: there.readinto(bytearray(1)), there.readline, there.readall):
        with pytest.raises(whimbrel.Busy, match="another thread reads"):
            call()
    here.write(b"abc")
    assert first.result() == b"abc"
    here.write(b"d")
    assert there.read(1, timeout=SOON) == b"d"


def test_a_second_writer_is_turned_away(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    data = os.urandom(1 << 20)
    first = writing(here, lambda: here.write(data))
    for call in (lambda: here.write(b"x"), here.finish, here.close):
        with pytest.raises(whimbrel.Busy, match="another thread writes"):
            call()
    assert there.readexactly(len(data), timeout=SOON) == data
    assert first.result() == len(data)


def test_many_streams_in_many_threads(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    data = [os.urandom(100_000 + number) for number in range(8)]

    def answer() -> None:
        for _ in data:
            stream = server.accept_stream(timeout=SOON)
            assert isinstance(stream, whimbrel.sync.Stream)

            def echo(stream: whimbrel.sync.Stream = stream) -> None:
                with stream:
                    shutil.copyfileobj(stream, stream, 10_000)

            threading.Thread(target=echo, daemon=True).start()

    def ask(part: bytes) -> bytes:
        with client.open_stream() as stream:

            def send() -> None:
                stream.write(part)
                stream.finish()

            sending = Doing(send)
            answer = stream.read(timeout=SOON)
            sending.result()
            return answer

    answering = Doing(answer)
    asking = [Doing(lambda part=part: ask(part)) for part in data]  # type: ignore[misc]
    assert [one.result() for one in asking] == data
    answering.result()


# The end --------------------------------------------------------------------------------------------------------------


def test_leaving_the_block_well_finishes(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    with here:
        here.write(b"whole")
    assert there.read(timeout=SOON) == b"whole"
    assert here.closed
    for call in (lambda: here.read(1), lambda: here.write(b"x"), here.finish, here.__enter__):
        with pytest.raises(ValueError, match="closed"):
            call()
    here.close()
    with pytest.raises(whimbrel.StreamStopped):
        until(lambda: there.write(b"x") == 0)


def test_leaving_the_block_by_an_exception_gives_up(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    here.write(b"half")
    with pytest.raises(ZeroDivisionError), here:
        raise ZeroDivisionError
    with pytest.raises(whimbrel.StreamReset):
        there.readall(timeout=SOON)
    with pytest.raises(whimbrel.StreamStopped):
        until(lambda: there.write(b"x") == 0)


def test_a_dropped_stream_is_given_up_not_finished(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    here.write(b"half")
    del here
    gc.collect()
    with pytest.raises(whimbrel.StreamReset):
        there.readall(timeout=SOON)


def test_stopping_ends_a_read_of_another_thread(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    waiting = reading(there, there.readall)
    there.stop(7)
    with pytest.raises(whimbrel.LocalProtocolError, match="stopped by this end"):
        waiting.result()
    with pytest.raises(whimbrel.StreamStopped) as caught:
        until(lambda: here.write(b"x") == 0)
    assert caught.value.code == 7


def test_resetting_ends_a_write_of_another_thread(ends: tuple[Connection, Connection]) -> None:
    here, there = opened(ends)
    waiting = writing(here, lambda: here.write(bytes(1 << 20)))
    here.reset(8)
    with pytest.raises(whimbrel.LocalProtocolError, match="reset by this end"):
        waiting.result()
    with pytest.raises(whimbrel.StreamReset) as caught:
        there.readall(timeout=SOON)
    assert caught.value.code == 8
