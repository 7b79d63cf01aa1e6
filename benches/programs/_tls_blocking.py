"""TLS 1.3 over TCP with blocking sockets, a thread for each connection."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING, NoReturn

from programs._files import FIRST, HOST, PIECE
from programs._tls import CONTENT, client_context, server_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from programs._files import Files


@contextlib.asynccontextmanager
async def serve(files: Files, accepted: Callable[[], None]) -> AsyncIterator[int]:
    context = server_context(files)

    def attend(plain: socket.socket) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as secure:
            accepted()
            buffer = memoryview(bytearray(PIECE))
            while True:
                head = b""
                while len(head) < 16:
                    head += secure.recv(16 - len(head)) or _early()
                wanted, coming = int.from_bytes(head[:8], "big"), int.from_bytes(head[8:], "big")
                receive(secure, coming, buffer)
                send(secure, wanted)

    def listen() -> None:
        while True:
            threading.Thread(target=attend, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((HOST, 0), backlog=1024) as listener:
        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1]


@contextlib.asynccontextmanager
async def connect(files: Files, port: int) -> AsyncIterator[Client]:
    plain = socket.create_connection((HOST, port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client_context(files).wrap_socket(plain, server_hostname=HOST) as secure:
        yield Client(secure)


class Client:
    """Makes one exchange after the other, and blocks."""

    def __init__(self, secure: ssl.SSLSocket) -> None:
        self._socket = secure
        self._buffer = memoryview(bytearray(PIECE))

    async def exchange(self, up: int, down: int) -> None:
        head = down.to_bytes(8, "big") + up.to_bytes(8, "big")
        self._socket.sendall(head + bytes(min(up, FIRST)))
        send(self._socket, max(up - FIRST, 0))
        receive(self._socket, down, self._buffer)


def receive(secure: ssl.SSLSocket, count: int, buffer: memoryview) -> None:
    while count:
        count -= secure.recv_into(buffer, min(count, len(buffer))) or _early()


def send(secure: ssl.SSLSocket, count: int) -> None:
    while count:
        piece = min(count, PIECE)
        secure.sendall(CONTENT if piece == PIECE else bytes(piece))
        count -= piece


def _early() -> NoReturn:
    raise ConnectionError("the connection ended early")
