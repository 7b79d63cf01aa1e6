"""The whole of it: a laboratory, a server, two clients on the same radios at the same time, and a journey.

Or two clients alone, on the networks that this machine has, and the user who does something to them.

Both clients begin together and see the same networks come and go; the journey's steps fall on parts of the migrating
client's transfer. By CUBIC neither fills a radio that loses one packet in a thousand, so they take little from each
other; and the one that stands still carries nothing while its network is not the preferred one, which is when the
other's gaps are measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import queue
import random
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.cli._demo import servers
from whimbrel.cli._demo.lane import Client, Progress, Teller
from whimbrel.cli._demo.race import CrossingFailed, Patience, Race, Show
from whimbrel.testing import CELLULAR, WIFI, Journey, Laboratory, Radio, Scenario, carried

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Literal

    from whimbrel.cli._demo.messages import Direction
    from whimbrel.testing import ConnectionIds, Event, Move, Packet, Sample

__all__ = ["BIN", "Captured", "Crossing", "CrossingFailed", "Plan", "cross", "visit"]

PATIENCE = 25.0
"""Seconds without a byte, and without a change of the networks, after which a client is given up. More than the outage
of the scenarios, or nobody could survive one."""
PATIENCE_ABROAD = 75.0
"""The same on the machine's own networks: more than the outage that whimbrel itself holds on for."""
LIMIT = 70.0
"""Seconds that a client may take for the default size; more for more."""
DEFAULT_SIZE = 60_000_000
BIN = 0.1
"""Seconds in which captured bytes are counted for the picture."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be tried."""

    scenario: Scenario | None
    """None: whatever happens to the machine's own networks."""
    sockets: Literal["pinned", "unconnected", "connected"] = "pinned"
    auto: bool = True
    keepalive: float | None = None
    server: str = "caddy"
    """A `servers.ServerName`, or without a scenario a URL."""
    cafile: str | None = None
    """Whom to trust at a URL; None: the system's choice. In the laboratory the demo makes its own."""
    dispatch: servers.Dispatch | None = None
    """How our own server holds its sockets; None: it is another one."""
    direction: Literal["down", "up", "both"] = "down"
    other_client: bool = True
    """Whether a client that does not move runs beside it."""
    size: int = DEFAULT_SIZE
    """Bytes in each direction."""
    seed: int = 0
    loss: float | None = None
    """Part of the packets that both radios lose; None: as the laboratory's are."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Each direction that there is a transfer in."""
        return ("down", "up") if self.direction == "both" else (self.direction,)

    @property
    def patience(self) -> Patience:
        """What a client is given."""
        if self.scenario is None:
            return Patience(PATIENCE_ABROAD, math.inf)
        whole = self.size * len(self.directions)
        return Patience(PATIENCE, LIMIT * max(1.0, whole / DEFAULT_SIZE))


@dataclass
class Crossing:
    """What happened. Times are those of `time.monotonic`."""

    plan: Plan
    migrating: Client
    standing: Client | None
    """None where it was left out."""
    sha256: dict[Direction, str]
    """Of what was to be sent; nothing where only the server knows."""
    stored_sha256: str | None = None
    """Of the file that an upload left at the server."""
    congestion_control: str | None = "cubic"
    """What TCP sends by, where that is known."""
    began: float = 0.0
    events: list[Event] = field(default_factory=list)
    """Steps of the journey since the clients began."""
    captured: dict[str, Captured] = field(default_factory=dict)
    """By interface; nothing where nothing was captured."""
    captured_moves: list[Move] = field(default_factory=list)

    @property
    def ended(self) -> float:
        """When the last client was done."""
        return max(client.ended or self.began for client in self.clients)

    @property
    def clients(self) -> list[Client]:
        """Those that took part, the migrating one first."""
        return [client for client in (self.migrating, self.standing) if client is not None]


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


