"""What UDP sockets cost the kernel when many share a port, without any QUIC: ``python -m programs.kernel WAY COUNT``.

WAY is `wildcard` (one socket, answers everybody), or the option that lets a socket for each client be bound to the same
address and port and connected to that client: `reuseaddr` or `reuseport`. All clients are one socket, which takes
another address of 127.0.0.0/8 for each. On the loopback the kernel looks up the receiving socket while it sends, so
that the time of a send contains it.
"""

from __future__ import annotations

import ipaddress
import json
import random
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable

from programs._files import HOST
from programs._orders import raise_descriptor_limit

SENDS = 5000
DATAGRAM = bytes(1200)
FIRST = int(ipaddress.IPv4Address("127.1.0.1"))
STRANGERS = int(ipaddress.IPv4Address("127.129.0.1"))
IP_PKTINFO = 8  # The socket module has no name for it.
PKTINFO = struct.Struct("=i4s4s")

Options = tuple[tuple[int, int], ...]
OPTIONS: dict[str, Options] = {
    "wildcard": (),
    "reuseaddr": ((socket.SOL_SOCKET, socket.SO_REUSEADDR),),
    "reuseport": ((socket.SOL_SOCKET, socket.SO_REUSEPORT),),
}


def main() -> None:
    way, count = sys.argv[1], int(sys.argv[2])
    raise_descriptor_limit()
    print(json.dumps(measure(OPTIONS[way], count)))


def measure(options: Options, count: int) -> dict[str, float]:
    """Return microseconds: to open a socket (the last tenth of them), to send to one, and to send as a stranger."""
    listener = opened(options)
    listener.bind((HOST, 0))
    address = listener.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as clients:
        clients.bind(("", 0))
        port = clients.getsockname()[1]
        sockets, opening = [listener], []
        if options:
            sockets = []
            for number in range(count):
                began = time.perf_counter()
                each = opened(options)
                each.bind(address)
                each.connect((str(ipaddress.IPv4Address(FIRST + number)), port))
                opening.append(time.perf_counter() - began)
                sockets.append(each)
        chance = random.Random(count)
        known = [chance.randrange(count) for _ in range(SENDS)]
        figures = {
            "known_us": sending(clients, address, FIRST, known, lambda number: sockets[number % len(sockets)]),
            "stranger_us": sending(clients, address, STRANGERS, known, lambda _: listener),
        }
        if opening:
            figures["open_us"] = statistics.median(opening[-max(count // 10, 1) :]) * 1e6
            began = time.perf_counter()
            for each in sockets:
                each.close()
            figures["close_us"] = (time.perf_counter() - began) / count * 1e6
    listener.close()
    return figures


def opened(options: Options) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    for level, option in options:
        made.setsockopt(level, option, 1)
    return made


def sending(
    clients: socket.socket,
    address: tuple[str, int],
    first: int,
    numbers: list[int],
    receiver: Callable[[int], socket.socket],
) -> float:
    """Return the median time of a send, each from the client with the next number, and all of them received."""
    times = []
    for number in numbers:
        source = PKTINFO.pack(0, ipaddress.IPv4Address(first + number).packed, bytes(4))
        control = [(socket.IPPROTO_IP, IP_PKTINFO, source)]
        target = receiver(number)
        began = time.perf_counter()
        clients.sendmsg([DATAGRAM], control, 0, address)
        times.append(time.perf_counter() - began)
        target.recv(len(DATAGRAM))  # BlockingIOError: the kernel gave it to another.
    return statistics.median(times) * 1e6


if __name__ == "__main__":
    main()
