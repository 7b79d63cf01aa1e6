"""A client that moves, its networks and a server, in one process and in virtual time.

    network = SimulatedNetwork(seed=1)
    wifi = network.interface("wlan0", latency=0.005)
    cellular = network.interface("wwan0", latency=0.040)
    transfer = network.download(1_000_000)
    network.at(0.5, wifi.down)
    network.run()
    assert transfer.complete and transfer.longest_silence < 0.2

Policy, engine and TLS are the real ones, on both ends; what is simulated is time, the links, the NATs, and the kernel
as far as it routes and refuses packets and tells of changes. Nothing here waits. The seed decides what the links do;
the engine's own dice (connection IDs, keys) are thrown anew each time, so that two runs are alike but not the same.
"""

from __future__ import annotations

import abc
import errno
import itertools
import math
import os
import random
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from whimbrel import _core
from whimbrel._config import Limits, Migration
from whimbrel._events import PathMigrated
from whimbrel._steering import Steering
from whimbrel.testing._capture import ConnectionIds, Packet, connection_ids, is_negotiation
from whimbrel.testing._simulated_interface import Link, SimulatedInterface, captured
from whimbrel.testing._simulated_transfer import ClientStreams, Exchange, ServerStreams, Transfer
from whimbrel.testing._timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whimbrel._events import PathChange
    from whimbrel._path import Address, Path
    from whimbrel.network import Route

NEWS: Final = 0.003
"""Seconds from a change of the network to its news, as rtnetlink brings them."""
GRANULARITY: Final = 1e-6
"""The shortest leap in time."""
PROBE_PORTS: Final = 60_000
"""Where probes come from: above all ports of the core's simulated sockets."""
_SERVER_PORT: Final = 40_000  # The core numbers simulated sockets from here, and a server has one.
_STANDSTILL: Final = 100_000
_NAME: Final = "server.test"
_ALPN: Final = b"simulation"

# What is remembered of a server (that it answers no probes) must not reach another simulation in the same process.
_server_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedServer:
    """What the server is like."""

    migration: bool = True
    """With False it forbids clients to move (RFC 9000 §18.2)."""
    id_length: int = 8
    """Bytes of its connection IDs; with 0, clients cannot move either."""
    idle_timeout: float = 30.0
    answers_probes: bool = True
    """Whether it answers unknown versions by Version Negotiation."""
    retry: Literal["auto", "always", "never"] = "auto"
    """Whether newcomers have to prove their address (RFC 9000 §8.1.2)."""
    reset_key: bytes | None = None
    """What its stateless resets are made of (RFC 9000 §10.3.2): with one, a server that was restarted can send them."""


