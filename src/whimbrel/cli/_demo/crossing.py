"""The whole of it: a laboratory, a server, two clients on the same radios at the same time, and a journey.

Both clients begin together and see the same networks come and go; the journey's steps fall on parts of the migrating
client's transfer. By CUBIC neither fills a radio that loses one packet in a thousand, so they take little from each
other; and the one that stands still carries nothing while its network is not the preferred one, which is when the
other's gaps are measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import random
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from whimbrel.cli._demo import servers
from whimbrel.cli._demo.lane import Lane, Progress
from whimbrel.testing import Journey, Laboratory, Scenario, carried

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from whimbrel.cli._demo.lane import Change
    from whimbrel.testing import ConnectionIds, Event, Move, Packet, Sample

PATIENCE = 25.0
"""Seconds without a byte, and without a change of the networks, after which a client is given up. More than the outage
of the scenarios, or nobody could survive one."""
LIMIT = 70.0
"""Seconds that a client may take for the default size; more for more."""
DEFAULT_SIZE = 60_000_000
BIN = 0.1
"""Seconds in which captured bytes are counted for the picture."""
_TICK = 0.125
_START_PATIENCE = 20.0
_LAST_WORDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be tried."""

    scenario: Scenario
    sockets: Literal["pinned", "unconnected", "connected"] = "pinned"
    auto: bool = True
    keepalive: float | None = None
    server: servers.ServerName = "caddy"
    other_client: bool = True
    """Whether a client that does not move runs beside it."""
    size: int = DEFAULT_SIZE
    seed: int = 0

    @property
    def limit(self) -> float:
        """Seconds that a client may take."""
        return LIMIT * max(1.0, self.size / DEFAULT_SIZE)


@dataclass
class Crossing:
    """What happened. Times are those of `time.monotonic`."""

    plan: Plan
    migrating: Progress
    standing: Progress | None
    """None where it was left out."""
    sha256: str
    congestion_control: str = "cubic"
    """What TCP sends by."""
    began: float = 0.0
    events: list[Event] = field(default_factory=list)
    """Steps of the journey since the clients began."""
    captured: dict[str, Captured] = field(default_factory=dict)
    """By interface."""
    captured_moves: list[Move] = field(default_factory=list)

    @property
    def ended(self) -> float:
        """When the last client was done."""
        return max(lane.ended or self.began for lane in self.lanes)

    @property
    def lanes(self) -> list[Progress]:
        """Those of the clients that took part, the migrating one first."""
        return [lane for lane in (self.migrating, self.standing) if lane is not None]


@dataclass(frozen=True)
class Captured:
    """What an observer of one radio saw."""

    connection_ids: ConnectionIds
    bytes: int
    """IP bytes of the migrating client's datagrams, both ways."""
    arrivals: list[Sample]
    """Of the migrating client's datagrams: when, and how many bytes of payload."""
    migrating: list[Sample]
    """IP bytes to the migrating client, in bins."""
    standing: list[Sample]
    """The same for the other one."""


