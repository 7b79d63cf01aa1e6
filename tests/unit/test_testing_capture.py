"""What is read out of captured frames: packets, and the connection IDs of QUIC."""

from __future__ import annotations

import socket
import struct

from whimbrel.testing import Packet, carried, connection_ids, linkable, moves
from whimbrel.testing._air import RECORD
from whimbrel.testing._capture import Direction, parse

DEVICE = "02:00:00:00:00:01"
ROUTER = "02:00:00:00:00:02"
CLIENT, SERVER = ("10.1.0.2", 50000), ("192.0.2.80", 443)
CLIENT_ID, SERVER_ID, FIRST_ID = b"c" * 5, b"s" * 8, b"f" * 18
GREASE = 0x1A2A3A4A


def frame(to: str, protocol: int, payload: bytes, *, ipv6: bool = False) -> bytes:
    source, destination = (SERVER, CLIENT) if to == DEVICE else (CLIENT, SERVER)
    ports = struct.pack("!HH", source[1], destination[1])
    if protocol == socket.IPPROTO_UDP:
        segment = ports + struct.pack("!HH", 8 + len(payload), 0) + payload
    else:
        segment = ports + struct.pack("!IIBBHHH", 1, 1, 8 << 4, 0x10, 100, 0, 0) + bytes(12) + payload
    if ipv6:
        packet = (
            struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + segment
        )
        kind = b"\x86\xdd"
    else:
        addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
        packet = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(segment), 0, 64, protocol, 0) + addresses + segment
        kind = b"\x08\x00"
    sender = ROUTER if to == DEVICE else DEVICE
    return bytes.fromhex((to + sender).replace(":", "")) + kind + packet


def record(at: float, data: bytes, *, snapshot: int = 112) -> bytes:
    head = data[:snapshot]
    return RECORD.pack(int(at), round((at - int(at)) * 1e9), len(head), len(data)) + head


def long_header(destination_id: bytes, source_id: bytes, version: int = 1) -> bytes:
    ids = bytes([len(destination_id)]) + destination_id + bytes([len(source_id)]) + source_id
    return b"\xc3" + version.to_bytes(4, "big") + ids + bytes(20)


def short_header(destination_id: bytes) -> bytes:
    return b"\x43" + destination_id + bytes(20)


def packet(at: float, direction: Direction, payload: bytes, *, protocol: int = 17, port: int = 443) -> Packet:
    server = (SERVER[0], port)
    source, destination = (CLIENT, server) if direction == "to_server" else (server, CLIENT)
    name = "udp" if protocol == 17 else "tcp"
    return Packet(at, direction, name, source, destination, len(payload) + 28, len(payload), payload)  # type: ignore[arg-type]


def handshake() -> list[Packet]:
    return [
        packet(1.0, "to_server", long_header(FIRST_ID, CLIENT_ID)),
        packet(1.1, "to_client", long_header(CLIENT_ID, SERVER_ID)),
        packet(1.2, "to_server", short_header(SERVER_ID)),
        packet(1.3, "to_client", short_header(CLIENT_ID)),
    ]


def test_a_datagram_is_read_with_its_direction_addresses_and_lengths() -> None:
    payload = bytes(range(200))
    [up, down] = parse(record(1.5, frame(ROUTER, 17, payload)) + record(2.25, frame(DEVICE, 17, b"hi")), DEVICE)
    assert up == Packet(1.5, "to_server", "udp", CLIENT, SERVER, 228, 200, payload[:70])
    assert down == Packet(2.25, "to_client", "udp", SERVER, CLIENT, 30, 2, b"hi")


def test_ipv6_and_tcp_are_read_as_well() -> None:
    [udp] = parse(record(1, frame(ROUTER, 17, bytes(100), ipv6=True)), DEVICE)
    assert (udp.source[0], udp.destination[0], udp.size, udp.length) == ("::1", "::2", 148, 100)
    assert len(udp.payload) == 50
    [tcp] = parse(record(1, frame(DEVICE, 6, bytes(1000))), DEVICE)
    assert (tcp.protocol, tcp.size, tcp.length) == ("tcp", 1052, 1000)