class SimulatedNetwork:
    """One client, its interfaces, and one server. Times are seconds since the beginning."""

    def __init__(
        self,
        *,
        migration: Migration | None = None,
        server: SimulatedServer | None = None,
        idle_timeout: float = 300.0,
        keepalive: float | None = None,
        limits: Limits | None = None,
        seed: int | None = None,
    ) -> None:
        """Make it. The connection is dialled when time first passes.

        Args:
            migration: of the client; by default the default.
            server: what it is like.
            idle_timeout: of the client, seconds.
            keepalive: of the client: a PING after so many seconds of silence.
            limits: of both ends.
            seed: as another run printed it; by default a new one.
        """
        self.seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
        self.changes: list[tuple[float, PathChange]] = []
        """What the application is told of the path, and when."""
        self.probes: list[float] = []
        """When the client asked for version negotiation."""
        self.interfaces: list[SimulatedInterface] = []
        self.lose: Callable[[Packet], bool] | None = None
        """Called for each packet that is to arrive at either end; with True it does not."""
        self._migration = migration or Migration()
        self._server_settings = server or SimulatedServer()
        self._limits = limits or Limits()
        self._idle_timeout = idle_timeout
        self._keepalive = keepalive
        self._timeline = Timeline()
        self._chance = random.Random(self.seed)
        number = next(_server_numbers)
        self.server_address: Address = (f"198.18.{number // 250 % 250}.{number % 250 + 1}", 443)
        self._transfers: list[Transfer] = []
        self._waiting: list[Exchange] = []  # until there is a connection
        self._client: _Client | None = None
        self._server: _Server | None = None

    def __repr__(self) -> str:
        return f"SimulatedNetwork(seed={self.seed}) at {self.now:.6f} s"

    # The networks -----------------------------------------------------------------------------------------------------

    def interface(
        self,
        name: str,
        *,
        latency: float = 0.005,
        rate: float = 10e6,
        loss: float = 0.0,
        jitter: float = 0.0,
        queue: float = 0.050,
        mtu: int = 1500,
        metric: int | None = None,
        up: bool = True,
        portal: bool = False,
    ) -> SimulatedInterface:
        """Add an interface to the client. Both directions are alike.

        Args:
            name: such as ``"wlan0"``.
            latency: seconds, one way.
            rate: bits per second.
            loss: the chance of each packet to be lost.
            jitter: up to so many seconds more, packet by packet.
            queue: seconds that a packet waits for its turn at most.
            mtu: bytes of the largest IP packet.
            metric: the lowest is preferred; by default, after those that there are.
            up: from the beginning on.
            portal: it carries nothing, until ``silence(False)``.
        """
        index = len(self.interfaces) + 1
        link = Link(latency, rate, loss, jitter, queue, mtu)
        rank = 100 * index if metric is None else metric
        interface = SimulatedInterface(
            name, index, link, rank, self._timeline, self._chance, self._networks_changed, self._observe
        )
        self.interfaces.append(interface)
        if portal:
            interface.silence()
        if up:
            interface.up()
        return interface

    # What is done -----------------------------------------------------------------------------------------------------

    def download(self, length: int) -> Transfer:
        """Have the server send so many bytes. The client sends nothing but acknowledgements meanwhile."""
        return self._bulk(0, length)

    def upload(self, length: int) -> Transfer:
        """Send so many bytes to the server. What counts is when they arrive there."""
        return self._bulk(length, 0)

    def requests(self, count: int, *, every: float = 0.0, size: int = 100) -> Transfer:
        """Ask for something small, and when it has come wait and ask again.

        Args:
            count: of requests.
            every: seconds between an answer and the next request.
            size: bytes of each request and each answer.
        """
        transfer = self._add_transfer()
        left = count

        def ask() -> None:
            self._begin(Exchange(size, size, lambda _: None, answered))

        def answered() -> None:
            nonlocal left
            left -= 1
            transfer.progress(size)
            if left == 0:
                transfer.end()
            else:
                self.at(self.now + every, ask)

        ask()
        return transfer

    def restart_server(self) -> None:
        """Let the server forget everything, in an instant: it is another process from now on, at the same address."""
        retry = self._server_settings.retry
        self._server = _Server(_core.Endpoint.server(self._server_config(), [], retry=retry, simulated=True), self)

    def at(self, time: float, action: Callable[[], object]) -> None:
        """Do something then."""
        self._timeline.at(time, action)

    def migrate(self, interface: str | None = None) -> Future[Path]:
        """Ask for a move, as `Connection.migrate` does. The future is resolved as time passes."""
        moving: Future[Path] = Future()
        if self._client is None or self._client.steering is None:
            raise RuntimeError("there is no connection that could be moved")
        self._client.set_time()
        self._client.steering.request_move(interface, moving, self.now)
        self._client.turn()
        return moving

    # Time -------------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self._timeline.now

    def run(self, *, horizon: float = 300.0) -> None:
        """Let time pass until all transfers are complete, or the connection has ended.

        Args:
            horizon: no further than so many seconds from now.
        """
        end = self.now + horizon
        while not self._is_over() and self._step(end):
            pass

    def advance(self, seconds: float) -> None:
        """Let so much time pass, whatever happens."""
        end = self.now + seconds
        while self._step(end):
            pass

    @property
    def lost(self) -> tuple[str, int, str, bool] | None:
        """How the client's connection ended: see `_core.Connection.lost`. None while it lives."""
        return self._client.core.lost() if self._client is not None else None

    @property
    def failure(self) -> Exception | None:
        """What the connection was ended with by whoever looks after its paths."""
        return self._client.failure if self._client is not None else None

    @property
    def moves(self) -> list[PathMigrated]:
        """Return those among the changes."""
        return [change for _, change in self.changes if isinstance(change, PathMigrated)]

    @property
    def stats(self) -> _core.Stats:
        """What the client's engine has counted."""
        assert self._client is not None  # Somebody let time pass.
        return self._client.core.stats()

    def _is_over(self) -> bool:
        if self._client is None:
            return False
        ended = self._client.ended
        return ended or (bool(self._transfers) and all(transfer.complete for transfer in self._transfers))

    def _step(self, end: float) -> bool:
        """Leap to what comes next; False: nothing does, before the end."""
        if self._client is None:
            self._dial()
        assert self._client is not None
        assert self._server is not None
        time = min(self._timeline.next, self._client.deadline, self._server.deadline)
        if time > end:
            self._timeline.leap(end)
            return False
        self._turns_now = self._turns_now + 1 if time <= self.now else 0
        if self._turns_now > _STANDSTILL:
            raise RuntimeError(f"time stands still: {self!r}")
        self._timeline.leap(max(time, self.now))
        for host in (self._client, self._server):
            if host.deadline <= self.now:
                host.turn()
        return True

    _turns_now = 0

    # Inside -----------------------------------------------------------------------------------------------------------

    def _bulk(self, up: int, down: int) -> Transfer:
        transfer = self._add_transfer()
        self._begin(Exchange(up, down, transfer.progress, transfer.end))
        return transfer

    def _exchange(self, stream: int) -> Exchange:
        """What the client does on a stream: in one process, the server may simply look."""
        assert self._client is not None
        assert self._client.streams is not None
        return self._client.streams.exchanges[stream]

    def _add_transfer(self) -> Transfer:
        transfer = Transfer(lambda: self.now)
        self._transfers.append(transfer)
        return transfer

    def _begin(self, exchange: Exchange) -> None:
        if self._client is None or self._client.streams is None:
            self._waiting.append(exchange)
        elif not self._client.ended:
            self._client.set_time()
            self._client.streams.begin(exchange)
            self._client.turn()

    def _dial(self) -> None:
        _, _, roots = _certificate()
        transport = self._transport(self._idle_timeout, self._keepalive)
        client = _core.ClientConfig(alpn=[_ALPN], roots=roots, transport=transport, keylog=False)
        self.restart_server()
        self._client = _Client(_core.Endpoint.client(client, simulated=True), self)

    def _server_config(self) -> _core.ServerConfig:
        certificate, key, _ = _certificate()
        settings = self._server_settings
        return _core.ServerConfig(
            alpn=[_ALPN],
            certificate=certificate,
            key=key,
            transport=self._transport(settings.idle_timeout, None),
            migration=settings.migration,
            id_length=settings.id_length,
            reset_key=settings.reset_key,
        )

    def _transport(self, idle_timeout: float, keepalive: float | None) -> _core.TransportConfig:
        limits = self._limits
        return _core.TransportConfig(
            idle_timeout=idle_timeout,
            keepalive=keepalive,
            stream_window=limits.stream_window,
            connection_window=limits.connection_window,
            max_streams=limits.max_streams,
            send_buffer=limits.send_buffer,
        )

    def _routes(self) -> list[SimulatedInterface]:
        """Interfaces that lead to the server, the kernel's choice first."""
        return sorted((each for each in self.interfaces if each.is_up), key=lambda interface: interface.metric)

    def _networks_changed(self) -> None:
        if self._client is not None:
            self._client.networks_changed()

    def _to_server(self, data: bytes, source: Address, interface: SimulatedInterface) -> None:
        """The client sends a datagram."""
        interface.send(data, source, self.server_address, lambda external: self._at_server(data, external))

    def _at_server(self, data: bytes, source: Address) -> None:
        """A datagram arrives at the server, as if from this address."""
        assert self._server is not None
        packet = captured(self.now, "to_server", data, source, self.server_address)
        if is_negotiation(packet) and not self._server_settings.answers_probes:
            return
        if self.lose is None or not self.lose(packet):
            self._server.receive(data, source, (self.server_address[0], _SERVER_PORT), 0)

    def _to_client(self, data: bytes, destination: Address) -> None:
        """The server sends a datagram."""
        interface = next((each for each in self.interfaces if each.owns(destination[0])), None)
        if interface is None:
            return

        def arrive(internal: Address) -> None:
            assert self._client is not None
            packet = captured(self.now, "to_client", data, self.server_address, internal)
            if self.lose is None or not self.lose(packet):
                self._client.receive(data, self.server_address, internal, interface.route.index)

        interface.receive(data, self.server_address, destination, arrive)

    def _observe(self, interface: SimulatedInterface) -> ConnectionIds:
        # All are looked at together: the handshake on one of them tells how long the IDs on the others are.
        seen = connection_ids(*(each.packets for each in self.interfaces), port=self.server_address[1])
        return seen[self.interfaces.index(interface)]


