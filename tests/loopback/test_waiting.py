"""`_core.Endpoint.wait`: what callers without an event loop stand on."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from whimbrel import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from tests.loopback.support import Certificates

LONG = 30.0


@pytest.fixture
def transport() -> _core.TransportConfig:
    return _core.TransportConfig(
        idle_timeout=30.0, stream_window=1 << 20, connection_window=1 << 20, max_streams=10, send_buffer=1 << 20
    )


@pytest.fixture
def server(certificates: Certificates, transport: _core.TransportConfig) -> Iterator[_core.Endpoint]:
    config = _core.ServerConfig(
        alpn=[b"test"],
        certificate=certificates.chain.read_bytes(),
        key=certificates.key.read_bytes(),
        transport=transport,
    )
    endpoint = _core.Endpoint.server(config, [("127.0.0.1", 0)])
    endpoint.pump()
    yield endpoint
    endpoint.close()


@pytest.fixture
def client(certificates: Certificates, transport: _core.TransportConfig) -> Iterator[_core.Endpoint]:
    config = _core.ClientConfig(alpn=[b"test"], roots=certificates.ca.read_bytes(), transport=transport)
    endpoint = _core.Endpoint.client(config)
    endpoint.pump()
    yield endpoint
    endpoint.close()


@contextlib.contextmanager
def waits(endpoint: _core.Endpoint) -> Iterator[Callable[[], float]]:
    """A thread that waits meanwhile. What is given tells how long it took to return."""
    taken: list[float] = []
    begun = threading.Event()

    def wait() -> None:
        started = time.monotonic()
        begun.set()
        endpoint.wait(LONG)
        taken.append(time.monotonic() - started)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()

    def returned() -> float:
        thread.join(LONG)
        assert not thread.is_alive()
        return taken[0]

    yield returned
    endpoint.close()
    thread.join()


def test_nothing_happens_until_the_time_is_up(server: _core.Endpoint) -> None:
    end, waits = time.monotonic() + 0.05, 0
    while (left := end - time.monotonic()) > 0:
        server.wait(left)
        waits += 1
    # The kernel may interrupt a wait for its own work (io_uring, which uvloop uses), but not all the time.
    assert waits < 10
    assert time.monotonic() - end < LONG / 2


def test_a_time_that_is_over_is_a_mere_look(server: _core.Endpoint) -> None:
    server.wait(0)
    server.wait(-1.0)


def test_a_datagram_ends_it(server: _core.Endpoint) -> None:
    with waits(server) as returned, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"?", server.addresses()[0])
        assert returned() < LONG / 2


def test_closing_ends_it(server: _core.Endpoint) -> None:
    with waits(server) as returned:
        server.close()
        assert returned() < LONG / 2
    server.wait(LONG)  # There is nothing to wait for any more.


def test_news_that_another_thread_left_ends_it(client: _core.Endpoint) -> None:
    connection = client.connect(("127.0.0.1", 9), "localhost", "pinned", None)
    client.pump()
    with waits(client) as returned:
        connection.close(0, b"")  # Its closing timer brings news when pumped, by whoever does.
        assert returned() < LONG / 2


def test_a_timer_ends_it(client: _core.Endpoint) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        client.connect(deaf.getsockname(), "localhost", "pinned", None)
        delay = client.pump()
        assert delay is not None
        started = time.monotonic()
        client.wait(LONG)  # The first packet is sent again.
        assert time.monotonic() - started < LONG / 2
        assert client.pump() is not None


def test_a_signal_ends_it_and_its_handler_runs(server: _core.Endpoint) -> None:
    handled: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        handled.append(number)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        started = time.monotonic()
        server.wait(LONG)
        assert time.monotonic() - started < LONG / 2
        assert handled == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_in_virtual_time_there_is_nothing_to_wait_for(
    certificates: Certificates, transport: _core.TransportConfig
) -> None:
    config = _core.ClientConfig(alpn=[b"test"], roots=certificates.ca.read_bytes(), transport=transport)
    with pytest.raises(ValueError, match="virtual time"):
        _core.Endpoint.client(config, simulated=True).wait(1.0)
