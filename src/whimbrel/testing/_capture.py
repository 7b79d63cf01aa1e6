"""What an observer of a radio sees: packets, the connection IDs in them, and how much was carried when."""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from whimbrel.testing._air import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Direction = Literal["to_server", "to_client"]

_ETHERTYPES = {b"\x08\x00": 4, b"\x86\xdd": 6}
_TCP, _UDP = 6, 17


@dataclass(frozen=True, slots=True)
class Packet:
    """A UDP or TCP packet on a radio, on the device's side of any address translation.

    One to the server is seen when the device sends it, arriving or not; one to the client when it arrives.
    """

    time: float
    """Seconds, on the clock of `time.monotonic`."""
    direction: Direction
    protocol: Literal["udp", "tcp"]
    source: tuple[str, int]
    destination: tuple[str, int]
    size: int
    """Bytes of the IP packet."""
    length: int
    """Bytes of its UDP or TCP payload."""
    payload: bytes
    """The first of them: 50 or more of a UDP datagram that has them."""


def parse(records: bytes, device: str) -> list[Packet]:
    """Read pcap records, without the file's head, as the radio of a device writes them.

    Args:
        records: whole records.
        device: the device's hardware address, which tells the direction.
    """
    address = bytes.fromhex(device.replace(":", ""))
    packets: list[Packet] = []
    position = 0
    while position < len(records):
        seconds, nanoseconds, captured, _length = RECORD.unpack_from(records, position)
        position += RECORD.size
        packet = _packet(seconds + nanoseconds * 1e-9, records[position : position + captured], address)
        position += captured
        if packet is not None:
            packets.append(packet)
    return packets


def carried(packets: Iterable[Packet], *, width: float = 0.010) -> list[tuple[float, int]]:
    """Return the IP bytes in each bin of time, as (beginning of the bin, bytes); empty bins are left out.

    Args:
        packets: of one direction, unless both are meant.
        width: seconds.
    """
    bins: Counter[int] = Counter()
    for packet in packets:
        bins[int(packet.time / width)] += packet.size
    return [(number * width, size) for number, size in sorted(bins.items())]


@dataclass(frozen=True, slots=True)
class ConnectionIds:
    """The connection IDs that an observer saw, by direction, and what else there was of QUIC."""

    to_server: frozenset[bytes]
    to_client: frozenset[bytes]
    probes: int
    """Datagrams that ask for version negotiation: outside of any connection, so their IDs are not among the above."""

    def of(self, direction: Direction) -> frozenset[bytes]:
        """Return those of one direction."""
        return self.to_server if direction == "to_server" else self.to_client


def connection_ids(*radios: Iterable[Packet], port: int) -> list[ConnectionIds]:
    """Collect the connection IDs on each of several radios.

    Short headers do not say how long their connection ID is (RFC 9000 §17.3). The long headers of the handshake do,
    on whichever radio they were; so all the radios are looked at together. An ID of no bytes is none.

    Args:
        radios: each one's packets.
        port: the server's UDP port.
    """
    lengths: dict[Direction, int] = {}
    datagrams = [[packet for packet in packets if _is_quic(packet, port)] for packets in radios]
    for packet in sorted((packet for packets in datagrams for packet in packets), key=lambda packet: packet.time):
        header = _long_header(packet.payload)
        if header is not None and not header.is_negotiation:
            # Whoever sends a long header says how it wants to be addressed.
            lengths["to_client" if packet.direction == "to_server" else "to_server"] = len(header.source_id)
    return [_ids(packets, lengths) for packets in datagrams]


def linkable(radios: Sequence[ConnectionIds], direction: Direction) -> frozenset[bytes]:
    """Return the connection IDs seen on more than one radio: those by which an observer of both could link the two."""
    seen = Counter(connection_id for ids in radios for connection_id in ids.of(direction))
    return frozenset(connection_id for connection_id, count in seen.items() if count > 1)


def is_negotiation(packet: Packet) -> bool:
    """Whether a QUIC datagram asks which versions there are, or is the answer."""
    header = _long_header(packet.payload)
    return header is not None and header.is_negotiation


@dataclass(frozen=True, slots=True)
class _LongHeader:
    version: int
    destination_id: bytes
    source_id: bytes

    @property
    def is_negotiation(self) -> bool:
        """Whether it asks for a version that cannot exist (RFC 9000 §15), or is the answer to that (§17.2.1)."""
        return self.version == 0 or self.version & 0x0F0F0F0F == 0x0A0A0A0A


def _ids(packets: Iterable[Packet], lengths: dict[Direction, int]) -> ConnectionIds:
    found: dict[Direction, set[bytes]] = {"to_server": set(), "to_client": set()}
    probes = 0
    for packet in packets:
        header = _long_header(packet.payload)
        if header is None:
            length = lengths.get(packet.direction, 0)
            found[packet.direction].add(packet.payload[1 : 1 + length])
        elif not header.is_negotiation:
            found[packet.direction].add(header.destination_id)
        elif packet.direction == "to_server":
            probes += 1
    none = {b""}
    return ConnectionIds(frozenset(found["to_server"] - none), frozenset(found["to_client"] - none), probes)


def _is_quic(packet: Packet, port: int) -> bool:
    server = packet.destination if packet.direction == "to_server" else packet.source
    return packet.protocol == "udp" and server[1] == port and packet.length > 0


def _long_header(payload: bytes) -> _LongHeader | None:
    """Read a long header's version-independent part (RFC 8999 §5.1). Later packets in the datagram have the same ID."""
    if len(payload) < 7 or not payload[0] & 0x80:
        return None
    source_at = 6 + payload[5]
    if source_at >= len(payload):
        return None
    source_id = payload[source_at + 1 : source_at + 1 + payload[source_at]]
    return _LongHeader(int.from_bytes(payload[1:5], "big"), payload[6:source_at], source_id)


def _packet(at: float, frame: bytes, device: bytes) -> Packet | None:
    version = _ETHERTYPES.get(frame[12:14])
    if version is None or len(frame) < 14 + (20 if version == 4 else 40):
        return None
    if version == 4:
        protocol, start = frame[23], 14 + (frame[14] & 0x0F) * 4
        size = int.from_bytes(frame[16:18], "big")
        source, destination = _ipv4(frame[26:30]), _ipv4(frame[30:34])
    else:
        protocol, start = frame[20], 14 + 40
        size = 40 + int.from_bytes(frame[18:20], "big")
        source, destination = _ipv6(frame[22:38]), _ipv6(frame[38:54])
    if protocol not in (_UDP, _TCP) or len(frame) < start + (8 if protocol == _UDP else 20):
        return None
    head = 8 if protocol == _UDP else (frame[start + 12] >> 4) * 4
    length = size - (start - 14) - head
    return Packet(
        at,
        "to_client" if frame[:6] == device else "to_server",
        "udp" if protocol == _UDP else "tcp",
        (source, int.from_bytes(frame[start : start + 2], "big")),
        (destination, int.from_bytes(frame[start + 2 : start + 4], "big")),
        size,
        length,
        frame[start + head : start + head + length],
    )


@lru_cache(4096)
def _ipv4(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, address)


@lru_cache(4096)
def _ipv6(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, address)