def test_other_frames_and_stumps_are_left_out() -> None:
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    ping = frame(ROUTER, 1, bytes(56))
    whole = frame(ROUTER, 17, bytes(100))
    stumps = b"".join(record(1, whole, snapshot=length) for length in range(42))
    assert parse(record(1, arp) + record(1, ping) + stumps, DEVICE) == []
    assert parse(b"", DEVICE) == []


def test_bytes_are_counted_in_bins_of_time() -> None:
    packets = [packet(at, "to_client", bytes(72)) for at in (1.001, 1.009, 1.011, 5.0)]
    bins = carried(packets)
    assert [size for _, size in bins] == [200, 100, 100]
    assert [round(at, 6) for at, _ in bins] == [1.0, 1.01, 5.0]


def test_short_headers_are_read_by_the_lengths_that_long_headers_told() -> None:
    [ids] = connection_ids(handshake(), port=443)
    assert ids.to_server == {FIRST_ID, SERVER_ID}
    assert ids.to_client == {CLIENT_ID}
    assert ids.probes == 0


def test_lengths_are_known_on_a_radio_that_saw_no_handshake() -> None:
    wifi = [packet(2.0, "to_server", short_header(b"S" * 8)), packet(2.1, "to_client", short_header(b"C" * 5))]
    cellular_ids, wifi_ids = connection_ids(handshake(), wifi, port=443)
    assert wifi_ids.to_server == {b"S" * 8}
    assert wifi_ids.to_client == {b"C" * 5}
    assert linkable([cellular_ids, wifi_ids], "to_server") == frozenset()


def test_an_id_on_two_radios_is_linkable_in_its_direction() -> None:
    wifi = [packet(2.0, "to_server", short_header(SERVER_ID)), packet(2.1, "to_client", short_header(b"C" * 5))]
    both = connection_ids(handshake(), wifi, port=443)
    assert linkable(both, "to_server") == {SERVER_ID}
    assert linkable(both, "to_client") == frozenset()


def test_an_id_of_no_bytes_links_nothing() -> None:
    def radio(at: float) -> list[Packet]:
        return [
            packet(at, "to_server", long_header(FIRST_ID[: int(at)], b"")),
            packet(at + 0.1, "to_client", long_header(b"", SERVER_ID)),
            packet(at + 0.2, "to_client", short_header(b"")),
        ]

    both = connection_ids(radio(10), radio(12), port=443)
    assert both[0].to_client == frozenset()
    assert linkable(both, "to_client") == frozenset()


def test_version_negotiation_is_counted_apart() -> None:
    asked = packet(2.0, "to_server", long_header(b"x" * 8, b"y" * 8, version=GREASE))
    answered = packet(2.1, "to_client", long_header(b"y" * 8, b"x" * 8, version=0))
    cellular, wifi = connection_ids(handshake(), [asked, answered, asked], port=443)
    assert (wifi.to_server, wifi.to_client, wifi.probes) == (frozenset(), frozenset(), 2)
    # The lengths in it are not those of the connection.
    assert cellular.to_client == {CLIENT_ID}


def test_other_traffic_has_no_connection_ids() -> None:
    others = [packet(1, "to_server", short_header(SERVER_ID), port=53), packet(1, "to_server", bytes(30), protocol=6)]
    [ids] = connection_ids([*others, packet(1, "to_server", b"")], port=443)
    assert (ids.to_server, ids.to_client) == (frozenset(), frozenset())


def test_cut_long_headers_do_no_harm() -> None:
    whole = long_header(FIRST_ID, CLIENT_ID)
    for length in range(len(whole)):
        connection_ids([packet(1, "to_server", whole[:length])], port=443)


def test_a_move_is_a_datagram_over_another_network_than_the_one_before() -> None:
    cellular = [packet(at, "to_server", short_header(SERVER_ID)) for at in (1.0, 1.1, 3.0)]
    wifi = [
        packet(1.05, "to_server", long_header(b"x" * 8, b"y" * 8, version=GREASE)),
        packet(2.0, "to_server", short_header(SERVER_ID)),
        packet(2.5, "to_client", short_header(CLIENT_ID)),
    ]
    found = moves({"wwan0": cellular, "wlan0": wifi}, 443)
    assert [(move.time, move.source, move.target) for move in found] == [
        (2.0, "wwan0", "wlan0"),
        (3.0, "wlan0", "wwan0"),
    ]
