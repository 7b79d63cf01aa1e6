"""aioquic's server: answers over HTTP/3 with the files of one folder."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

if TYPE_CHECKING:
    from aioquic.quic.events import QuicEvent


class Order(TypedDict):
    """The process's only argument, as JSON."""

    address: str
    port: int
    certificate: str
    key: str
    root: str


async def main(order: Order) -> None:
    """Serve until the process is ended."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.load_cert_chain(Path(order["certificate"]), Path(order["key"]))
    root = Path(order["root"])

    def create(*args: Any, **options: Any) -> Answering:
        return Answering(root, *args, **options)

    await serve(order["address"], order["port"], configuration=configuration, create_protocol=create)
    await asyncio.Event().wait()


class Answering(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, root: Path, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._root = root
        self._h3 = H3Connection(self._quic)

    def quic_event_received(self, event: QuicEvent) -> None:
        for h3_event in self._h3.handle_event(event):
            if isinstance(h3_event, HeadersReceived):
                name = Path(dict(h3_event.headers)[b":path"].decode()).name
                self._h3.send_headers(h3_event.stream_id, [(b":status", b"200")])
                self._h3.send_data(h3_event.stream_id, (self._root / name).read_bytes(), end_stream=True)
                self.transmit()


if __name__ == "__main__":
    asyncio.run(main(cast("Order", json.loads(sys.argv[1]))))