class _Host(abc.ABC):
    """A machine with one end of the connection."""

    def __init__(self, endpoint: _core.Endpoint, network: SimulatedNetwork) -> None:
        self.endpoint = endpoint
        self.network = network
        self.deadline = 0.0

    def receive(self, data: bytes, source: Address, destination: Address, interface: int) -> None:
        """A datagram arrives."""
        self.set_time()
        self.endpoint.deliver(data, source, destination, interface)
        self.turn()

    def set_time(self) -> None:
        """Tell the core what time it is, before anything is asked of it."""
        self.endpoint.set_time(self.network.now)

    def turn(self) -> None:
        """Do everything that is due, and whatever comes of what was asked just now."""
        self.set_time()
        self.endpoint.pump()
        while self.attend():
            self.endpoint.pump()
        wait = self.endpoint.pump()
        self.deadline = math.inf if wait is None else self.network.now + max(wait, GRANULARITY)
        self.send_all()

    @abc.abstractmethod
    def attend(self) -> bool:
        """Attend to the core's news; False: there were none."""

    @abc.abstractmethod
    def send_all(self) -> None:
        """Let go what the core has sent."""


class _Server(_Host):
    """Serves whoever comes."""

    def __init__(self, endpoint: _core.Endpoint, network: SimulatedNetwork) -> None:
        super().__init__(endpoint, network)
        self._streams: dict[int, ServerStreams] = {}

    def attend(self) -> bool:
        news = self.endpoint.news()
        self.endpoint.control_news()
        for number, kind, value in news:
            if kind == _core.INCOMING:
                self._streams[number] = ServerStreams(self.endpoint.connection(number), self.network._exchange)
            elif kind == _core.LOST:
                self._streams.pop(number, None)
            elif number in self._streams:
                self._streams[number].attend(kind, value)
        return bool(news)

    def send_all(self) -> None:
        for data, _, _, _, destination in self.endpoint.take():
            self.network._to_client(data, destination)


