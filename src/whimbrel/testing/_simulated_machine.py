"""The machines at both ends of a simulated network, as the library finds them: routes, sockets, news, and a driver.

What runs on them is what runs in production. The pumps are turned by the loop; the control, which has a thread of its
own elsewhere, is turned by the same loop here.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from typing import TYPE_CHECKING, Final, Protocol

from whimbrel import _core
from whimbrel._control import Control
from whimbrel._driver import Attachment
from whimbrel.network import Route

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from whimbrel._config import Migration
    from whimbrel._errors import ConnectionLost
    from whimbrel._events import PathChange
    from whimbrel._machine import ProbeWire
    from whimbrel._path import Address
    from whimbrel._steering import Steering
    from whimbrel.network import NetworkNews
    from whimbrel.testing._simulated_interface import SimulatedInterface
    from whimbrel.testing._simulated_loop import VirtualLoop

NEWS: Final = 0.003
"""Seconds from a change of the network to its news, as rtnetlink brings them."""
FIRST_PORT: Final = 40_000
"""The core numbers simulated sockets from here. A server has one."""
PROBE_PORTS: Final = 60_000
"""Where probes come from: above all ports of the core's simulated sockets."""


class Surroundings(Protocol):
    """What lies around the machines."""

    interfaces: list[SimulatedInterface]

    @property
    def now(self) -> float:
        """Seconds since the beginning."""

    def at(self, time: float, action: Callable[[], object]) -> None:
        """Do something then."""

    def leave_device(self, data: bytes, source: Address, destination: Address, interface: SimulatedInterface) -> None:
        """The device sends a datagram."""

    def leave_server(self, data: bytes, source: Address, destination: Address) -> None:
        """The server sends a datagram."""

    def told(self, change: PathChange | ConnectionLost) -> None:
        """A connection of the device's is told that."""

    def asked(self) -> None:
        """The device has asked for version negotiation."""


