"""The client that stays where it is, as a process: Python's own HTTP over TLS over TCP.

What becomes of it is its kernel's and its server's doing: nothing is done here to make it fail, or not to. Its patience
is the demo's, which ends the process.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import sys
import time
from typing import TypedDict, cast
from urllib.parse import urlsplit

from whimbrel.cli._demo.messages import Reporter
from whimbrel.network import routes_to

_CONNECT_TIMEOUT = 10.0
_READ = 1 << 16


class Order(TypedDict):
    """What is to be done: the process's only argument, as JSON."""

    url: str
    cafile: str


def main() -> None:
    """Do what the first argument says."""
    order = cast("Order", json.loads(sys.argv[1]))
    reporter = Reporter()
    context = ssl.create_default_context(cafile=order["cafile"])
    reporter.ready()
    download = _Download(reporter)
    error = None
    try:
        download.fetch(order["url"], context)
    except (OSError, http.client.HTTPException) as failure:
        error = (failure.strerror if isinstance(failure, OSError) else None) or str(failure) or type(failure).__name__
        error = error[0].lower() + error[1:]
    reporter.ended(error=error, received=download.received, sha256=download.digest.hexdigest(), samples=[])


class _Download:
    def __init__(self, reporter: Reporter) -> None:
        self.received = 0
        self.digest = hashlib.sha256()
        self._reporter = reporter

    def fetch(self, url: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, "the demo made this URL"
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=_CONNECT_TIMEOUT, context=context)
        connection.connect()
        connection.sock.settimeout(None)
        interface = _interface(parts.hostname, connection.sock.getsockname()[0])
        connection.request("GET", parts.path)
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"the server answered {response.status}")
        while chunk := response.read1(_READ):
            now = time.monotonic()
            self.received += len(chunk)
            self.digest.update(chunk)
            if self._reporter.is_due(now):
                self._reporter.received(now, self.received, interface)
        if response.length:  # http.client is content with less than was announced, when it reads piece by piece.
            raise ConnectionError("the connection was closed")
        connection.close()


def _interface(host: str, source: str) -> str | None:
    """The network that a connection began on, and belongs to from then on."""
    return next((route.interface for route in routes_to(host) if route.source == source), None)


if __name__ == "__main__":
    main()
