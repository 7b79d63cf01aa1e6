"""Two radios, two routers that translate addresses, and a server: network namespaces on this machine's kernel.

    cli ── wlan0 ~~~ air ~~~ lan ── ap  ── wan ────── ap ──┐
     │      10.1.0.2        10.1.0.1   198.51.100.2        srv   192.0.2.80
     └──── wwan0 ~~~ air ~~~ lan ── bts ── wan ───── bts ──┘     2001:db8::80
            10.2.0.2        10.2.0.1   203.0.113.2

``~~~`` is a radio: a process that carries frames with delay, rate and loss. IPv4 is masqueraded by ``ap`` and ``bts``;
IPv6 is routed (the device has 2001:db8:1::2 and 2001:db8:2::2), as both are in most networks of today.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from whimbrel.testing._capture import ConnectionIds, Direction, connection_ids, linkable
from whimbrel.testing._interfaces import Interfaces
from whimbrel.testing._measure import Move, moves
from whimbrel.testing._namespace import Namespace, prepare
from whimbrel.testing._nat import Nat
from whimbrel.testing._radio import CELLULAR, WIFI, Air, Radio

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from whimbrel.testing._capture import Packet
    from whimbrel.testing._radio import Traffic

NamespaceName = Literal["cli", "ap", "bts", "srv"]

_SERVER, _SERVER_IPV6 = "192.0.2.80", "2001:db8::80"
_STOP_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class _Plan:
    """The numbers of one access network."""

    interface: str
    router: NamespaceName
    metric: int
    """As NetworkManager has them: Wi-Fi before cellular."""
    net: str
    """The device's network, such as 10.1.0: the router is .1 in it."""
    net_ipv6: str
    outside: str
    """The network between router and server: the server is .1 in it, the router .2."""
    outside_ipv6: str


_WIFI = _Plan("wlan0", "ap", 600, "10.1.0", "2001:db8:1", "198.51.100", "2001:db8:101")
_CELLULAR = _Plan("wwan0", "bts", 700, "10.2.0", "2001:db8:2", "203.0.113", "2001:db8:102")


