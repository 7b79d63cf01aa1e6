"""What the tests of moving stand on: a client and a server in a laboratory, and what became of a transfer.

test ── orders ──▶ client (cli) ~~~ the two networks ~~~ server (srv)
  ▲ ◀── news ───────┘                                      │
  └──────────────── news ──────────────────────────────────┘
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack, cast

import whimbrel
from tests.lab.programs.content import sha256
from whimbrel import Path, PathChange, PathMigrated
from whimbrel.testing import Event, Journey, Laboratory, Packet, Sample, Scenario, handover_gap, resumption
from whimbrel.testing._capture import Direction, is_negotiation

PORT = 4433
MB = 1_000_000
SOON = 20.0
"""Seconds: no test waits so long for news unless it fails."""
_PROBING = 30_000
"""Bytes: twenty packets."""
_ROOT = FilePath(__file__).parents[2]

Way = Literal["download", "upload"]
Dispatch = Literal["wildcard", "connected"]
WAYS: dict[str, tuple[Way, ...]] = {"download": ("download",), "upload": ("upload",), "both": ("download", "upload")}
News = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Certificates:
    """PEM files of one authority."""

    ca: FilePath
    chain: FilePath
    key: FilePath


# The two programs ----------------------------------------------------------------------------------------------------


class Program:
    """A process in the laboratory that tells its news in lines, and may take orders so."""

    def __init__(self, lab: Laboratory, where: Literal["cli", "srv"], module: str, order: dict[str, object]) -> None:
        argv = ["-m", f"tests.lab.programs.{module}", json.dumps(order, default=str)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = lab.python(where, argv, cwd=_ROOT, text=True, **pipes)
        self._news: list[News] = []
        self._told = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._listen, name=f"news of the {module}")
        self._thread.start()

    def news(self, kind: str) -> list[News]:
        """What it has told of that kind so far."""
        with self._told:
            return [news for news in self._news if news["kind"] == kind]

    def wait(self, find: Callable[[], T | None], what: str, timeout: float = SOON) -> T:
        """Wait until something can be found in its news, or in that of a transfer."""
        with self._told:
            found: list[T | None] = [None]

            def look() -> bool:
                found[0] = find()
                return found[0] is not None or self._ended

            in_time = self._told.wait_for(look, timeout)
        if found[0] is None:
            raise AssertionError(f"{what}: {'the program has ended' if in_time else f'not within {timeout:g} s'}")
        return found[0]

    def tell(self, **order: object) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def finish(self) -> int:
        """Say that there will be no more orders, and wait for the end. Returns the exit status."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            return self._process.wait(SOON)
        finally:
            self.end()

    def end(self) -> None:
        """End it, however it is."""
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def heard(self, news: News) -> None:
        """Something was told; on a thread of its own, under the lock."""

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            news = json.loads(line)
            with self._told:
                self._news.append(news)
                self.heard(news)
                self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()


class Server(Program):
    """`whimbrel.serve`, on both of the server's addresses."""

    def __init__(
        self,
        lab: Laboratory,
        certificates: Certificates,
        *,
        sockets: Dispatch = "wildcard",
        migration: bool = True,
        id_length: int = 8,
    ) -> None:
        self.certificates = certificates
        order: dict[str, object] = {
            "addresses": [lab.server_address, lab.server_address_ipv6],
            "port": PORT,
            "chain": certificates.chain,
            "key": certificates.key,
            "migration": migration,
            "id_length": id_length,
            "sockets": sockets,
        }
        self.uploads: dict[int, Transfer] = {}
        super().__init__(lab, "srv", "server", order)
        self.wait(lambda: self.news("ready") or None, "the server listens")

    def heard(self, news: News) -> None:
        if news["kind"] == "progress":
            self.uploads[news["number"]].advance(news)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Options(TypedDict, total=False):
    """Of a client."""

    migration: dict[str, Any] | None
    keepalive: float | None
    idle_timeout: float
    window: int | None
    loop: Literal["asyncio", "uvloop", "none"]


