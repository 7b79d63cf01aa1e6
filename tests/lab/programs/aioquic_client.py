"""aioquic's client, which is moved by hand: it has no migration of its own.

Downloads one file over HTTP/3. On an order it goes on from another address, with a connection ID not used before.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, TypedDict, cast

import aioquic
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from tests.lab.programs.arrival import Arrival, tell
from tests.lab.programs.client import orders

if TYPE_CHECKING:
    from aioquic.quic.events import QuicEvent


class Order(TypedDict):
    """The process's only argument, as JSON."""

    url: str
    host: str
    port: int
    certificate: str
    source: str
    """The address that it begins from."""


async def main(order: Order) -> None:
    """Download, and move when told to."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name=order["host"])
    configuration.load_verify_locations(order["certificate"])
    client = Client(QuicConnection(configuration=configuration))
    await client.use(order["source"])
    client.connect((order["host"], order["port"]))
    await client.wait_connected()
    client.get(order["url"])
    async with asyncio.TaskGroup() as tasks:
        moving = tasks.create_task(move(client))
        await client.complete.wait()
        moving.cancel()
    client.close()
    await client.wait_closed()


async def move(client: Client) -> None:
    """Go on from the address that each order names."""
    async for line in orders():
        await client.use(json.loads(line)["source"])


class Client(QuicConnectionProtocol):
    """One connection, and one request."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self.complete = asyncio.Event()
        self._arrival = Arrival(0)
        self._status = b""
        self._h3 = H3Connection(quic)

    async def use(self, source: str) -> None:
        """Send and receive on a new socket from now on."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(source, 0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        old = self._transport
        super().connection_made(transport)
        if old is not None:
            old.close()
            # At once, so that nothing leaves from here with the old one.
            self.change_connection_id()

    def get(self, url: str) -> None:
        """Send the request."""
        authority, _, path = url.removeprefix("https://").partition("/")
        head = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": f"/{path}"}
        stream_id = self._quic.get_next_available_stream_id()
        self._h3.send_headers(stream_id, [(k.encode(), v.encode()) for k, v in head.items()], end_stream=True)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        for h3_event in self._h3.handle_event(event):
            if isinstance(h3_event, HeadersReceived):
                self._status = dict(h3_event.headers)[b":status"]
            elif isinstance(h3_event, DataReceived):
                self._arrival.take(h3_event.data)
            if isinstance(h3_event, HeadersReceived | DataReceived) and h3_event.stream_ended:
                facts: dict[str, Any] = {"status": int(self._status), **self._arrival.result()}
                tell("done", version=f"aioquic {aioquic.__version__}", **facts)
                self.complete.set()


if __name__ == "__main__":
    asyncio.run(main(cast("Order", json.loads(sys.argv[1]))))