class Laboratory:
    """The whole of it. Nothing is joined at first: begin with ``lab.cellular.join()``.

    Programs and threads of this process use it from the namespaces ``cli`` (the device) and ``srv`` (the server); see
    `popen` and `enter`. All of it is gone when the ``with`` block ends, or the process, however that happens.
    """

    def __init__(self, *, wifi: Radio = WIFI, cellular: Radio = CELLULAR) -> None:
        """Build it: a fifth of a second.

        Raises:
            LaboratoryUnavailable: neither root nor user namespaces, or threads already run (see `prepare`).
            ModuleNotFoundError: pyroute2 is missing.
        """
        self.server_address = _SERVER
        self.server_address_ipv6 = _SERVER_IPV6
        self._programs: list[subprocess.Popen[Any]] = []
        self._namespaces: dict[str, Namespace] = {}
        prepare()
        with contextlib.ExitStack() as stack:
            for name in ("cli", "ap", "bts", "srv", "air"):
                self._namespaces[name] = Namespace(name)
                stack.callback(self._namespaces[name].close)
            interfaces = {name: Interfaces(namespace) for name, namespace in self._namespaces.items()}
            for opened in interfaces.values():
                stack.callback(opened.close)
            _quiet(interfaces)
            self.wifi = AccessNetwork(_WIFI, wifi, self._namespaces, interfaces)
            stack.callback(self.wifi.close)
            self.cellular = AccessNetwork(_CELLULAR, cellular, self._namespaces, interfaces)
            stack.callback(self.cellular.close)
            stack.callback(self._stop_programs)
            self._cleanup = stack.pop_all()

    @property
    def networks(self) -> tuple[AccessNetwork, AccessNetwork]:
        """Both access networks, Wi-Fi first."""
        return self.wifi, self.cellular

    def enter(self, namespace: NamespaceName) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that has the calling thread in a namespace.

        Sockets stay in the namespace they were made in, and threads in the one they were started in.
        """
        return self._namespaces[namespace].enter()

    def popen(
        self, namespace: NamespaceName, argv: Sequence[str | os.PathLike[str]], **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a program in a namespace; options as for `subprocess.Popen`. It ends with the laboratory at the latest.

        Started by an ordinary user it has no privilege there, except that every port is free to use.
        """
        program = self._namespaces[namespace].popen(argv, **options)
        self._programs.append(program)
        return program

    def python(self, namespace: NamespaceName, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start this Python in a namespace, with arguments such as ``["-m", "whimbrel", "watch"]``."""
        return self.popen(namespace, [sys.executable, *argv], **options)

    def connection_ids(self, port: int) -> dict[str, ConnectionIds]:
        """Return the QUIC connection IDs captured on each interface, for a server's UDP port."""
        found = connection_ids(*(network.packets for network in self.networks), port=port)
        return {network.interface: ids for network, ids in zip(self.networks, found, strict=True)}

    def linkable(self, port: int, direction: Direction) -> frozenset[bytes]:
        """Return the connection IDs captured on both radios, for a server's UDP port."""
        return linkable(list(self.connection_ids(port).values()), direction)

    def moves(self, port: int) -> list[Move]:
        """Return when the device's datagrams to a server's UDP port went on over another network, as captured."""
        return moves({network.interface: network.packets for network in self.networks}, port)

    def close(self) -> None:
        """Stop what was started and remove everything. May be called twice."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _stop_programs(self) -> None:
        running = [program for program in self._programs if program.poll() is None]
        for program in running:
            program.terminate()
        for program in running:
            try:
                program.wait(_STOP_PATIENCE)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


class AccessNetwork:
    """One way out of the device: its interface, the radio, and the router that translates addresses."""

    def __init__(
        self, plan: _Plan, radio: Radio, namespaces: dict[str, Namespace], interfaces: dict[str, Interfaces]
    ) -> None:
        self.interface = plan.interface
        """The name of the device's interface."""
        self.nat_address = f"{plan.outside}.2"
        """Where IPv4 packets seem to come from, as the server sees it."""
        self._plan = plan
        self._host = 2
        self._device = interfaces["cli"]
        self._router = interfaces[plan.router]
        self._lay_cables(namespaces, interfaces["air"], interfaces["srv"])
        self._device_hardware = self._device.hardware_address(plan.interface)
        self._router_hardware = self._router.hardware_address("lan")
        self._nat = Nat(namespaces[plan.router], "wan")
        self._air = Air(namespaces["air"], f"{plan.interface}-cli", f"{plan.interface}-{plan.router}", radio)

    @property
    def address(self) -> str:
        """The device's IPv4 address in this network, while it has joined."""
        return f"{self._plan.net}.{self._host}"

    @property
    def address_ipv6(self) -> str:
        """The device's IPv6 address in this network, while it has joined."""
        return f"{self._plan.net_ipv6}::{self._host:x}"

    @property
    def radio(self) -> Radio:
        """What the radio is like now."""
        return self._air.radio

    def join(self) -> None:
        """Have the link up, and addresses and default routes as DHCP would give them. No harm if it is so."""
        plan, device = self._plan, self._device
        device.up(plan.interface)
        device.set_address(plan.interface, f"{self.address}/24")
        device.set_address(plan.interface, f"{self.address_ipv6}/64")
        # Never by ARP: a radio that goes silent must look fine to the kernel, or it would report what nobody told it.
        for gateway in (f"{plan.net}.1", f"{plan.net_ipv6}::1"):
            device.set_neighbour(plan.interface, gateway, self._router_hardware)
        for address in (self.address, self.address_ipv6):
            self._router.set_neighbour("lan", address, self._device_hardware)
        device.set_route("0.0.0.0/0", f"{plan.net}.1", plan.interface, plan.metric)
        device.set_route("::/0", f"{plan.net_ipv6}::1", plan.interface, plan.metric)

    up = join

    def leave(self) -> None:
        """Give addresses and routes back, with the link staying up. No harm if it is so."""
        plan, device = self._plan, self._device
        device.remove_route("0.0.0.0/0", plan.interface, plan.metric)
        device.remove_route("::/0", plan.interface, plan.metric)
        device.remove_address(plan.interface, f"{self.address}/24")
        device.remove_address(plan.interface, f"{self.address_ipv6}/64")

    def renew(self) -> None:
        """Leave and join with other addresses of the same network, as when a lease could not be renewed."""
        self.leave()
        self._host = self._host + 1 if self._host < 254 else 2
        self.join()

    def down(self) -> None:
        """Cut the device's link: the kernel removes its routes at once."""
        self._device.down(self.interface)

    def silence(self, silent: bool = True) -> None:
        """Carry nothing in either direction, or carry again. The device is not told: link, address and routes stay."""
        self._air.silence(silent)

    def lose(self, sent: Sequence[int] = (), received: Sequence[int] = ()) -> None:
        """Lose just these UDP packets of those that the device sends and receives from now on; 0 is the next."""
        self._air.lose(sent, received)

    def rebind(self) -> None:
        """Have the router forget its translations: what follows comes from another port, as the server sees it."""
        self._nat.forget()

    def set(self, *, rtt: float | None = None, rate: float | None = None, loss: float | None = None) -> None:
        """Change the radio: seconds, bits per second, part of the packets."""
        given = {"rtt": rtt, "rate": rate, "loss": loss}
        changes = {name: value for name, value in given.items() if value is not None}
        self._air.set(dataclasses.replace(self.radio, **changes))

    @property
    def packets(self) -> list[Packet]:
        """The packets captured so far, in the order of capture."""
        return self._air.packets(self._device_hardware)

    def traffic(self) -> tuple[Traffic, Traffic]:
        """Return what was carried from the device, and to it: cheaper than `packets`."""
        return self._air.traffic()

    def save(self, path: str | Path) -> None:
        """Write the capture so far as a pcap file. Its times are those of `time.monotonic`."""
        self._air.save(path)

    def close(self) -> None:
        """End the radio's process."""
        self._air.close()

    def _lay_cables(self, namespaces: dict[str, Namespace], air: Interfaces, server: Interfaces) -> None:
        plan, router = self._plan, self._router
        device_end, router_end = f"{plan.interface}-cli", f"{plan.interface}-{plan.router}"
        air.pair(device_end, plan.interface, namespaces["cli"])
        air.pair(router_end, "lan", namespaces[plan.router])
        server.pair(plan.router, "wan", namespaces[plan.router])
        for interfaces, name in ((self._device, plan.interface), (router, "lan"), (air, device_end), (air, router_end)):
            interfaces.offloads_off(name)
        for interfaces, name in ((air, device_end), (air, router_end), (router, "lan"), (router, "wan")):
            interfaces.up(name)
        server.up(plan.router)
        router.set_address("lan", f"{plan.net}.1/24")
        router.set_address("lan", f"{plan.net_ipv6}::1/64")
        router.set_address("wan", f"{plan.outside}.2/24")
        router.set_address("wan", f"{plan.outside_ipv6}::2/64")
        server.set_address(plan.router, f"{plan.outside}.1/24")
        server.set_address(plan.router, f"{plan.outside_ipv6}::1/64")
        router.set_route("0.0.0.0/0", f"{plan.outside}.1", "wan")
        router.set_route("::/0", f"{plan.outside_ipv6}::1", "wan")
        # Nothing is ever resolved by ARP or neighbour discovery, so the first packet takes as long as any other.
        for server_side in (f"{plan.outside}.1", f"{plan.outside_ipv6}::1"):
            router.set_neighbour("wan", server_side, server.hardware_address(plan.router))
        for router_side in (self.nat_address, f"{plan.outside_ipv6}::2"):
            server.set_neighbour(plan.router, router_side, router.hardware_address("wan"))
        server.set_route(f"{plan.net_ipv6}::/64", f"{plan.outside_ipv6}::2", plan.router)


def _quiet(interfaces: dict[str, Interfaces]) -> None:
    """Settings before any interface exists: routers route, and nobody talks unless asked."""
    for name, namespace in interfaces.items():
        for scope in ("all", "default"):
            # What a distribution has as its default would drop answers to packets pinned to the other interface.
            namespace.setting(f"ipv4/conf/{scope}/rp_filter", 0)
            namespace.setting(f"ipv6/conf/{scope}/accept_ra", 0)
            namespace.setting(f"ipv6/conf/{scope}/accept_dad", 0)
            namespace.setting(f"ipv6/conf/{scope}/disable_ipv6", int(name == "air"))
            # The server forwards too, so that it has an answer ("unreachable") for all addresses but its own.
            namespace.setting(f"ipv6/conf/{scope}/forwarding", int(name in ("ap", "bts", "srv")))
        namespace.setting("ipv4/ip_forward", int(name in ("ap", "bts", "srv")))
        namespace.setting("ipv4/ip_unprivileged_port_start", 0)
    server = interfaces["srv"]
    server.set_address("lo", f"{_SERVER}/32")
    server.set_address("lo", f"{_SERVER_IPV6}/128")