class Client(Program):
    """`whimbrel.connect` to that server; without a loop, `whimbrel.sync.connect`."""

    def __init__(self, lab: Laboratory, server: Server, host: str = "", **options: Unpack[Options]) -> None:
        order: dict[str, object] = {
            "host": host or lab.server_address,
            "port": PORT,
            "ca": server.certificates.ca,
            "loop": "asyncio",
            "migration": {},
            "window": None,
            "idle_timeout": 90.0,
            "keepalive": None,
            **options,
        }
        self._server = server
        self._numbers = itertools.count()
        self._downloads: dict[int, Transfer] = {}
        super().__init__(lab, "cli", "client", order)
        self.wait(lambda: self.news("connected") or None, "the client connects")

    @property
    def changes(self) -> list[PathChange]:
        """What `path_changes` has told so far."""
        return [_change(news) for news in self.news("changed")]

    @property
    def moves(self) -> list[PathMigrated]:
        """Its moves."""
        return [change for change in self.changes if isinstance(change, PathMigrated)]

    @property
    def journal(self) -> list[str]:
        """What the logger "whimbrel" was told at INFO."""
        return [news["text"] for news in self.news("logged") if news["level"] == "INFO"]

    def hears(self, kind: type[PathChange], count: int = 1, timeout: float = SOON) -> None:
        """Wait until `path_changes` has told so many of one kind."""

        def look() -> bool | None:
            return sum(isinstance(change, kind) for change in self.changes) >= count or None

        self.wait(look, f"{count} {kind.__name__}", timeout)

    def moved_to(self, interface: str, timeout: float = SOON) -> PathMigrated:
        """Wait until it is on that interface because of its last move."""

        def look() -> PathMigrated | None:
            last = self.moves[-1:]
            return last[0] if last and last[0].new.interface == interface else None

        return self.wait(look, f"it moves to {interface}", timeout)

    def get(self, size: int, **more: object) -> Transfer:
        """Begin a download."""
        return self._begin("get", size, self._downloads, **more)

    def put(self, size: int) -> Transfer:
        """Begin an upload."""
        return self._begin("put", size, self._server.uploads)

    def transfer(self, way: Way, size: int) -> Transfer:
        """Begin either."""
        return self.get(size) if way == "download" else self.put(size)

    def migrate(self, interface: str | None = None, timeout: float | None = None) -> Path:
        """``await connection.migrate(...)``."""
        return _path(self.ask(do="migrate", interface=interface, timeout=timeout)["path"])

    def path(self) -> Path:
        """``connection.path``."""
        return _path(self.ask(do="path")["path"])

    def ask(self, **order: object) -> News:
        """Give an order and wait for what comes of it."""
        return self.answer(self.order(**order))

    def order(self, **order: object) -> int:
        """Give an order. Returns its number."""
        number = next(self._numbers)
        self.tell(number=number, **order)
        return number

    def answer(self, number: int, timeout: float = 60.0) -> News:
        """Wait for what comes of an order.

        Raises:
            WhimbrelError: it came to that in the client.
        """
        news = self.wait(lambda: self._outcome(number), f"order {number} is carried out", timeout)
        if news["kind"] == "failed":
            error: type[whimbrel.WhimbrelError] = getattr(whimbrel, news["error"])
            raise error(news["text"])
        result: News = news["result"]
        return result

    def has_outcome(self, number: int) -> bool:
        """Whether an order is carried out, or has failed."""
        with self._told:
            return self._outcome(number) is not None

    def heard(self, news: News) -> None:
        if news["kind"] == "progress":
            self._downloads[news["number"]].advance(news)

    def _begin(self, what: str, size: int, receiving: dict[int, Transfer], **more: object) -> Transfer:
        number = next(self._numbers)
        transfer = receiving[number] = Transfer(self, number, size)
        self.tell(do=what, number=number, size=size, **more)
        return transfer

    def _outcome(self, number: int) -> News | None:
        return next((n for n in self._news if n["kind"] in ("done", "failed") and n["number"] == number), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.end()
            return
        assert self.finish() == 0


class Transfer:
    """A download or upload under way."""

    def __init__(self, client: Client, number: int, size: int) -> None:
        self.size = size
        self._client = client
        self._number = number
        self._received = 0
        self._news = threading.Condition()
        self._listeners: list[Callable[[float], None]] = []

    def advance(self, news: News) -> None:
        """More has come."""
        with self._news:
            self._received = news["received"]
            self._news.notify_all()
        for listener in self._listeners:
            listener(self._received / self.size)

    def follow(self, listener: Callable[[float], None]) -> None:
        """Have something called with the part that is done, now and then."""
        self._listeners.append(listener)

    def reaches(self, part: float, timeout: float = SOON) -> bool:
        """Wait until so much of it is done, 0 to 1. Returns whether it came to that in time."""
        with self._news:
            return self._news.wait_for(lambda: self._received >= part * self.size, timeout)

    def stalls(self, seconds: float) -> bool:
        """Wait for that long; return whether no more came than a sender's probe timeouts send (RFC 9002 §6.2)."""
        with self._news:
            limit = self._received + _PROBING
            return not self._news.wait_for(lambda: self._received > limit, seconds)

    def stops(self) -> None:
        """Wait until no more comes of what was under way."""
        assert any(self.stalls(0.5) for _ in range(10)), "it goes on"
        assert not self._client.has_outcome(self._number), "it was over before"

    def arrived(self, timeout: float = 60.0) -> list[Sample]:
        """Wait until it is complete. Returns when what came, as the receiver saw it.

        Raises:
            WhimbrelError: the client met it.
        """
        result = self._client.answer(self._number, timeout)
        assert result["received"] == self.size
        assert result["sha256"] == sha256(self.size)
        return [(at, size) for at, size in result["samples"]]


# A whole crossing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crossing:
    """A transfer that is complete, with every byte as it should be."""

    lab: Laboratory
    arrived: dict[Way, list[Sample]]
    """When what came, as its receiver saw it."""
    events: list[Event]
    changes: list[PathChange]
    journal: list[str]

    @property
    def moves(self) -> list[tuple[str | None, str | None, str]]:
        """From where to where, and why."""
        migrations = [change for change in self.changes if isinstance(change, PathMigrated)]
        return [(move.old.interface, move.new.interface, move.reason) for move in migrations]

    @property
    def captured_moves(self) -> list[tuple[str, str]]:
        """From where to where, as an observer of both radios saw it."""
        return [(move.source, move.target) for move in self.lab.moves(PORT)]

    @property
    def linkable(self) -> dict[Direction, frozenset[bytes]]:
        """The connection IDs seen on both networks: to the server ours to keep apart, to the client the server's."""
        return {direction: self.lab.linkable(PORT, direction) for direction in ("to_server", "to_client")}

    def gap(self, action: str, interface: str) -> float:
        """The handover gap around something that happened, in seconds; the longer one, if both ways were used."""
        event = next(event for event in self.events if (event.action, event.interface) == (action, interface))
        return max(self.gaps(event).values())

    def longest_gap(self) -> float:
        """The longest handover gap around any event but the first, with which the journey begins."""
        return max(max(self.gaps(event).values()) for event in self.events[1:])

    def gaps(self, event: Event) -> dict[Way, float]:
        """The handover gap of each way around an event, in seconds."""
        return {way: handover_gap(samples, event.time) for way, samples in self.arrived.items()}

    def resumed(self) -> float:
        """Seconds from the last event, which brought a network back, to the first new bytes."""
        return max(resumption(samples, self.events[-1].time) for samples in self.arrived.values())

    def summary(self) -> str:
        """For whoever reads the output of a test."""
        took = max(samples[-1][0] - samples[0][0] for samples in self.arrived.values())
        gaps = [
            f"{event.action} {event.interface} {'/'.join(f'{1000 * gap:.0f}' for gap in self.gaps(event).values())} ms"
            for event in self.events[:4]
        ]
        return f"{took:.1f} s; {', '.join(gaps)}; resumed {1000 * self.resumed():.0f} ms; {self.moves}"


def cross(
    lab: Laboratory,
    certificates: Certificates,
    scenario: Scenario,
    *,
    way: Way | Literal["both"] = "download",
    size: int = 8 * MB,
    rate: float = 50e6,
    host: str = "",
    sockets: Dispatch = "wildcard",
    **options: Unpack[Options],
) -> Crossing:
    """Transfer something while the networks change; ``sockets``: of the server.

    Radios are made slower than usual, so that a step that is late on a busy machine still falls on its place.
    """
    for network in lab.networks:
        network.set(rate=rate)
    with Server(lab, certificates, sockets=sockets) as server, Journey(lab, scenario) as journey:
        with Client(lab, server, host, **options) as client:
            transfers = {each: client.transfer(each, size) for each in WAYS[way]}
            for transfer in transfers.values():
                transfer.follow(journey.progress)
            arrived = {each: transfer.arrived() for each, transfer in transfers.items()}
            assert journey.wait(0), "the transfer was over before the scenario was"
        crossing = Crossing(lab, arrived, journey.events, client.changes, client.journal)
    sys.stdout.write(f"{scenario.name}, {way}: {crossing.summary()}\n")
    return crossing


# What an observer sees -----------------------------------------------------------------------------------------------


def to_server(packets: list[Packet], begin: float = -math.inf, end: float = math.inf) -> list[Packet]:
    """The connection's datagrams from the device in that time. Probes are not among them."""
    return _datagrams(packets, "to_server", begin, end)


def to_client(packets: list[Packet], begin: float = -math.inf, end: float = math.inf) -> list[Packet]:
    """The same of those to the device."""
    return _datagrams(packets, "to_client", begin, end)


def probes_a_second(lab: Laboratory) -> int:
    """The most version-negotiation probes that left in any second, over all networks."""
    packets = [packet for network in lab.networks for packet in network.packets]
    times = sorted(p.time for p in packets if p.direction == "to_server" and p.protocol == "udp" and is_negotiation(p))
    return max((sum(1 for other in times if at <= other < at + 1) for at in times), default=0)


def ids_by_address(lab: Laboratory, id_length: int = 8) -> dict[bytes, set[str]]:
    """The connection IDs sent to the server after the handshake, and the device's addresses that each came from."""
    found: dict[bytes, set[str]] = {}
    for network in lab.networks:
        for packet in to_server(network.packets):
            if not packet.payload[0] & 0x80:
                found.setdefault(packet.payload[1 : 1 + id_length], set()).add(packet.source[0])
    return found


def sources(lab: Laboratory) -> Counter[str]:
    """How many datagrams came from each of the device's addresses."""
    return Counter(packet.source[0] for network in lab.networks for packet in to_server(network.packets))


def _datagrams(packets: list[Packet], direction: Direction, begin: float, end: float) -> list[Packet]:
    return [
        packet
        for packet in packets
        if packet.protocol == "udp" and packet.direction == direction and begin <= packet.time < end
        if not is_negotiation(packet)
    ]


# Back from JSON ------------------------------------------------------------------------------------------------------


def _change(news: News) -> PathChange:
    facts = dict(news["change"])
    for name in ("old", "new"):
        if name in facts:
            facts[name] = _path(facts[name])
    return cast("PathChange", getattr(whimbrel, news["type"])(**facts))


def _path(facts: News) -> Path:
    return Path(**{**facts, "local": tuple(facts["local"]), "remote": tuple(facts["remote"])})