class _Client(_Host):
    """Moves. To its `Steering`, it is the surroundings."""

    def __init__(self, endpoint: _core.Endpoint, network: SimulatedNetwork) -> None:
        super().__init__(endpoint, network)
        self.ended = False
        self.failure: Exception | None = None
        self.streams: ClientStreams | None = None
        self.steering: Steering | None = None
        self._probe_ports = itertools.count(PROBE_PORTS)
        self._set_addresses()
        routes = self.routes(network.server_address[0])
        if not routes:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        self._dialled = routes[0]
        sockets, pin = network._migration.sockets, (routes[0].index, routes[0].source)
        endpoint.set_time(network.now)
        self.core = endpoint.connect(network.server_address, _NAME, sockets, pin)

    def turn(self) -> None:
        super().turn()
        if self.steering is not None and self.steering.deadline is not None:
            self.deadline = min(self.deadline, self.steering.deadline)

    def attend(self) -> bool:
        now = self.network.now
        if self.steering is not None:
            self.steering.core_news(now)
            if self.steering.deadline is not None and self.steering.deadline <= now:
                self.steering.tick(now)
        news = self.endpoint.news()
        for _, kind, value in news:
            if kind == _core.CONNECTED:
                self._connected()
            elif kind == _core.LOST:
                self.ended = True
            elif self.streams is not None:
                self.streams.attend(kind, value)
        return bool(news)

    def _connected(self) -> None:
        network = self.network
        settings, peer = network._migration, f"{_NAME}:{network.server_address[1]}"
        self.steering = Steering(
            self.endpoint, self.core, peer, settings, self, self._report, network.now, self._dialled
        )
        self.steering.ask_routes(network.now)
        self.streams = ClientStreams(self.core)
        for exchange in network._waiting:
            self.streams.begin(exchange)
        network._waiting.clear()

    def _report(self, change: PathChange | Exception) -> None:
        if isinstance(change, Exception):
            self.failure, self.ended = change, True
            self.core.close(0, b"")
        else:
            self.network.changes.append((self.network.now, change))

    def send_all(self) -> None:
        for data, source, port, index, _ in self.endpoint.take():
            interface = self._interface(index)
            # Without a pin the kernel chooses by its routes, and takes the address of what it chose.
            self.network._to_server(data, (source or interface.address, port), interface)

    def _interface(self, index: int) -> SimulatedInterface:
        return self.network.interfaces[index - 1] if index else self.network._routes()[0]

    # The kernel -------------------------------------------------------------------------------------------------------

    def networks_changed(self) -> None:
        """Addresses or routes are others now. The news of it is on its way."""
        self._set_addresses()
        self.network.at(self.network.now + NEWS, self._network_news)

    def _network_news(self) -> None:
        if self.steering is not None:
            self.set_time()
            self.steering.ask_routes(self.network.now)
            self.turn()

    def _set_addresses(self) -> None:
        routes = [interface.route for interface in self.network._routes()]
        self.endpoint.set_addresses([(route.index, route.source) for route in routes])

    # Surroundings of a `Steering` -------------------------------------------------------------------------------------

    def routes(self, address: str) -> Sequence[Route]:
        return [interface.route for interface in self.network._routes()]

    def send_probe(self, steering: Steering, route: Route, datagram: bytes) -> None:
        interface = self._interface(route.index)
        if not interface.is_up or interface.address != route.source:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        self.network.probes.append(self.network.now)
        self.network._to_server(datagram, (route.source, next(self._probe_ports)), interface)

    def receive(self, data: bytes, source: Address, destination: Address, interface: int) -> None:
        if destination[1] < PROBE_PORTS:
            super().receive(data, source, destination, interface)
        elif self.steering is not None:
            self.set_time()
            self.steering.datagram_came(data, self.network.now)
            self.turn()


@cache
def _certificate() -> tuple[bytes, bytes, bytes]:
    """Certificate chain, key and authority, PEM, made once."""
    import trustme  # Only whoever simulates needs it.

    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = authority.issue_cert(_NAME, key_type=trustme.KeyType.ECDSA)
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return chain, issued.private_key_pem.bytes(), authority.cert_pem.bytes()
