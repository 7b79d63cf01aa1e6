"""A device that moves, its networks and a server, in one process and in virtual time.

    with SimulatedNetwork(seed=1) as network:
        wifi = network.interface("wlan0", latency=0.005)
        network.interface("wwan0", latency=0.040)
        transfer = network.download(1_000_000)
        network.at(0.5, wifi.down)
        network.run()
        assert transfer.complete and transfer.longest_silence < 0.2

A program of one's own runs in it as it is: ``network.run(program())``, where the program calls `whimbrel.connect`,
`whimbrel.serve` and `asyncio.sleep` as ever.

Connections, streams, servers, driver, policy, engine and TLS are those that run in production, on both ends; what is
simulated is time, the links, the NATs, and the kernel as far as it routes and refuses packets and tells of changes.
Nothing here waits. The seed decides what the links do, and what the engines roll dice for.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import math
import random
from typing import TYPE_CHECKING, Self, TypeVar, overload

from whimbrel._config import Limits, Migration
from whimbrel._events import PathMigrated
from whimbrel._machine import here
from whimbrel.testing._capture import ConnectionIds, Packet, connection_ids, is_negotiation
from whimbrel.testing._simulated_certificate import NAME, Certificate, certificate
from whimbrel.testing._simulated_interface import SimulatedInterface, captured
from whimbrel.testing._simulated_link import Link
from whimbrel.testing._simulated_loop import VirtualLoop
from whimbrel.testing._simulated_machine import SimulatedMachine
from whimbrel.testing._simulated_traffic import Settings, SimulatedServer, Traffic
from whimbrel.testing._simulated_transfer import Bearer, Exchange, Transfer
from whimbrel.testing._timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future
    from types import TracebackType

    from whimbrel import _core
    from whimbrel._errors import ConnectFailed, ConnectionLost
    from whimbrel._events import PathChange
    from whimbrel._path import Address, Path

__all__ = ["SimulatedNetwork", "SimulatedServer"]

_Result = TypeVar("_Result")
_PATIENCE = 60.0
"""Seconds for what was cancelled to end."""

# What is remembered of a server (that it answers no probes) must not reach another simulation in the same process.
_server_numbers = itertools.count(1)


class SimulatedNetwork:
    """One device, its interfaces, and one server. Times are seconds since the beginning. Use it as ``with``."""

    def __init__(
        self,
        *,
        migration: Migration | None = None,
        server: SimulatedServer | None = None,
        idle_timeout: float = 300.0,
        keepalive: float | None = None,
        limits: Limits | None = None,
        ipv6: bool = False,
        seed: int | None = None,
    ) -> None:
        """Make it. All but the seed is about the connection that `download` and its like use.

        Args:
            migration: of the client; by default the default.
            server: what the simulation's own server is like.
            idle_timeout: of the client, seconds.
            keepalive: of the client: a PING after so many seconds of silence.
            limits: of both ends.
            ipv6: over IPv6, where it is over IPv4 otherwise.
            seed: as another run printed it; by default a new one.
        """
        self.seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
        self.changes: list[tuple[float, PathChange]] = []
        """What connections are told of their paths, and when."""
        self.probes: list[float] = []
        """When the device asked for version negotiation."""
        self.interfaces: list[SimulatedInterface] = []
        self.lose: Callable[[Packet], bool] | None = None
        """Called for each packet that is to arrive at either end; with True it does not."""
        self.failure: ConnectionLost | None = None
        """What a connection was ended with by whoever looks after its path."""
        self._timeline = Timeline()
        self._chance = random.Random(self.seed)
        number = next(_server_numbers)
        self.server_address: Address = (f"198.18.{number // 250 % 250}.{number % 250 + 1}", 443)
        self.server_address6: Address = (f"2001:db8:5e:{number:x}::1", 443)
        self._address = self.server_address6 if ipv6 else self.server_address
        """The one that transfers use."""
        self._settings = Settings(
            migration=migration or Migration(),
            server=server or SimulatedServer(),
            idle_timeout=idle_timeout,
            keepalive=keepalive,
            limits=limits or Limits(),
        )
        self._loop = VirtualLoop(lambda: self._timeline.now, self._leap, self._look_up)
        self._loop.set_exception_handler(self._note_trouble)
        self._machine = SimulatedMachine(self, self._loop, self.seed)
        self._context = contextvars.copy_context()
        self._context.run(here.set, self._machine)
        self._trouble: list[BaseException] = []
        self._goal: object = None
        self._transfers: list[Transfer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._bearer = Bearer()
        self._early: list[Exchange] = []  # asked for before time first passed
        self._traffic: Traffic | None = None

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
        reordering: float = 0.0,
        duplication: float = 0.0,
        queue: float = 0.050,
        mtu: int = 1500,
        metric: int | None = None,
        ipv4: bool = True,
        ipv6: bool = False,
        up: bool = True,
        portal: bool = False,
    ) -> SimulatedInterface:
        """Add an interface to the device. Both directions are alike.

        Args:
            name: such as ``"wlan0"``.
            latency: seconds, one way.
            rate: bits per second.
            loss: the chance of each packet to be lost.
            jitter: up to so many seconds more, packet by packet.
            reordering: the chance of each packet to take twice the latency.
            duplication: the chance of each packet to arrive twice.
            queue: seconds that a packet waits for its turn at most.
            mtu: bytes of the largest IP packet.
            metric: the lowest is preferred; by default, after those that there are.
            ipv4: whether the network offers it; behind a NAT.
            ipv6: the same; without a NAT.
            up: from the beginning on.
            portal: it carries nothing, until ``silence(False)``.
        """
        index = len(self.interfaces) + 1
        link = Link(
            latency=latency,
            rate=rate,
            loss=loss,
            jitter=jitter,
            reordering=reordering,
            duplication=duplication,
            queue=queue,
            mtu=mtu,
        )
        rank = 100 * index if metric is None else metric
        changed = self._machine.networks_changed
        interface = SimulatedInterface(name, index, link, rank, self._timeline, self._chance, changed, self._observe)
        self.interfaces.append(interface)
        interface.has_ipv4, interface.has_ipv6 = ipv4, ipv6
        if portal:
            interface.silence()
        if up:
            interface.up()
        return interface

    @property
    def name(self) -> str:
        """The server's name, which leads to both of its addresses."""
        return NAME

    @property
    def certificate(self) -> Certificate:
        """PEM files for servers of that name: ``chain`` and ``key``, and the ``authority`` that clients may verify by.

        They are the same for the whole process.
        """
        return certificate()

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
            self._begin(size, size, lambda _: None, answered)

        def answered() -> None:
            nonlocal left
            left -= 1
            transfer.progress(size)
            if left == 0:
                transfer.end()
                self._look_if_over()
            else:
                self.at(self.now + every, ask)

        ask()
        return transfer

    def restart_server(self) -> None:
        """Let the server forget everything, in an instant: it is another process from now on, at the same address."""
        self._within(self._there.restart_server)

    def at(self, time: float, action: Callable[[], object]) -> None:
        """Do something then."""
        self._timeline.at(time, action)

    def migrate(self, interface: str | None = None) -> Future[Path]:
        """Ask for a move, as `Connection.migrate` does. The future is resolved as time passes."""
        connection = self._there.connection
        if connection is None or connection._attachment is None:
            raise RuntimeError("there is no connection that could be moved")
        moving = connection._attachment.request_move(interface)
        self._within(self._machine.turn)
        return moving

    # Time -------------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self._timeline.now

    @overload
    def run(self, program: None = None, *, horizon: float = 300.0) -> None: ...
    @overload
    def run(self, program: Coroutine[object, object, _Result], *, horizon: float = 300.0) -> _Result: ...

    def run(
        self, program: Coroutine[object, object, _Result] | None = None, *, horizon: float = 300.0
    ) -> _Result | None:
        """Let time pass until a program of yours returns, and give what it returned.

        Without a program: until all transfers are complete, or their connection has ended.

        Args:
            program: a coroutine. What it calls of this library and of asyncio is on the simulated device and server,
                and in virtual time.
            horizon: no further than so many seconds from now.

        Raises:
            TimeoutError: the program has not returned by then. It is cancelled.
        """
        end = self.now + horizon
        if program is None:
            self._start()
            if not self._is_over():
                self._let_pass(end, self._is_over)
            return None
        running = self._loop.create_task(program, context=self._context)
        running.add_done_callback(lambda _: self._loop.stop())
        self._let_pass(end, running.done)
        if not running.done():
            running.cancel()
            self._let_pass(end + _PATIENCE, running.done)
            raise TimeoutError(f"not done after {horizon:g} s")
        return running.result()

    def advance(self, seconds: float) -> None:
        """Let so much time pass, whatever happens."""
        self._start()
        end = self.now + seconds
        self._let_pass(end, lambda: self.now >= end)

    def close(self) -> None:
        """Cancel all tasks and end. May be called twice."""
        if self._loop.is_closed():
            return
        try:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._let_pass(self.now + _PATIENCE, lambda: all(task.done() for task in tasks))
            if self._traffic is not None:
                self._within(self._traffic.close)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()
            self._machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What there is to see ---------------------------------------------------------------------------------------------

    @property
    def lost(self) -> tuple[str, int, str, bool] | None:
        """How the connection of the transfers ended: see `_core.Connection.lost`. None while it lives."""
        connection = self._traffic.connection if self._traffic is not None else None
        return connection._core.lost() if connection is not None else None

    @property
    def refusal(self) -> ConnectFailed | None:
        """Why the transfers have no connection."""
        return self._traffic.failure if self._traffic is not None else None

    @property
    def moves(self) -> list[PathMigrated]:
        """Return those among the changes."""
        return [change for _, change in self.changes if isinstance(change, PathMigrated)]

    @property
    def stats(self) -> _core.Stats:
        """What the client's engine has counted."""
        connection = self._there.connection
        assert connection is not None  # Somebody let time pass.
        return connection._core.stats()

    @property
    def most_in_memory(self) -> int:
        """The most bytes that one end had taken to send and the other end not read, at any time."""
        return self._bearer.most_in_memory

    # Inside: time -----------------------------------------------------------------------------------------------------

    def _let_pass(self, end: float, is_over: Callable[[], bool]) -> None:
        """Run the loop until something stops it, which is asked again where it says that it is not over."""
        goal = self._goal = object()

        def stop() -> None:
            if self._goal is goal:
                self._loop.stop()

        self._timeline.at(end, stop)
        while True:
            self._loop.run_forever()
            if self._trouble:
                trouble, self._trouble = self._trouble, []
                raise trouble[0]
            if self.now >= end or is_over():
                break
        self._goal = None
        self._machine.flush()

    def _leap(self, seconds: float | None) -> None:
        """Nothing is left to do at this moment."""
        self._machine.flush()
        time = min(self.now + (math.inf if seconds is None else seconds), self._timeline.next)
        self._machine.set_time(time)
        self._timeline.leap(time)

    def _within(self, action: Callable[[], object]) -> None:
        """Do something as one of the loop's callbacks does."""
        if self._loop.is_running():  # It is what somebody planned by `at`.
            self._context.run(action)
            return
        self._loop.call_soon(action, context=self._context)
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    def _note_trouble(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self._trouble.append(error if isinstance(error, BaseException) else RuntimeError(str(context["message"])))
        self._loop.stop()

    # Inside: transfers ------------------------------------------------------------------------------------------------

    @property
    def _there(self) -> Traffic:
        if self._traffic is None:
            raise RuntimeError("nothing has begun: let time pass")
        return self._traffic

    def _start(self) -> None:
        if self._traffic is None:
            self._within(self._dial)

    def _dial(self) -> None:
        self._traffic = Traffic(
            self._settings, self._address, self._machine, self._bearer, self._spawn, self._look_if_over
        )
        for exchange in self._early:
            self._traffic.begin(exchange)

    def _bulk(self, up: int, down: int) -> Transfer:
        transfer = self._add_transfer()

        def ended() -> None:
            transfer.end()
            self._look_if_over()

        self._begin(up, down, transfer.progress, ended)
        return transfer

    def _add_transfer(self) -> Transfer:
        transfer = Transfer(lambda: self.now)
        self._transfers.append(transfer)
        return transfer

    def _begin(self, up: int, down: int, received: Callable[[int], None], ended: Callable[[], None]) -> None:
        exchange = self._bearer.new(up, down, received, ended)
        if self._traffic is None:
            self._early.append(exchange)
        else:
            self._traffic.begin(exchange)

    def _spawn(self, part: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(part, context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._trouble.append(error)
            self._loop.stop()

    def _is_over(self) -> bool:
        over = self._traffic is not None and self._traffic.is_over
        return over or (bool(self._transfers) and all(transfer.complete for transfer in self._transfers))

    def _look_if_over(self) -> None:
        if self._is_over():
            self._loop.stop()

    # Inside: what lies around the machines ----------------------------------------------------------------------------

    def leave_device(self, data: bytes, source: Address, destination: Address, interface: SimulatedInterface) -> None:
        """The device sends a datagram."""
        interface.send(data, source, destination, lambda external: self._at_server(data, external, destination))

    def leave_server(self, data: bytes, source: Address, destination: Address) -> None:
        """The server sends a datagram."""
        self._to_client(data, destination, source)

    def told(self, change: PathChange | ConnectionLost) -> None:
        """A connection of the device's is told that."""
        if isinstance(change, Exception):
            self.failure = change
        else:
            self.changes.append((self.now, change))

    def asked(self) -> None:
        """The device has asked for version negotiation."""
        self.probes.append(self.now)

    def _at_server(self, data: bytes, source: Address, destination: Address | None = None) -> None:
        """A datagram arrives at the server, as if from this address."""
        reached = destination or self._address
        packet = captured(self.now, "to_server", data, source, reached)
        if is_negotiation(packet) and not self._settings.server.answers_probes:
            return
        if self.lose is None or not self.lose(packet):
            self._machine.at_server(data, source, reached)

    def _to_client(self, data: bytes, destination: Address, source: Address | None = None) -> None:
        """A datagram leaves for the device, as if from this address."""
        origin = source or self._address
        interface = next((each for each in self.interfaces if each.owns(destination[0])), None)
        if interface is None:
            return

        def arrive(internal: Address) -> None:
            packet = captured(self.now, "to_client", data, origin, internal)
            if self.lose is None or not self.lose(packet):
                self._machine.at_device(data, origin, internal, interface)

        interface.receive(data, origin, destination, arrive)

    def _look_up(self, name: str) -> list[str]:
        """What the name leads to, those first that there is a route to."""
        addresses = [self.server_address[0], self.server_address6[0]] if name == NAME else []
        return sorted(addresses, key=lambda address: self._machine.route_to(address) is None)

    def _observe(self, interface: SimulatedInterface) -> ConnectionIds:
        # All are looked at together: the handshake on one of them tells how long the IDs on the others are.
        seen = connection_ids(*(each.packets for each in self.interfaces), port=self.server_address[1])
        return seen[self.interfaces.index(interface)]
