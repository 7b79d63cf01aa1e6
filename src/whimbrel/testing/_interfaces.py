"""What the laboratory asks of rtnetlink and ethtool: interfaces, addresses, routes, neighbours.

The one place, with ``_nat``, that names pyroute2: neither ``ip`` nor ``ethtool`` need be installed.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
import time
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whimbrel.testing._namespace import Namespace

_NODAD = 0x02  # IFA_F_NODAD: usable at once; nobody else is there to have the same address.
_PERMANENT = 0x80  # NUD_PERMANENT
_MAIN_TABLE = 254
_LOCAL = 2  # RTN_LOCAL


class Interfaces:
    """The network configuration of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        """Open a netlink socket inside.

        Raises:
            ModuleNotFoundError: pyroute2 is missing; the message says how to get it.
        """
        self._namespace = namespace
        self._netlink: Any = namespace.run(_open)

    def pair(self, name: str, peer: str, elsewhere: Namespace) -> None:
        """Make an interface here and, joined to it, another one in another namespace. Both are down."""
        end = {"ifname": peer, "net_ns_fd": elsewhere.fileno()}
        self._call("link", "add", ifname=name, kind="veth", peer=end)

    def up(self, name: str) -> None:
        """Set the link up."""
        self._call("link", "set", index=self._index(name), state="up")

    def down(self, name: str) -> None:
        """Set the link down. The kernel removes its routes, and its IPv6 addresses."""
        self._call("link", "set", index=self._index(name), state="down")

    def set_address(self, name: str, address: str) -> None:
        """Give an interface an address such as ``10.1.0.2/24``; no harm if it has it."""
        interface = ip_interface(address)
        flags: dict[str, Any] = {"flags": _NODAD} if interface.version == 6 else {}
        self._call(
            "addr", "replace", index=self._index(name), address=str(interface.ip),
            prefixlen=interface.network.prefixlen, **flags,
        )  # fmt: skip
        if interface.version == 6:
            self._wait_until_local(str(interface.ip))

    def remove_address(self, name: str, address: str) -> None:
        """Take an address away, and with it the routes that need it; no harm if it is not there."""
        interface = ip_interface(address)
        self._call(
            "addr", "del", index=self._index(name), address=str(interface.ip),
            prefixlen=interface.network.prefixlen, missing_is_fine=True,
        )  # fmt: skip

    def set_route(self, destination: str, gateway: str, name: str, metric: int = 0) -> None:
        """Route a network such as ``0.0.0.0/0`` by a gateway; no harm if it is there."""
        network = ip_network(destination)
        priority: dict[str, Any] = {"priority": metric} if metric else {}
        self._call(
            "route", "replace", dst=str(network), family=_family(network.version), gateway=gateway,
            oif=self._index(name), table=_MAIN_TABLE, **priority,
        )  # fmt: skip

    def remove_route(self, destination: str, name: str, metric: int) -> None:
        """Take a route away; no harm if it is not there."""
        network = ip_network(destination)
        self._call(
            "route", "del", dst=str(network), family=_family(network.version), oif=self._index(name),
            table=_MAIN_TABLE, priority=metric, missing_is_fine=True,
        )  # fmt: skip

    def set_neighbour(self, name: str, address: str, hardware_address: str) -> None:
        """Say which hardware address an address has, for good: no ARP and no neighbour discovery."""
        self._call(
            "neigh", "replace", ifindex=self._index(name), dst=address, lladdr=hardware_address,
            state=_PERMANENT, family=_family(ip_interface(address).version),
        )  # fmt: skip

    def hardware_address(self, name: str) -> str:
        """Return an interface's hardware address, such as ``02:00:00:00:00:01``."""
        [link] = self._call("get_links", self._index(name))
        return str(link.get("address"))

    def offloads_off(self, name: str) -> None:
        """Make frames on this interface what they would be on the air: whole, short and with their checksums."""
        self._namespace.run(_offloads_off, name)

    def setting(self, name: str, value: int) -> None:
        """Write a file below ``/proc/sys/net`` of this namespace."""
        self._namespace.run((Path("/proc/sys/net") / name).write_text, str(value))

    def close(self) -> None:
        """Close the netlink socket."""
        self._namespace.run(self._netlink.close)

    def _wait_until_local(self, address: str) -> None:
        """The kernel sends from an IPv6 address at once, but takes packets to it only when a worker got round to it."""
        give_up = time.monotonic() + 1.0
        while time.monotonic() < give_up:
            [route] = self._call("route", "get", dst=address, family=socket.AF_INET6)
            if route["type"] == _LOCAL:
                return
            time.sleep(0.001)

    def _index(self, name: str) -> int:
        return self._namespace.run(socket.if_nametoindex, name)

    def _call(self, what: str, *args: object, missing_is_fine: bool = False, **kwargs: object) -> Any:
        from pyroute2 import NetlinkError  # type: ignore[import-untyped]

        try:
            return self._namespace.run(lambda: list(getattr(self._netlink, what)(*args, **kwargs)))
        except NetlinkError as error:
            if missing_is_fine and error.code in (errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENODEV):
                return []
            raise


def _open() -> Any:
    try:
        from pyroute2 import IPRoute
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the laboratory needs pyroute2: pip install 'whimbrel[lab]'") from error
    return IPRoute()


def _family(version: int) -> int:
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _offloads_off(name: str) -> None:
    ethtool, settings = 0x8946, (0x17, 0x1F, 0x24, 0x19, 0x2C)  # SIOCETHTOOL; set: TXCSUM TSO GSO SG GRO
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in settings:
            value = array.array("B", struct.pack("=II", command, 0))
            fcntl.ioctl(control, ethtool, struct.pack("16sP", name.encode(), value.buffer_info()[0]))
