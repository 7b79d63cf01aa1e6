"""What the operating system knows about networks: which way a packet would leave, and when that may have changed.

Usable alone: nothing here needs the native core, a connection, or privileges.

    with whimbrel.network.watch("192.0.2.1") as changes:
        for peer, route in changes:
            print(peer, "is now reached over", route.interface if route else "nothing")
"""

from whimbrel.network._netlink import NetlinkNews
from whimbrel.network._poll import PolledNews
from whimbrel.network._route import Route, route_to, routes_to
from whimbrel.network._suspension import Suspension
from whimbrel.network._watch import NetworkNews, Settling, Watcher, subscribe, watch

__all__ = [
    "NetlinkNews",
    "NetworkNews",
    "PolledNews",
    "Route",
    "Settling",
    "Suspension",
    "Watcher",
    "route_to",
    "routes_to",
    "subscribe",
    "watch",
]
