"""What the tests of simulated journeys share."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypedDict

from whimbrel import Limits
from whimbrel.testing._capture import connection_ids

if TYPE_CHECKING:
    from whimbrel import Migration
    from whimbrel.testing._simulated_interface import SimulatedInterface
    from whimbrel.testing._simulation import SimulatedNetwork, SimulatedServer

WIFI, CELLULAR = 0.005, 0.020
"""Latencies: seconds, one way."""
ROUND_TRIP = 2 * CELLULAR
RATE = 5e6
SETTLED = 1.5
"""Seconds after which a transfer has a steady pace: slow start, which overfills the queue, is over by then."""
BYTES = 1_500_000
"""Takes 2.5 s or so."""
STEADY = Limits(stream_window=32 << 10)
"""Keeps less under way than fills a queue, so that nothing is lost and every pause has another cause."""
SWIFT = 2 * ROUND_TRIP + 0.030
"""What a download may pause for a change; its sender has to learn that the path is another."""
SWIFT_UPLOAD = 3 * ROUND_TRIP + 0.150


class Options(TypedDict, total=False):
    """Of a `SimulatedNetwork`, as far as tests vary them."""

    migration: Migration
    server: SimulatedServer
    idle_timeout: float
    keepalive: float
    limits: Limits
    ipv6: bool


def add_wifi(network: SimulatedNetwork, *, up: bool = True, portal: bool = False) -> SimulatedInterface:
    """The quick one, preferred where it is."""
    return network.interface("wlan0", latency=WIFI, rate=RATE, metric=100, up=up, portal=portal)


def add_cellular(network: SimulatedNetwork, *, up: bool = True, portal: bool = False) -> SimulatedInterface:
    """The slow one."""
    return network.interface("wwan0", latency=CELLULAR, rate=RATE, metric=200, up=up, portal=portal)


def ids_by_address(network: SimulatedNetwork) -> list[frozenset[bytes]]:
    """The connection IDs to the server, for each local address that was used."""
    packets = [packet for interface in network.interfaces for packet in interface.packets]
    addresses = dict.fromkeys(packet.source[0] for packet in packets if packet.direction == "to_server")
    by_address = [
        [packet for packet in packets if address in (packet.source[0], packet.destination[0])] for address in addresses
    ]
    return [ids.to_server for ids in connection_ids(*by_address, port=network.server_address[1])]


def most_within(times: list[float], seconds: float) -> int:
    """How many of them fall in the fullest stretch of so many seconds."""
    return max((sum(begin <= time < begin + seconds for time in times) for begin in times), default=0)


def shared(sets: list[frozenset[bytes]]) -> frozenset[bytes]:
    """What is in more than one of them."""
    return frozenset[bytes]().union(*(one & other for one, other in itertools.combinations(sets, 2)))
