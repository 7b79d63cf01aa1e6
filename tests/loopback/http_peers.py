"""HTTP/3 for the loopback tests: our server with our client, and with a client that is none of ours (aioquic's)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import FrameUnexpected, H3Connection
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from whimbrel import http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Unpack

    from tests.loopback.support import Certificates

Fields = list[tuple[bytes, bytes]]


@contextlib.asynccontextmanager
async def served(
    certificates: Certificates,
    handler: http.Handler,
    *,
    connect: http.Handler | None = None,
    protocols: Mapping[str, http.Handler] | None = None,
    **options: Unpack[http.ServeOptions],
) -> AsyncIterator[tuple[http.Server, http.Client]]:
    """A server and a client of ours."""
    async with (
        http.serve(
            handler, "127.0.0.1", cert=certificates.pair, connect=connect, protocols=protocols, **options
        ) as server,
        dial(certificates, server) as client,
    ):
        yield server, client


def dial(certificates: Certificates, server: http.Server) -> http._client._Connect:
    return http.connect("127.0.0.1", server.addresses[0][1], verify=certificates.ca, migration=None)


@dataclass
class Answer:
    """What came on one stream."""

    interim: list[Fields] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    received: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)
    reset: int | None = None
    """The code, where the server gave the answer up."""
    stopped: int | None = None
    """The code, where it wanted no more of the request."""

    @property
    def content(self) -> bytes:
        return bytes(self.received)

    @property
    def status(self) -> int:
        return int(self.headers[":status"])


class OtherClient(QuicConnectionProtocol):
    """aioquic's own QUIC and HTTP/3, and the means to break the rules."""

    h3: H3Connection

    def start(self) -> None:
        self.answers: dict[int, Answer] = {}
        self.closed: ConnectionTerminated | None = None
        self._changed = asyncio.Condition()
        self._ended: dict[int, asyncio.Event] = {}
        self._gone = asyncio.Event()
        self.datagrams: list[tuple[int, bytes]] = []
        self.webtransport: dict[int, bytes] = {}
        self.raw: dict[int, bytes] = {}
        self.own: set[int] = set()
        self.stops: dict[int, int] = {}

    def ask(self, headers: Fields, content: bytes | None = None, *, end: bool = True) -> int:
        """Send a request; returns its stream."""
        stream = self.open()
        self.h3.send_headers(stream, headers, end_stream=end and content is None)
        if content is not None:
            self.h3.send_data(stream, content, end_stream=end)
        self.transmit()
        return stream

    def open(self) -> int:
        stream = self._quic.get_next_available_stream_id()
        self.answers[stream], self._ended[stream] = Answer(), asyncio.Event()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Bytes as they are."""
        self._quic.send_stream_data(stream, data, end)
        self.transmit()

    def open_in_session(self, session: int, data: bytes) -> int:
        """A stream of WebTransport in both directions; what comes on it is in `raw`."""
        stream = self.h3.create_webtransport_stream(session)
        self.own.add(stream)  # H3Connection takes what comes on a stream that it made for HTTP's frames.
        self.send(stream, data, end=True)
        return stream

    def open_unidirectional(self, data: bytes, *, end: bool = False) -> int:
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self.send(stream, data, end=end)
        return stream

    async def answer(self, stream: int) -> Answer:
        """Wait for the end of an answer, be it good or not."""
        await self._ended[stream].wait()
        return self.answers[stream]

    async def failure(self) -> int:
        """Wait for the end of the connection; returns the code."""
        await self._gone.wait()
        assert self.closed is not None, "it has just been set"
        return self.closed.error_code

    def quic_event_received(self, event: QuicEvent) -> None:
        match event:
            case ProtocolNegotiated():  # The server's control streams may come next.
                self.h3 = H3Connection(self._quic, self._quic.configuration.max_datagram_frame_size is not None)
                self.start()
            case StreamReset(stream_id=stream, error_code=code) if stream in self.answers:
                self.answers[stream].reset = code
                self._ended[stream].set()
            case StopSendingReceived(stream_id=stream, error_code=code):
                self.stops[stream] = code
                if stream in self.answers:
                    self.answers[stream].stopped = code
            case StreamDataReceived(stream_id=stream, data=data):
                self.raw[stream] = self.raw.get(stream, b"") + data
            case ConnectionTerminated():
                self.closed = event
                self._gone.set()
        if hasattr(self, "h3") and getattr(event, "stream_id", None) not in self.own:
            for h3_event in self.h3.handle_event(event):
                self._received(h3_event)

    def _received(self, event: H3Event) -> None:
        match event:
            case HeadersReceived(stream_id=stream, headers=headers, stream_ended=ended):
                answer = self.answers[stream]
                fields = {name.decode(): value.decode() for name, value in headers}
                if fields.get(":status", "").startswith("1"):
                    answer.interim.append(headers)
                elif answer.headers:
                    answer.trailers = headers
                else:
                    answer.headers = fields
            case DataReceived(stream_id=stream, data=data, stream_ended=ended):
                self.answers[stream].received += data
            case DatagramReceived(stream_id=stream, data=data):
                self.datagrams.append((stream, data))
                return
            case WebTransportStreamDataReceived(stream_id=stream, data=data):
                self.webtransport[stream] = self.webtransport.get(stream, b"") + data
                return
            case _:
                return
        if ended:
            self._ended[stream].set()


def request(method: str = "GET", path: str = "/", *more: tuple[bytes, bytes]) -> Fields:
    """The header section of a request."""
    pseudo = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path}
    return [*((name.encode(), value.encode()) for name, value in pseudo.items()), *more]


@contextlib.asynccontextmanager
async def other_client(
    certificates: Certificates, server: http.Server, *, datagrams: bool = False
) -> AsyncIterator[OtherClient]:
    """A connection of aioquic's to a server of this test; with datagrams, it announces WebTransport as well."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["h3"],
        server_name="localhost",
        max_datagram_frame_size=65536 if datagrams else None,
    )
    configuration.load_verify_locations(str(certificates.ca))
    host, port = server.addresses[0]
    async with connect(host, port, configuration=configuration, create_protocol=OtherClient) as client:
        assert isinstance(client, OtherClient)
        yield client


