"""What httpx's clients meet: servers with TCP alone, places where UDP falls silent, and name servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import h11

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.loopback.support import Certificates


@dataclass
class TcpServer:
    """HTTP/1.1 over TLS, and nothing else."""

    port: int = 0
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Method, target and content of each."""
    connections: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    """To send with each answer."""
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    """Set; while it is not, requests wait."""

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        http = h11.Connection(h11.SERVER)
        method, target, content = "", "", b""
        try:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(1 << 16))
                elif isinstance(event, h11.Request):
                    method, target, content = event.method.decode(), event.target.decode(), b""
                elif isinstance(event, h11.Data):
                    content += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.requests.append((method, target, content))
                    await self.answering.wait()
                    headers = [*self.headers, ("content-length", str(len(content)))]
                    writer.write(http.send(h11.Response(status_code=200, headers=headers)))
                    writer.write(http.send(h11.Data(data=content)) + http.send(h11.EndOfMessage()))
                    await writer.drain()
                    http.start_next_cycle()
                else:
                    break
        except (OSError, h11.RemoteProtocolError):
            pass  # The client went away.
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def tcp_server(certificates: Certificates, port: int = 0) -> AsyncIterator[TcpServer]:
    """One that echoes content."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificates.pair)
    state = TcpServer()
    state.answering.set()
    server = await asyncio.start_server(state.attend, "127.0.0.1", port, ssl=context)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()


@contextlib.contextmanager
def silent_udp(port: int) -> Iterator[socket.socket]:
    """A place that takes datagrams and answers none, as where a firewall drops them."""
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.setblocking(False)
        silent.bind(("127.0.0.1", port))
        yield silent


@dataclass
class SilentTcp:
    """A place that takes connections and says nothing."""

    port: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something has come."""
    heard: list[bytes] = field(default_factory=list)
    """What came over each connection that has ended."""

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        heard = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                heard += data
                self.reached.set()
        self.heard.append(heard)
        writer.close()


@contextlib.asynccontextmanager
async def silent_tcp(port: int = 0) -> AsyncIterator[SilentTcp]:
    """One of them."""
    state = SilentTcp()
    server = await asyncio.start_server(state.attend, "127.0.0.1", port)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()


async def settled() -> None:
    """Have the loop begin what it keeps for good: uvloop's threads for look-ups."""
    await asyncio.get_running_loop().getaddrinfo("localhost", 1)


def datagrams(silent: socket.socket) -> int:
    """How many have come since this was last asked."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while silent.recv(65536):
            count += 1
    return count


@dataclass
class NameServer(asyncio.DatagramProtocol):
    """Answers for HTTPS records."""

    records: dict[str, list[str]] = field(default_factory=dict)
    """Their data as in a zone file, by name."""
    asked: list[str] = field(default_factory=list)
    silent: bool = False
    transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = dns.message.from_wire(data)
        name = question.question[0].name
        self.asked.append(name.to_text(omit_final_dot=True))
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.RA
        if texts := self.records.get(self.asked[-1]):
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "HTTPS", *texts))
        if self.transport is not None and not self.silent:
            self.transport.sendto(answer.to_wire(), addr)


@contextlib.asynccontextmanager
async def name_server() -> AsyncIterator[tuple[NameServer, dns.asyncresolver.Resolver]]:
    """One, and who asks it."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    try:
        yield server, resolver
    finally:
        transport.abort()