class Show(Protocol):
    """Where the crossing is watched from."""

    def begin(self, crossing: Crossing) -> None:
        """The clients begin now."""

    def event(self, at: float, event: Event) -> None:
        """The journey took a step, so many seconds after the beginning."""

    def change(self, at: float, change: Change) -> None:
        """Something happened to the migrating client's path."""

    def tick(self, crossing: Crossing, now: float) -> None:
        """Some time has passed."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def cross(plan: Plan, show: Show) -> Crossing:
    """Do it. Nothing of it remains afterwards, whatever happens.

    Raises:
        LaboratoryUnavailable: neither root nor user namespaces.
        ServerFailed: the server did not start.
        CrossingFailed: the clients did not start.
    """
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Laboratory())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="whimbrel-demo-"))
        site = servers.Site(Path(folder), lab.server_address)
        site.prepare()
        digest = _random_file(site.file, plan.size, plan.seed)
        servers.start(lab, site, plan.server)
        control = _equal_terms(lab)
        steps: queue.SimpleQueue[Event] = queue.SimpleQueue()
        journey = stack.enter_context(Journey(lab, plan.scenario, on_event=steps.put))
        lanes = _lanes(lab, site, plan)
        for lane in lanes:
            stack.callback(lane.close)
        standing = lanes[1].progress if plan.other_client else None
        crossing = Crossing(plan, lanes[0].progress, standing, digest, control)
        _Race(crossing, lanes, journey, steps, show).run()
        journey.stop()
        _capture(crossing, lab)
        return crossing


class CrossingFailed(Exception):
    """The clients could not be started."""


class _Race:
    """Both clients, from the moment they are ready until both are done."""

    def __init__(
        self, crossing: Crossing, lanes: list[Lane], journey: Journey, steps: queue.SimpleQueue[Event], show: Show
    ) -> None:
        self._crossing = crossing
        self._lanes = lanes
        self._journey = journey
        self._steps = steps
        self._show = show
        self._last_event = 0.0

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for lane in self._lanes:
                selector.register(lane, selectors.EVENT_READ)
            self._wait_until_ready(selector)
            self._begin()
            while any(lane.progress.ended is None for lane in self._lanes):
                self._read(selector, _TICK)
                now = time.monotonic()
                self._show.tick(self._crossing, now)
                for lane in self._lanes:
                    self._lose_patience(lane, now)
            self._hear_last_words(selector)

    def _wait_until_ready(self, selector: selectors.BaseSelector) -> None:
        give_up = time.monotonic() + _START_PATIENCE
        while not all(lane.is_ready for lane in self._lanes):
            if time.monotonic() > give_up:
                raise CrossingFailed("the demo's clients did not start in time: is this machine very busy?")
            self._read(selector, 0.1)
        if any(lane.progress.ended for lane in self._lanes):
            raise CrossingFailed("the demo's clients did not start: see above")

    def _begin(self) -> None:
        while not self._steps.empty():
            self._steps.get()  # What the journey begins with is no event.
        now = self._crossing.began = self._last_event = time.monotonic()
        for lane in self._lanes:
            lane.progress.begin(now)
            lane.go()
        self._show.begin(self._crossing)

    def _read(self, selector: selectors.BaseSelector, timeout: float) -> None:
        ready = selector.select(timeout)
        self._take_steps()  # Before what the clients made of them.
        for key, _ in ready:
            lane = key.fileobj
            assert isinstance(lane, Lane), "nothing else was registered"
            for change in lane.read(time.monotonic()):
                self._show.change(change.at - self._crossing.began, change)
            if lane.is_closed:
                selector.unregister(lane)
        self._journey.progress(self._crossing.migrating.fraction)

    def _take_steps(self) -> None:
        while self._crossing.began and not self._steps.empty():
            event = self._steps.get()
            self._last_event = event.time
            self._crossing.events.append(event)
            self._show.event(event.time - self._crossing.began, event)

    def _lose_patience(self, lane: Lane, now: float) -> None:
        progress, plan = lane.progress, self._crossing.plan
        if progress.ended is not None:
            return
        percent = int(100 * progress.fraction)
        if now - max(progress.last_byte, self._last_event) > PATIENCE:
            silent = now - progress.last_byte
            progress.finish(now, f"stalled at {percent} %, given up after {silent:.0f} s without a byte")
        elif now - progress.began > plan.limit:
            progress.finish(now, f"at {percent} % when its time was up, after {plan.limit:.0f} s")
        else:
            return
        lane.stop()

    def _hear_last_words(self, selector: selectors.BaseSelector) -> None:
        """A client that was given up still tells what it had."""
        give_up = time.monotonic() + _LAST_WORDS
        while selector.get_map() and time.monotonic() < give_up:
            self._read(selector, 0.1)


def _equal_terms(lab: Laboratory) -> str:
    """Have TCP send by CUBIC, as Caddy's QUIC does and as is Linux' own default; or else by Reno. Returns which.

    Where a system prefers BBR, TCP would fill the radio that the two share, and be gone before anything happens.
    """
    chosen = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    with lab.enter("srv"):
        if chosen.read_text().strip() == "cubic":
            return "cubic"
        try:
            chosen.write_text("cubic")
        except OSError:
            # A namespace may choose only what the system allows to everybody; Reno always is.
            chosen.write_text("reno")
            return "reno"
    return "cubic"


def _random_file(path: Path, size: int, seed: int) -> str:
    """Write the file; return its SHA-256."""
    source, digest = random.Random(seed), hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            data = source.randbytes(min(1 << 20, size - start))
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def _lanes(lab: Laboratory, site: servers.Site, plan: Plan) -> list[Lane]:
    order: dict[str, object] = {"url": site.url, "cafile": str(site.cafile)}
    choices = {"sockets": plan.sockets, "auto": plan.auto, "keepalive": plan.keepalive}
    lanes = [Lane(Progress("whimbrel", plan.size), _client(lab, "migrating", order | choices))]
    if plan.other_client:
        lanes.append(Lane(Progress("http.client", plan.size), _client(lab, "standing", order)))
    return lanes


def _client(lab: Laboratory, module: str, order: dict[str, object]) -> subprocess.Popen[bytes]:
    # -P: modules come from where they are installed, not from whatever lies in the current folder.
    argv = [sys.executable, "-P", "-m", f"whimbrel.cli._demo.{module}", json.dumps(order)]
    package = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return lab.popen(
        "cli",
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the demo, which then ends this one.
    )


def _capture(crossing: Crossing, lab: Laboratory) -> None:
    crossing.captured_moves = lab.moves(servers.PORT)
    found = lab.connection_ids(servers.PORT)
    for network in lab.networks:
        migrating, standing = (list(_of(protocol, network.packets)) for protocol in ("udp", "tcp"))
        down = [packet for packet in migrating if packet.direction == "to_client"]
        crossing.captured[network.interface] = Captured(
            found[network.interface],
            sum(packet.size for packet in migrating),
            [(packet.time, packet.length) for packet in down],
            carried(down, width=BIN),
            carried((packet for packet in standing if packet.direction == "to_client"), width=BIN),
        )


def _of(protocol: str, packets: list[Packet]) -> Iterator[Packet]:
    for packet in packets:
        server = packet.destination if packet.direction == "to_server" else packet.source
        if packet.protocol == protocol and server[1] == servers.PORT:
            yield packet
