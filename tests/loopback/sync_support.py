"""What the tests of the blocking face stand on: a pair of connected ends, and threads that do one thing."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar, Unpack

import whimbrel.sync
from tests.loopback.support import ALPN, SOON, holdings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.loopback.support import Certificates, Options
    from whimbrel import Limits
    from whimbrel.sync import Connection, ReceiveStream, SendStream, Server, Stream

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def dial(server: Server, certificates: Certificates, **options: Unpack[Options]) -> Connection:
    """`connect` to a server of this test, staying on the path unless told otherwise."""
    host, port = server.addresses[0]
    options.setdefault("alpn", ALPN)
    options.setdefault("verify", certificates.ca)
    options.setdefault("migration", None)
    return whimbrel.sync.connect(host, port, **options)


def listen(
    handler: Callable[[Connection], object],
    certificates: Certificates,
    host: str = "127.0.0.1",
    limits: Limits | None = None,
) -> Server:
    """`serve` on one address."""
    limits = limits or whimbrel.Limits()
    server = whimbrel.sync.serve(handler, host, cert=certificates.pair, alpn=ALPN, limits=limits)
    server._pump.endpoint.wait(0)  # The first wait opens what all others need: not in the middle of a test.
    return server


@contextlib.contextmanager
def pair(
    certificates: Certificates,
    host: str = "127.0.0.1",
    *,
    server_limits: Limits | None = None,
    **options: Unpack[Options],
) -> Iterator[tuple[Connection, Connection]]:
    """Both ends of one connection, client first."""
    accepted: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    def handler(connection: Connection) -> None:
        accepted.put(connection)
        connection.wait_closed()

    with (
        listen(handler, certificates, host, server_limits) as server,
        dial(server, certificates, **options) as client,
    ):
        yield client, accepted.get(timeout=SOON)


def opened(ends: tuple[Connection, Connection], first: bytes = b"") -> tuple[Stream, Stream]:
    """A stream as both ends see it, after the client has sent `first` on it."""
    client, server = ends
    here = client.open_stream()
    here.write(b"." + first)
    there = server.accept_stream(timeout=SOON)
    assert isinstance(there, whimbrel.sync.Stream)
    assert there.readexactly(1, timeout=SOON) == b"."
    return here, there


class Doing(Generic[T_co]):
    """Something that a thread of its own does."""

    def __init__(self, act: Callable[[], T_co]) -> None:
        self._result: list[T_co] = []
        self._error: BaseException | None = None
        self._act = act
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it came to an end."""
        return not self._thread.is_alive()

    def result(self) -> T_co:
        """Wait for what comes of it, or raise what it raised."""
        self._thread.join(SOON)
        assert self.is_over, "the thread goes on"
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._act())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error


def reading(stream: ReceiveStream, act: Callable[[], T]) -> Doing[T]:
    """Have a thread read, and wait until it waits for more."""
    doing = Doing(act)
    until(lambda: doing.is_over or stream.id in stream._connection._readers)
    return doing


def writing(stream: SendStream, act: Callable[[], T]) -> Doing[T]:
    """Have a thread write, and wait until it waits for room."""
    doing = Doing(act)
    until(lambda: doing.is_over or stream.id in stream._connection._writers)
    return doing


def waiting(connection: Connection, act: Callable[[], T]) -> Doing[T]:
    """Have a thread do something with a connection, and wait until one more waits for it."""
    before = len(connection._pump._waiting)
    doing = Doing(act)
    until(lambda: doing.is_over or len(connection._pump._waiting) > before)
    return doing


LOOK = 0.001
"""Seconds between two looks. Without them who looks has the lock back before another thread wakes."""


def until(condition: Callable[[], bool]) -> None:
    """Let other threads run until it is so."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(LOOK)


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """What the block opens, it closes: no descriptor or thread more than before. The guard may take a moment to end."""
    before = holdings()
    yield

    def left() -> dict[str, tuple[int, int]]:
        after = holdings()
        return {name: (before.get(name, 0), count) for name, count in after.items() if count > before.get(name, 0)}

    end = time.monotonic() + SOON
    while left() and time.monotonic() < end:
        time.sleep(LOOK)
    assert not left(), f"{left()} (before, after)"
