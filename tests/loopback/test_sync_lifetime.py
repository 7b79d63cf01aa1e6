"""Ctrl-C, forks, forgotten objects, the interpreter's end: nothing is left behind, nothing hangs."""

from __future__ import annotations

import contextlib
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import whimbrel.sync
from tests.loopback.support import SOON, native_threads
from tests.loopback.sync_support import dial, listen, nothing_left, pair, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.loopback.support import Certificates
    from whimbrel.sync import Connection, Server


def echo(connection: Connection) -> None:
    """A handler that sends back what comes, as it comes, all streams at once."""
    for stream in connection.streams():
        threading.Thread(target=echo_one, args=(stream,), daemon=True).start()


def echo_one(stream: whimbrel.sync.Stream) -> None:
    with contextlib.suppress(whimbrel.StreamError, whimbrel.ConnectionLost), stream:
        shutil.copyfileobj(stream, stream)


@contextlib.contextmanager
def started(script: Path, certificates: Certificates, server: Server, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(script), str(certificates.ca), str(server.addresses[0][1]), *more]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_connection_leaves_nothing(certificates: Certificates, host: str) -> None:
    with (
        listen(echo, certificates, host) as server,
        nothing_left(),
        dial(server, certificates) as connection,
        connection.open_stream() as stream,
    ):
        stream.write(b"x")
        assert stream.readexactly(1, timeout=SOON) == b"x"


def test_a_connection_that_may_move_leaves_nothing(certificates: Certificates) -> None:
    with (
        listen(echo, certificates) as server,
        nothing_left(),
        dial(server, certificates, migration=whimbrel.Migration()) as connection,
    ):
        assert "whimbrel-control" in [thread.name for thread in threading.enumerate()]
        connection.open_stream().close()


def test_who_dials_again_and_again_finds_the_same_threads(certificates: Certificates) -> None:
    seen = set()
    with listen(echo, certificates) as server, nothing_left():
        for _ in range(20):
            with dial(server, certificates, migration=whimbrel.Migration()):
                seen.add(next(thread for thread in threading.enumerate() if thread.name == "whimbrel-control"))
    assert len(seen) < 20


def test_a_server_leaves_nothing(certificates: Certificates) -> None:
    with nothing_left(), pair(certificates) as (client, server):
        assert client.alpn == server.alpn


def test_no_thread_before_the_first_connection() -> None:
    threads = native_threads()
    with pytest.raises(ValueError, match="port"):
        whimbrel.sync.connect("127.0.0.1", 0, alpn="test")
    assert native_threads() <= threads


def test_a_dropped_connection_warns_and_is_closed(certificates: Certificates) -> None:
    ends: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    def handler(connection: Connection) -> None:
        ends.put(connection)
        connection.wait_closed()

    with listen(handler, certificates) as server, nothing_left():
        connection = dial(server, certificates)
        end = ends.get(timeout=SOON)
        with pytest.warns(ResourceWarning, match=r"<Connection to 127\.0\.0\.1:\d+> was never closed"):
            del connection
        end.wait_closed(timeout=SOON)
        del end
        until(lambda: not server._handlers)


def test_a_dropped_server_warns_and_is_closed(certificates: Certificates) -> None:
    with nothing_left():
        server = listen(echo, certificates)
        with pytest.warns(ResourceWarning, match=r"<Server on 127\.0\.0\.1:\d+> was never closed"):
            del server


@pytest.mark.parametrize("how", ["lead", "follow", "write"])
def test_ctrl_c_ends_a_call_at_once_and_nothing_else(certificates: Certificates, scripts: Path, how: str) -> None:
    with (
        listen(echo, certificates) as server,
        started(scripts / "sync_interrupted.py", certificates, server, how) as process,
    ):
        assert line(process) == "up"
        _blocked(process)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert line(process) == "interrupted"
        assert time.monotonic() - began < 2.0
        assert line(process) == "usable", process.stderr.read() if process.stderr else ""
        assert process.wait(SOON) == 0


def test_the_interpreter_ends_at_once_and_tells_the_peer(certificates: Certificates, scripts: Path) -> None:
    ended: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()

    def handler(connection: Connection) -> None:
        stream = connection.accept_stream()
        assert isinstance(stream, whimbrel.sync.Stream)
        with stream:
            stream.write(stream.readexactly(1))
            try:
                stream.read(1)
            except whimbrel.ConnectionClosed as error:
                ended.put((error.code, error.by_peer))

    with (
        listen(handler, certificates) as server,
        started(scripts / "sync_exiting.py", certificates, server) as process,
    ):
        assert line(process) == "up"
        began = time.monotonic()
        assert process.stdin is not None
        process.stdin.close()
        assert ended.get(timeout=SOON) == (0, True)
        assert process.wait(SOON) == 0
        assert time.monotonic() - began < 2.0
        assert process.stderr is not None
        assert process.stderr.read() == ""  # The threads that waited end without a word.


def test_after_fork_the_child_fails_clearly_and_the_parent_lives(certificates: Certificates, scripts: Path) -> None:
    with (
        listen(echo, certificates) as server,
        started(scripts / "sync_forking.py", certificates, server) as process,
    ):
        output, errors = process.communicate(timeout=SOON)
        assert (output, errors) == ("both fine\n", "")
        assert process.returncode == 0


def _blocked(process: subprocess.Popen[str]) -> None:
    """Wait until the main thread sleeps in the kernel."""
    with open(f"/proc/{process.pid}/task/{process.pid}/stat", encoding="ascii") as file:  # noqa: PTH123

        def sleeps() -> bool:
            file.seek(0)
            return file.read().rpartition(")")[2].split()[0] == "S"

        until(sleeps)