class SimulatedMachine:
    """The device and the server at once: clients get the one, servers the other."""

    def __init__(self, around: Surroundings, loop: VirtualLoop, seed: int) -> None:
        """Make both.

        Args:
            around: the networks.
            loop: in which everything happens.
            seed: of the engines.
        """
        self._around = around
        self._chance = random.Random(seed)
        self._loop = loop
        # By the descriptor that wakes who pumps it.
        self._clients: dict[int, _core.Endpoint] = {}
        self._servers: dict[int, _core.Endpoint] = {}
        self._listening: dict[int, int] = {}  # by port
        self._ports = Ports()
        self._probe_ports = itertools.count(PROBE_PORTS)
        self._probes: dict[int, SimulatedProbe] = {}
        self._ready: dict[int | ProbeWire, Callable[[float], None]] = {}
        self._news: list[SimulatedNews] = []
        self._control: Control | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False

    # What the library asks --------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._around.now

    def route_to(self, peer: str) -> Route | None:
        return next(iter(self.routes_to(peer)), None)

    def routes_to(self, peer: str) -> Sequence[Route]:
        return [route for interface in self._ways() if (route := _route(interface, peer)) is not None]

    def dialled(self, core: _core.Connection) -> Route | None:
        address, _ = core.local_address()
        owner = next((each for each in self._around.interfaces if address in (each.address, each.address6)), None)
        return None if owner is None else Route(owner.name, owner.index, address)

    def subscribe(self) -> NetworkNews:
        news = SimulatedNews()
        self._news.append(news)
        return news

    def open_probe(self, remote: Address, route: Route) -> ProbeWire:
        interface = self._interface(route.index)
        if interface is None or route.source not in interface.addresses:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        port = next(self._probe_ports)

        def send(datagram: bytes) -> None:
            self._around.asked()
            self._around.leave_device(datagram, (route.source, port), remote, interface)

        probe = self._probes[port] = SimulatedProbe(send, lambda: self._probes.pop(port, None))
        return probe

    def client_endpoint(self, config: _core.ClientConfig) -> _core.Endpoint:
        endpoint = self._open(self._clients, _core.Endpoint.client(config, simulated=True, seed=self._seed()))
        self._set_addresses(endpoint)
        return endpoint

    def server_endpoint(
        self,
        config: _core.ServerConfig,
        addresses: Sequence[Address],
        *,
        connected: bool,
        retry: str,
        max_connections: int | None,
    ) -> _core.Endpoint:
        ports = {port or self._free_port() for _, port in addresses}
        self._forget_closed()
        if not ports.isdisjoint(self._listening):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        named = [(host, port or min(ports)) for host, port in addresses]
        endpoint = _core.Endpoint.server(
            config,
            named,
            connected=connected,
            retry=retry,
            max_connections=max_connections,
            simulated=True,
            seed=self._seed(),
        )
        self._open(self._servers, endpoint)
        self._listening.update(dict.fromkeys(ports, endpoint.wake_fileno()))
        return endpoint

    def attach(
        self,
        endpoint: _core.Endpoint,
        core: _core.Connection,
        peer: str,
        settings: Migration,
        report: Callable[[PathChange | ConnectionLost], None],
    ) -> Attachment:
        def told(change: PathChange | ConnectionLost) -> None:
            self._around.told(change)
            report(change)

        if self._control is None:
            self._control = Control(self, self, forgiving=False)
        return Attachment(self, self._control.add(endpoint, core, peer, settings, told))

    def close(self) -> None:
        """Give back what is real, after the loop is closed."""
        for news in self._news:
            news.close()

    # The control, which is turned here --------------------------------------------------------------------------------

    def call(self, act: Callable[[float], None]) -> None:
        assert self._control is not None  # Who calls is attached.
        self._control.post(act)

    def release(self, steering: Steering) -> None:
        steering.end()
        assert self._control is not None
        self._control.remove(steering)

    def register(self, source: int | ProbeWire, ready: Callable[[float], None]) -> None:
        self._ready[source] = ready
        if isinstance(source, int):
            self._loop.add_reader(source, self.turn, ready)
        elif isinstance(source, SimulatedProbe):
            source.came = lambda: self.turn(ready)

    def unregister(self, source: int | ProbeWire) -> None:
        del self._ready[source]
        if isinstance(source, int):
            self._loop.remove_reader(source)

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self.turn)

    def wake_by(self, deadline: float) -> None:
        self.wake()  # A turn in virtual time costs nothing.

    def turn(self, *ready: Callable[[float], None]) -> None:
        """One turn of the control."""
        if self._control is None:
            return
        self._woken = False
        self._control.turn(ready)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._control.deadline
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self.turn)

    def networks_changed(self) -> None:
        """Addresses or routes are others now. The news of it is on its way."""
        for endpoint in self._clients.values():
            self._set_addresses(endpoint)
        self._around.at(self._around.now + NEWS, self._network_news)

    def _network_news(self) -> None:
        self._news = [news for news in self._news if not news.is_closed]
        for news in self._news:
            news.come()

    # Packets ----------------------------------------------------------------------------------------------------------

    def set_time(self, time: float) -> None:
        """It will be that time: the engines have to know before anything is asked of them."""
        for endpoint in (*self._clients.values(), *self._servers.values()):
            endpoint.set_time(time)

    def flush(self) -> None:
        """Let go what the engines have sent."""
        for endpoint in self._clients.values():
            self._leave_device(endpoint)
        for descriptor, endpoint in self._servers.items():
            self._leave_server(descriptor, endpoint)
        self._forget_closed()

    def at_server(self, data: bytes, source: Address, destination: Address) -> None:
        """A datagram arrives at the server."""
        descriptor = self._listening.get(destination[1])
        if descriptor is not None:
            self._deliver(descriptor, self._servers[descriptor], data, source, (destination[0], FIRST_PORT), 0)

    def at_device(self, data: bytes, source: Address, destination: Address, interface: SimulatedInterface) -> None:
        """A datagram arrives at the device."""
        address, port = destination
        if port in self._probes:
            self._probes[port].arrive(data)
        elif (owner := self._ports.owner(port)) is not None and owner[0] in self._clients:
            descriptor, number = owner
            endpoint = self._clients[descriptor]
            self._deliver(descriptor, endpoint, data, source, (address, number), interface.index)

    def _deliver(
        self,
        descriptor: int,
        endpoint: _core.Endpoint,
        data: bytes,
        source: Address,
        destination: Address,
        interface: int,
    ) -> None:
        endpoint.deliver(data, source, destination, interface)
        self._loop.readable(descriptor)

    def _leave_device(self, endpoint: _core.Endpoint) -> None:
        descriptor = next(descriptor for descriptor, each in self._clients.items() if each is endpoint)
        for data, source, number, index, destination in endpoint.take():
            # Without a pin the kernel chooses by its routes, and takes the address of what it chose.
            ways = self._ways(destination[0])
            interface = self._interface(index) if index else ways[0] if ways else None
            if interface is None:
                continue
            address = source or interface.source(_family(destination[0]))
            if address is not None:
                port = self._ports.of(descriptor, number)
                self._around.leave_device(data, (address, port), destination, interface)

    def _leave_server(self, descriptor: int, endpoint: _core.Endpoint) -> None:
        port = next(port for port, listening in self._listening.items() if listening == descriptor)
        for data, source, _, _, destination in endpoint.take():
            self._around.leave_server(data, (source or "", port), destination)

    def crash(self, endpoint: _core.Endpoint) -> None:
        """A server goes without a word: what it would send now never leaves."""
        descriptor = next(descriptor for descriptor, each in self._servers.items() if each is endpoint)
        del self._servers[descriptor]
        self._listening = {port: each for port, each in self._listening.items() if each != descriptor}

    # Small parts ------------------------------------------------------------------------------------------------------

    def _open(self, endpoints: dict[int, _core.Endpoint], endpoint: _core.Endpoint) -> _core.Endpoint:
        self._forget_closed()
        endpoint.set_time(self._around.now)
        endpoints[endpoint.wake_fileno()] = endpoint
        return endpoint

    def _forget_closed(self) -> None:
        """Endpoints that nobody pumps any more have sent their last."""
        for descriptor in [each for each in self._clients if not self._loop.has_reader(each)]:
            self._leave_device(self._clients[descriptor])
            del self._clients[descriptor]
            self._ports.release(descriptor)
        for descriptor in [each for each in self._servers if not self._loop.has_reader(each)]:
            self._leave_server(descriptor, self._servers[descriptor])
            del self._servers[descriptor]
            self._listening = {port: each for port, each in self._listening.items() if each != descriptor}

    def _set_addresses(self, endpoint: _core.Endpoint) -> None:
        endpoint.set_addresses([(way.index, address) for way in self._ways() for address in way.addresses])

    def _ways(self, peer: str | None = None) -> list[SimulatedInterface]:
        """The device's interfaces with a route, the preferred one first."""
        family = None if peer is None else _family(peer)
        up = [each for each in self._around.interfaces if each.is_up and (family is None or each.source(family))]
        return sorted(up, key=lambda interface: interface.metric)

    def _interface(self, index: int) -> SimulatedInterface | None:
        return next((each for each in self._around.interfaces if each.index == index), None)

    def _seed(self) -> int:
        return self._chance.getrandbits(64)

    def _free_port(self) -> int:
        return next(port for port in itertools.count(FIRST_PORT) if port not in self._listening)