class OtherServer(QuicConnectionProtocol):
    """aioquic's own server. It accepts every CONNECT and sends back what comes; what it saw is there to be read."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: dict[int, Fields] = {}
        self.closed: ConnectionTerminated | None = None
        self.resets: dict[int, int] = {}
        self.answer: Fields = [(b":status", b"200")]
        self._backs: dict[int, int] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        match event:
            case ProtocolNegotiated():
                self.h3 = H3Connection(self._quic, enable_webtransport=True)
            case StreamReset(stream_id=stream, error_code=code):
                self.resets[stream] = code
            case ConnectionTerminated():
                self.closed = event
        if hasattr(self, "h3"):
            for h3_event in self.h3.handle_event(event):
                self.received(h3_event)
        self.transmit()

    def received(self, event: H3Event) -> None:
        match event:
            case HeadersReceived(stream_id=stream, headers=headers):
                self.asked[stream] = headers
                self.h3.send_headers(stream, self.answer)
            case DataReceived(stream_id=stream, data=data, stream_ended=ended):
                with contextlib.suppress(FrameUnexpected):  # The client wants no more of it.
                    self.h3.send_data(stream, data, ended)
            case DatagramReceived(stream_id=stream, data=data):
                self.h3.send_datagram(stream, data)
            case WebTransportStreamDataReceived(stream_id=stream, data=data, session_id=session, stream_ended=ended):
                back = stream
                if stream & 2:  # In one direction: the answer has a stream of its own.
                    if stream not in self._backs:
                        self._backs[stream] = self.h3.create_webtransport_stream(session, True)
                    back = self._backs[stream]
                self._quic.send_stream_data(back, data, ended)


@contextlib.asynccontextmanager
async def other_server(certificates: Certificates) -> AsyncIterator[tuple[list[OtherServer], int]]:
    """A server of aioquic's: its connections, and its port."""
    connections: list[OtherServer] = []

    def begin(*args: Any, **options: Any) -> OtherServer:
        connections.append(OtherServer(*args, **options))
        return connections[-1]

    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"], max_datagram_frame_size=65536)
    configuration.load_cert_chain(*map(str, certificates.pair))
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=begin)
    try:
        assert server._transport is not None, "it listens"
        yield connections, server._transport.get_extra_info("sockname")[1]
    finally:
        server.close()
