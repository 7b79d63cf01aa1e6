"""The client that stays where it is, as a process: Python's own HTTP over TLS over TCP.

What becomes of it is its kernel's and its server's doing: nothing is done here to make it fail, or not to. Its patience
is the demo's, which ends the process. Each direction has a connection and a thread of its own: HTTP/1.1 has no other
way to do both at once.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import select
import ssl
import struct
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict, cast
from urllib.parse import SplitResult, urlsplit

from whimbrel.cli._demo.messages import INTERVAL, Arrival, Direction, Reporter
from whimbrel.network import routes_to

if TYPE_CHECKING:
    import socket

_CONNECT_TIMEOUT = 10.0
_READ = 1 << 16


class Order(TypedDict):
    """What is to be done: the process's only argument, as JSON."""

    directions: list[Direction]
    url: str
    cafile: str | None
    upload_url: str | None
    upload_file: str | None


def main() -> None:
    """Do what the first argument says."""
    order = cast("Order", json.loads(sys.argv[1]))
    reporter = Reporter()
    context = ssl.create_default_context(cafile=order["cafile"])
    reporter.ready()
    works: dict[Direction, Work] = {"down": _download, "up": _upload}
    threads = [
        threading.Thread(target=_run, args=(order, reporter, context, way, works[way])) for way in order["directions"]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _run(
    order: Order,
    reporter: Reporter,
    context: ssl.SSLContext,
    direction: Direction,
    work: Work,
) -> None:
    arrival = Arrival(reporter, direction)
    error = sha256 = None
    url = order["url"] if direction == "down" else order["upload_url"]
    assert url is not None, "an upload goes somewhere"
    try:
        sha256 = work(order, _Connection(urlsplit(url), context, reporter), arrival)
    except (OSError, http.client.HTTPException) as failure:
        error = (failure.strerror if isinstance(failure, OSError) else None) or str(failure) or type(failure).__name__
        error = error[0].lower() + error[1:]
    arrival.end(error, sha256=sha256)


Work: TypeAlias = Callable[[Order, "_Connection", Arrival], str | None]


class _Connection(http.client.HTTPSConnection):
    """A connection for one request."""

    sock: socket.socket

    def __init__(self, url: SplitResult, context: ssl.SSLContext, reporter: Reporter) -> None:
        assert url.hostname is not None, "the demo has looked at this URL"
        super().__init__(url.hostname, url.port, timeout=_CONNECT_TIMEOUT, context=context)
        self.connect()
        self.sock.settimeout(None)
        self.target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        reporter.tell("over", interface=_interface(self.sock.getpeername()[0], self.sock.getsockname()[0]))


def _download(_: Order, connection: _Connection, arrival: Arrival) -> None:
    """Fetch the file; its hash is that of what came."""
    connection.request("GET", connection.target)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        raise OSError(f"the server answered {response.status}")
    if response.length is not None:
        arrival.expect(response.length)
    while chunk := response.read1(_READ):
        arrival.take(chunk)
    if response.length:  # http.client is content with less than was announced, when it reads piece by piece.
        raise ConnectionError("the connection was closed")
    connection.close()


def _upload(order: Order, connection: _Connection, arrival: Arrival) -> str:
    """Send the file; returns the hash that the server answered with."""
    assert order["upload_file"] is not None, "there is something to upload"
    file = Path(order["upload_file"])
    connection.putrequest("PUT", connection.target)
    connection.putheader("Content-Length", str(file.stat().st_size))
    connection.endheaders()
    acknowledged = written = 0

    def count() -> None:
        nonlocal acknowledged
        # What the server's kernel has, but for TLS' few bytes a record; what its program has, it says at the end.
        if (now := max(acknowledged, written - _queued(connection.sock))) > acknowledged:
            arrival.count(now - acknowledged)
            acknowledged = now

    with file.open("rb") as body:
        while chunk := body.read(_READ):
            # Not in sendall(): the kernel wakes a sender late, when a good part of its buffer is free.
            while not select.select([], [connection.sock], [], INTERVAL)[1]:
                count()
            connection.sock.sendall(chunk)
            written += len(chunk)
            count()
    while not select.select([connection.sock], [], [], INTERVAL)[0]:
        count()
    response = connection.getresponse()
    answer = response.read().decode(errors="replace")
    if response.status != http.HTTPStatus.CREATED:
        raise OSError(f"the server answered {response.status}")
    arrival.count(written - acknowledged)
    connection.close()
    return answer


def _queued(sock: socket.socket) -> int:
    """Bytes that were written and are not acknowledged: SIOCOUTQ (tcp(7)), which has TIOCOUTQ's number."""
    (queued,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(queued)


def _interface(peer: str, source: str) -> str | None:
    """The network that a connection began on, and belongs to from then on."""
    return next((route.interface for route in routes_to(peer) if route.source == source), None)


if __name__ == "__main__":
    main()
