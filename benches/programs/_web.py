"""Clients of HTTP/3 that download from a server of others: our own, and aioquic's as its documentation has it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

from programs._files import DATAGRAM, HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import SimpleNamespace

    from programs._files import Files


def program(library: str) -> Any:
    """Return the program, which has no server."""
    from types import SimpleNamespace

    made: SimpleNamespace = SimpleNamespace(connect=connect if library == "whimbrel" else connect_aioquic)
    return made


@contextlib.asynccontextmanager
async def connect(files: Files, port: int) -> AsyncIterator[Client]:
    from whimbrel import http

    async with http.connect(HOST, port, verify=files.authority) as client:
        yield Client(client)


class Client:
    """Each exchange is a file whose name is its size."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def exchange(self, up: int, down: int) -> None:
        response = await self._client.request("GET", f"/{down}")
        async for piece in response:
            down -= len(piece)
        assert down == 0, "the server sent something else"


@contextlib.asynccontextmanager
async def connect_aioquic(files: Files, port: int) -> AsyncIterator[Any]:
    from aioquic.asyncio.client import connect as dial
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3Connection
    from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import ConnectionTerminated, QuicEvent

    import whimbrel

    class Downloader(QuicConnectionProtocol):
        async def exchange(self, up: int, down: int) -> None:
            if not hasattr(self, "http3"):
                self.http3 = H3Connection(self._quic)
            self.left, self.done = down, asyncio.get_running_loop().create_future()
            fields = {":method": "GET", ":scheme": "https", ":authority": f"{HOST}:{port}", ":path": f"/{down}"}
            headers = [(name.encode(), value.encode()) for name, value in fields.items()]
            self.http3.send_headers(self._quic.get_next_available_stream_id(), headers, end_stream=True)
            self.transmit()
            await self.done
            assert self.left == 0, "the server sent something else"

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ConnectionTerminated) and not self.done.done():
                self.done.set_exception(ConnectionError(f"the connection ended: {event.reason_phrase}"))
            for each in self.http3.handle_event(event) if hasattr(self, "http3") else []:
                self.take(each)

        def take(self, event: H3Event) -> None:
            if isinstance(event, DataReceived):
                self.left -= len(event.data)
            if isinstance(event, DataReceived | HeadersReceived) and event.stream_ended:
                self.done.set_result(None)

    # Windows as large as ours: with its own of 1 MiB it would be no faster.
    limits = whimbrel.Limits()
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], cafile=str(files.authority), verify_mode=ssl.CERT_REQUIRED,
        max_data=limits.connection_window, max_stream_data=limits.stream_window, max_datagram_size=DATAGRAM,
    )  # fmt: skip
    async with dial(HOST, port, configuration=configuration, create_protocol=Downloader) as downloader:
        yield downloader