def cross(plan: Plan, show: Show) -> Crossing:
    """Do it in a laboratory. Nothing of it remains afterwards, whatever happens.

    Raises:
        LaboratoryUnavailable: neither root nor user namespaces.
        ServerFailed: the server did not start.
        CrossingFailed: the clients did not start.
    """
    assert plan.scenario is not None, "a laboratory is where scenarios happen"
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Laboratory(wifi=_radio(WIFI, plan), cellular=_radio(CELLULAR, plan)))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="whimbrel-demo-"))
        site = servers.Site(Path(folder), lab.server_address)
        site.prepare()
        files: dict[Direction, Path] = {"down": site.file, "up": site.upload_source}
        digests = {way: _random_file(files[way], plan.size, plan.seed + (way == "up")) for way in plan.directions}
        ours = servers.start(lab, site, plan.server, plan.dispatch, other_client=plan.other_client)
        down_control, up_control = _equal_terms(lab, "srv"), _equal_terms(lab, "cli")
        steps: queue.SimpleQueue[Event] = queue.SimpleQueue()
        journey = stack.enter_context(Journey(lab, plan.scenario, on_event=steps.put))

        def popen(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
            return lab.popen("cli", argv, **options)

        clients = _clients(popen, plan, site)
        witnesses = [Teller(clients[0].client, ours, ["up"])] if ours is not None and "up" in plan.directions else []
        for teller in (*clients, *witnesses):
            stack.callback(teller.close)
        crossing = _crossing(plan, clients, digests, up_control if plan.direction == "up" else down_control)
        race = Race(crossing, clients, show, plan.patience, servers=witnesses, steps=steps, progress=journey.progress)
        race.run()
        journey.stop()
        if "up" in plan.directions and site.upload_target.is_file():
            crossing.stored_sha256 = _sha256(site.upload_target)
        _capture(crossing, lab)
        return crossing


def visit(plan: Plan, show: Show) -> Crossing:
    """Do it over the machine's own networks, with a server that is somewhere. Nothing is cut, and nothing captured.

    Raises:
        CrossingFailed: the clients did not start.
    """
    with contextlib.ExitStack() as stack:
        clients = _clients(subprocess.Popen, plan, None)
        for teller in clients:
            stack.callback(teller.close)
        crossing = _crossing(plan, clients, {}, None)
        Race(crossing, clients, show, plan.patience).run()
        standing = crossing.standing
        if standing is not None and standing.whole and standing.transfers["down"].sha256 is not None:
            crossing.sha256["down"] = standing.transfers["down"].sha256
        return crossing


def _crossing(plan: Plan, clients: list[Teller], digests: dict[Direction, str], control: str | None) -> Crossing:
    standing = clients[1].client if plan.other_client else None
    return Crossing(plan, clients[0].client, standing, digests, congestion_control=control)


def _equal_terms(lab: Laboratory, end: Literal["srv", "cli"]) -> str:
    """Have an end's TCP send by CUBIC, as QUIC does and as is Linux' own default; or else by Reno. Returns which.

    Where a system prefers BBR, TCP would fill the radio that the two share, and be gone before anything happens.
    """
    chosen = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    with lab.enter(end):
        if chosen.read_text().strip() == "cubic":
            return "cubic"
        try:
            chosen.write_text("cubic")
        except OSError:
            # A namespace may choose only what the system allows to everybody; Reno always is.
            chosen.write_text("reno")
            return "reno"
    return "cubic"


def _radio(usual: Radio, plan: Plan) -> Radio:
    return usual if plan.loss is None else replace(usual, loss=plan.loss)


def _random_file(path: Path, size: int, seed: int) -> str:
    """Write the file; return its SHA-256."""
    source, digest = random.Random(seed), hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            data = source.randbytes(min(1 << 20, size - start))
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _clients(popen: Callable[..., subprocess.Popen[bytes]], plan: Plan, site: servers.Site | None) -> list[Teller]:
    """Start the clients' processes, the migrating one first."""
    total = None if site is None else plan.size
    order: dict[str, object] = {
        "directions": plan.directions,
        "url": plan.server if site is None else site.url,
        "cafile": plan.cafile if site is None else str(site.cafile),
        "upload_url": None if site is None else site.upload_url,
        "upload_file": None if site is None else str(site.upload_source),
    }
    choices = {"sockets": plan.sockets, "auto": plan.auto, "keepalive": plan.keepalive}
    migrating = Client("whimbrel", {way: Progress(way, total) for way in plan.directions})
    if "up" in plan.directions:
        # Its server tells what has come, and when; and the client itself whether it was answered.
        migrating.transfers["up"].awaited = {"ended", "answered"}
    tellers = [Teller(migrating, _client(popen, "migrating", order | choices), plan.directions)]
    if plan.other_client:
        standing = Client("http.client", {way: Progress(way, total) for way in plan.directions})
        tellers.append(Teller(standing, _client(popen, "standing", order), plan.directions))
    return tellers


def _client(
    popen: Callable[..., subprocess.Popen[bytes]], module: str, order: dict[str, object]
) -> subprocess.Popen[bytes]:
    return popen(
        servers.module(module, order),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=servers.environment(),
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
