"""What clients of bad will are made of: real Initials by the thousand, floods, and a client that sends any frame."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import socket
import threading
from typing import TYPE_CHECKING, Any, Literal, Self

import pytest
from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch

from tests.loopback.support import ALPN, Certificates
from whimbrel import _core

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


INITIAL = 1200
"""Bytes of the smallest datagram that may begin a connection (RFC 9000 §14.1)."""
MIB = 1 << 20
BURST = 40
UDP_SEGMENT = 103

BOTH_WAYS = pytest.mark.parametrize("sockets", ["wildcard", "connected"])

Sockets = Literal["wildcard", "connected"]


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Initials:
    """First datagrams of clients, each of another connection, as real ones send them. They go no further."""

    def __init__(self) -> None:
        transport = _core.TransportConfig(
            idle_timeout=10, stream_window=1 << 16, connection_window=1 << 16, max_streams=1, send_buffer=1 << 16
        )
        config = _core.ClientConfig(alpn=[ALPN.encode()], roots=None, transport=transport, keylog=False)
        self._endpoint = _core.Endpoint.client(config, simulated=True)

    def take(self, count: int) -> list[bytes]:
        for _ in range(count):
            self._endpoint.connect(("127.0.0.1", 443), "localhost", "unconnected", None)
        return [data for data, *_ in self._endpoint.take()]


def mutate(chance: random.Random, datagram: bytes, other: bytes) -> bytes:
    """Something that was a datagram."""
    data = bytearray(datagram)
    match chance.randrange(5):
        case 0:  # A bit of it is wrong.
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 1:  # Much of its head is.
            for index in range(chance.randrange(1, 40)):
                data[index] = chance.randrange(256)
        case 2:
            del data[chance.randrange(len(data)) :]
        case 3:  # Something else hangs on.
            data += other[: chance.randrange(200)]
        case _:  # Two begin in one.
            cut = chance.randrange(len(data))
            data[cut:] = other[: len(data) - cut]
    return bytes(data[:1452])


def garbage(chance: random.Random, count: int) -> list[bytes]:
    """Random datagrams of random sizes; some could be short headers, some long ones of version 1."""
    heads = (
        b"",
        b"\x40",
        b"\xc0\0\0\0\1",
        b"\xc0\0\0\0\1\x08",
        b"\xe0\0\0\0\1",
        b"\xc0\x1a\x2a\x3a\x4a",
        b"\xc0\0\0\0\0",
    )
    return [
        chance.choice(heads) + chance.randbytes(chance.choice((0, 1, 5, 20, 40, 100, 1200, 1400))) for _ in range(count)
    ]


class Flood(threading.Thread):
    """Sends datagrams to a server as fast as it goes, from a thread, so that server and clients go on."""

    def __init__(
        self, address: tuple[str, int], datagrams: Sequence[bytes], count: int, *, segmented: bool = False
    ) -> None:
        super().__init__(name="flood")
        self._address, self._datagrams, self._count, self._segmented = address, datagrams, count, segmented
        self.sent = 0
        self.failure: Exception | None = None
        self._enough = threading.Event()
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join()
        if self.failure is not None:
            raise self.failure

    async def over(self) -> None:
        """Wait until all is sent."""
        await self._over.wait()

    def run(self) -> None:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                self._send_all(sender)
        except OSError as error:
            self.failure = error
        finally:
            self._loop.call_soon_threadsafe(self._over.set)

    def _send_all(self, sender: socket.socket) -> None:
        sender.connect(self._address)
        datagrams = self._datagrams
        if self._segmented:
            # The kernel cuts each into datagrams of one size again.
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, INITIAL)
            same = [each[:INITIAL].ljust(INITIAL, b"\0") for each in datagrams]
            datagrams = [b"".join(same[at : at + BURST]) for at in range(0, len(same), BURST)]
        each = BURST if self._segmented else 1
        for number, datagram in enumerate(itertools.cycle(datagrams)):
            if self.sent >= self._count:
                return
            with contextlib.suppress(ConnectionRefusedError):
                sender.send(datagram)
            self.sent += each
            # A rate, so time is what it is about: the kernel drops what nobody has read, and then little of it is seen.
            if number % (400 // each) == 0 and self._enough.wait(0.001):
                return


class OddClient:
    """A client that can send any frame: aioquic's handshake, and then packets by hand."""

    def __init__(self, certificates: Certificates, **configuration: Any) -> None:
        config = QuicConfiguration(is_client=True, alpn_protocols=[ALPN], server_name="localhost", **configuration)
        config.load_verify_locations(cafile=str(certificates.ca))
        self.quic = QuicConnection(configuration=config)
        self.closed: events.ConnectionTerminated | None = None
        self.received = 0
        """Bytes of datagrams."""
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def connect(self, address: tuple[str, int]) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Ears(self._heard), remote_addr=address)
        self._address = address
        self.quic.connect(address, now=loop.time())
        self.transmit()
        await self._connected.wait()
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
            await asyncio.sleep(0)

    def transmit(self) -> None:
        loop = asyncio.get_running_loop()
        for data, _ in self.quic.datagrams_to_send(now=loop.time()):
            self.send(data)
        if self._timer is not None:
            self._timer.cancel()
        due = self.quic.get_timer()
        self._timer = None if due is None else loop.call_at(due, self._due)

    def send(self, datagram: bytes) -> None:
        assert self._transport is not None
        self._transport.sendto(datagram)

    def send_frames(self, *frames: bytes) -> None:
        """One 1-RTT packet with just that in it."""
        quic = self.quic
        assert quic._version is not None
        builder = QuicPacketBuilder(
            host_cid=quic.host_cid,
            is_client=True,
            max_datagram_size=1200,
            packet_number=quic._packet_number,
            peer_cid=quic._peer_cid.cid,
            version=quic._version,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, quic._cryptos[Epoch.ONE_RTT])
        content = b"".join(frames)
        buffer = builder.start_frame(content[0], capacity=len(content))
        buffer.push_bytes(content[1:] + bytes(max(0, 8 - len(content))))
        datagrams, _ = builder.flush()
        quic._packet_number = builder.packet_number
        for data in datagrams:
            self.send(data)

    async def ended(self) -> events.ConnectionTerminated:
        """Wait until the server has closed, and say how."""
        await self._ended.wait()
        assert self.closed is not None
        return self.closed

    def _due(self) -> None:
        self.quic.handle_timer(now=asyncio.get_running_loop().time())
        self._attend()

    def _heard(self, data: bytes) -> None:
        self.received += len(data)
        self.quic.receive_datagram(data, self._address, now=asyncio.get_running_loop().time())
        self._attend()

    def _attend(self) -> None:
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted):
                self._connected.set()
            elif isinstance(event, events.ConnectionTerminated):
                self.closed = event
                self._connected.set()
                self._ended.set()
        self.transmit()


class _Ears(asyncio.DatagramProtocol):
    def __init__(self, heard: Any) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._heard(data)

    def error_received(self, exc: Exception) -> None:
        """The server's port is closed: the test will notice."""


def frame(kind: int, *numbers: int, data: bytes = b"") -> bytes:
    """A frame of variable-length integers (RFC 9000 §16), and bytes after them."""
    buffer = Buffer(capacity=16 + 8 * len(numbers) + len(data))
    buffer.push_uint_var(kind)
    for number in numbers:
        buffer.push_uint_var(number)
    buffer.push_bytes(data)
    return buffer.data


@contextlib.contextmanager
def no_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged that an operator would have to read."""
    with caplog.at_level("WARNING"):
        yield
    ours = (record for record in caplog.records if record.name.startswith("whimbrel"))
    told = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
    assert not told, told[:5]


def received(sockets: Iterable[socket.socket]) -> int:
    """How many bytes wait in these sockets; they are read."""
    total = 0
    for each in sockets:
        with contextlib.suppress(BlockingIOError):
            while True:
                total += len(each.recv(65536))
    return total