class Ports:
    """Which of the device's ports belong to whom: the core numbers those of each connection from the same one."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, int], int] = {}
        self._owners: dict[int, tuple[int, int]] = {}

    def of(self, descriptor: int, number: int) -> int:
        """The port of an endpoint's socket."""
        port = self._of.get((descriptor, number))
        if port is None:
            port = next(port for port in itertools.count(number) if port not in self._owners)
            self._of[descriptor, number], self._owners[port] = port, (descriptor, number)
        return port

    def owner(self, port: int) -> tuple[int, int] | None:
        """The endpoint and the number of its socket."""
        return self._owners.get(port)

    def release(self, descriptor: int) -> None:
        """An endpoint was closed."""
        for key in [key for key in self._of if key[0] == descriptor]:
            del self._owners[self._of.pop(key)]


class SimulatedProbe:
    """A socket that asks over one interface."""

    def __init__(self, send: Callable[[bytes], None], close: Callable[[], object]) -> None:
        self._send = send
        self._close = close
        self.came: Callable[[], None] = lambda: None
        """Called when an answer is there."""
        self._answers: list[bytes] = []

    def fileno(self) -> int:
        return -1

    def send(self, datagram: bytes) -> None:
        self._send(datagram)

    def close(self) -> None:
        self._close()

    def arrive(self, datagram: bytes) -> None:
        """An answer."""
        self._answers.append(datagram)
        self.came()

    def receive(self) -> list[bytes]:
        answers, self._answers = self._answers, []
        return answers


class SimulatedNews:
    """The kernel's news, for one who listens."""

    interval: float | None = None

    def __init__(self) -> None:
        self.is_closed = False
        self._came = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def come(self) -> None:
        os.eventfd_write(self._came, 1)

    def fileno(self) -> int | None:
        return self._came

    def drain(self) -> bool:
        try:
            return os.eventfd_read(self._came) > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            os.close(self._came)


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _route(interface: SimulatedInterface, peer: str) -> Route | None:
    source = interface.source(_family(peer))
    return None if source is None else Route(interface.name, interface.index, source)
