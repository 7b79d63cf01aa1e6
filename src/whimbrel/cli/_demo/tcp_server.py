"""The other client's server where ours has the file: Python's own HTTP over TLS over TCP, as a process."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import ssl
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypedDict, cast

_READ = 1 << 16


class Order(TypedDict):
    """What is to be done: the process's only argument, as JSON."""

    root: str
    address: str
    port: int
    certificate: str
    key: str


def main() -> None:
    """Do what the first argument says, until the process is ended."""
    order = cast("Order", json.loads(sys.argv[1]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(order["certificate"], order["key"])
    _Server(order, context).serve_forever()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, order: Order, context: ssl.SSLContext) -> None:
        self.root = Path(order["root"])
        self._context = context
        super().__init__((order["address"], order["port"]), _Handler)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        # The handshake is the handler's, on its own thread: one client must not keep another waiting.
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: object, client_address: object) -> None:
        # Clients that vanish are what this is about.
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send the file."""
        assert isinstance(self.server, _Server), "nobody else has this handler"
        path = self.server.root / Path(self.path).name
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile, _READ)

    def do_PUT(self) -> None:
        """Take a file, keep nothing but its hash, and answer with that."""
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left and (data := self.rfile.read(min(_READ, left))):
            digest.update(data)
            left -= len(data)
        if left:
            return
        answer = digest.hexdigest().encode()
        self.send_response(HTTPStatus.CREATED)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    main()
