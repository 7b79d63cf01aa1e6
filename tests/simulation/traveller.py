"""Goes on a journey: carries its steps out, and says what was not as it should be."""

from __future__ import annotations

import functools
import itertools
import math
import random
from typing import TYPE_CHECKING

from tests.simulation.internet import ELSEWHERE, Datagram, Internet
from tests.simulation.support import ids_by_address, most_within, shared
from whimbrel import Limits, Migration, OutageTimeout
from whimbrel._policy import FLAP_HOLD, LAST_WAIT, LONGEST_PING, PROBE_BURST, PROBE_RATE, RETRY, REVIVAL
from whimbrel.testing import SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from tests.simulation.journey import Journey, Kind, Step
    from whimbrel._path import Address, Path
    from whimbrel.testing import SimulatedInterface, Transfer

RELAY: Address = ("192.0.2.77", 7777)
"""An attacker who forwards."""
BULK = 300_000
LIMITS = Limits(stream_window=128 << 10, connection_window=256 << 10, send_buffer=128 << 10)
PIECE = 1 << 15
STREAMS = 3
"""At once, at most."""
OUTAGE = 60.0
IDLE = 120.0
"""The server's; the client's is longer."""
FULL = 1452
"""Bytes of the largest datagram. The first to a new address is sent whatever came from there (`allowance.rs`)."""
CONTROL = 3
"""Probes over the working path, beside those that are limited: once in the life of a connection."""
NETWORKS = (("wlan0", 0.005), ("wwan0", 0.020), ("eth0", 0.002))
RATE = 5e6
RECOVERY = 2.0
"""Seconds from the moment when all is well, and said so, to new bytes."""
UNTOLD = 20.0
"""The same, where nobody says so: whoever did not answer is asked again after a pause that has grown."""
REST = 0.6
"""Seconds for the last transfer to find its pace."""
FOLLOWING = RETRY[1] + FLAP_HOLD[1] + 3.0
"""Seconds for a connection to be where the kernel would have it, though nobody says that it would be good there."""
TUNNEL = 12.0
"""Seconds without anything, of which nobody tells: long enough for those who wait longer each time to be late."""
PORTAL = 290.0
"""The same for a network that is preferred, while another one works."""
LONG = 30_000_000
"""Bytes of a transfer that is under way for all that time."""
DEGRADED = 20.0
"""Seconds on a network that loses a fifth, while others lose nothing."""
LAST = 900_000
"""Its bytes: enough to be under way when what happens last is over."""


class Traveller:
    """One journey. Raises AssertionError where something is not as it should be."""

    def __init__(self, internet: Internet, journey: Journey) -> None:
        self.internet = internet
        self.journey = journey
        for name, latency in NETWORKS:
            internet.interface(name, latency=latency, rate=RATE, up=name != "eth0", ipv6=True)
        internet.meddle = self._meddle
        self.transfers: list[Transfer] = []
        self.measured: dict[str, float] = {}
        """Seconds that were held to a bound."""
        self._chance = random.Random(journey.seed)
        self._copies = self._echoes = self._thefts = self._hidden = self._spoofed = 0
        self._relays_until = self._late_until = -math.inf
        self._client_at: Address = ELSEWHERE
        self._numbers = 10
        self._forbidden = 0.0  # how long, in all, nothing could get through
        self._silent: set[SimulatedInterface] = set()
        self._routeless = 0.0
        self._has_chosen = False  # the program, where to be

    # The journey ------------------------------------------------------------------------------------------------------

    def go(self) -> None:
        """All of it."""
        self._begin()
        self.advance(0.3)
        for step in self.journey.steps:
            self._take(step)
            self.advance(step.after)
        self._heal()
        self._finish()
        self._look_back()

    def _begin(self) -> None:
        internet, what = self.internet, self.journey.traffic
        if what in ("download", "all"):
            self.transfers.append(internet.download(BULK))
        if what in ("upload", "all"):
            self.transfers.append(internet.upload(BULK))
        if what in ("requests", "all"):
            self.transfers.append(internet.requests(50, every=0.1))

    def advance(self, seconds: float) -> None:
        """Let time pass, and keep account of what was possible meanwhile."""
        ways = [each for each in self.internet.interfaces if each.source(self._family)]
        if not any(each not in self._silent for each in ways):
            self._forbidden += seconds
        if not ways:
            self._routeless += seconds
        self.internet.advance(seconds)

    @property
    def _family(self) -> int:
        return 6 if self.journey.ipv6 else 4

    # Its steps --------------------------------------------------------------------------------------------------------

    def _take(self, step: Step) -> None:
        internet, interface = self.internet, self.internet.interfaces[step.interface]
        link, amount = interface.link, step.amount
        match step.kind:
            case "up":
                interface.up()
            case "down":
                interface.down()
            case "replug":
                interface.down()
                interface.up()
            case "flap":
                for _ in range(3 * amount):
                    interface.down()
                    self.advance(0.05 / amount)
                    interface.up()
                    self.advance(0.1 / amount)
            case "silence":
                self._silence(interface)
            case "speak":
                self._silence(interface, silent=False)
            case "portal":
                interface.down()
                self._silence(interface)
                interface.up()
            case "prefer":
                interface.set_metric(min(each.metric for each in internet.interfaces) - 1)
            case "renumber":
                self._renumber(interface)
            case "families":
                interface.set_families(ipv4=amount != 1, ipv6=amount != 2)
            case "tunnel":
                self._all_silent(2.0 * amount)
            case "outage":
                self._none(3.0 * amount)
            case "lossy":
                link.loss = 0.04 * amount
            case "jittery":
                link.jitter, link.reordering = 0.005 * amount, 0.02 * amount
            case "doubling":
                link.duplication = 0.1 * amount
            case "slow":
                link.latency = 10 * dict(NETWORKS)[interface.name]
            case "narrow":
                link.rate = RATE / 10
            case "small":
                link.mtu = 1280
            case "clean":
                self._clean(interface)
            case "rebind" | "readdress":
                interface.rebind(address=step.kind == "readdress")
            case "forgetful":
                interface.forget_after(0.5 * amount)
            case "request":
                self._request(interface)
            case "hurry":
                for number in range(2 * amount):
                    self._request(internet.interfaces[(step.interface + number) % 3])
                    self.advance(0.03)
            case "pester":
                self._pester(interface, 10 * amount)
            case _:
                self._attack(step.kind, amount)

    def _attack(self, kind: Kind, amount: int) -> None:
        now = self.internet.now
        match kind:
            case "late":
                self._late_until = now + amount
            case "hide":
                self._hidden += 3 * amount
            case "copy":
                self._copies += amount
            case "echo":
                self._echoes += amount
            case "steal":
                self._thefts += amount
            case "relay":
                self._relays_until = now + 0.5 * amount
            case "forge":
                for _ in range(amount):
                    self._forge()
            case _:
                raise AssertionError(f"nobody knows how to {kind}")

    def _silence(self, interface: SimulatedInterface, *, silent: bool = True) -> None:
        interface.silence(silent)
        (self._silent.add if silent else self._silent.discard)(interface)

    def _renumber(self, interface: SimulatedInterface) -> None:
        self._numbers += 1
        if self.journey.ipv6:
            interface.up(address=f"2001:db8:{interface.index}::{self._numbers:x}")
        else:
            interface.up(address=f"10.{interface.index}.0.{self._numbers}")

    def _all_silent(self, seconds: float) -> None:
        speaking = [each for each in self.internet.interfaces if each not in self._silent]
        for each in speaking:
            self._silence(each)
        self.advance(seconds)
        for each in speaking:
            self._silence(each, silent=False)

    def _none(self, seconds: float) -> None:
        up = [each for each in self.internet.interfaces if each.is_up]
        for each in up:
            each.down()
        self.advance(seconds)
        for each in up:
            each.up()

    def _clean(self, interface: SimulatedInterface) -> None:
        link = interface.link
        link.loss = link.jitter = link.reordering = link.duplication = 0.0
        link.latency, link.rate, link.mtu = dict(NETWORKS)[interface.name], RATE, 1500
        interface.forget_after(math.inf)

    def _request(self, interface: SimulatedInterface) -> Future[Path] | None:
        if not self.internet.is_connected or self.internet.lost is not None:
            return None
        self._has_chosen = True
        return self.internet.migrate(interface.name)

    def _pester(self, interface: SimulatedInterface, times: int) -> None:
        for _ in range(times):
            moving = self._request(interface)
            self.advance(0.02)
            if moving is not None:
                self.internet.cancel_move(moving)

    # Somebody on the way ----------------------------------------------------------------------------------------------

    def _meddle(self, datagram: Datagram) -> bool:
        if datagram.direction == "to_server":
            return self._towards_server(datagram)
        return self._towards_client(datagram)

    def _towards_server(self, datagram: Datagram) -> bool:
        internet = self.internet
        self._client_at = datagram.peer
        if internet.now < self._relays_until:
            internet.spoof(datagram.data, RELAY)
            return True
        if self._copies:
            self._copies -= 1
            self._spoof(datagram.data)
        elif self._echoes:
            self._echoes -= 1
            internet.at(internet.now + 0.01, functools.partial(self._spoof, datagram.data))
        elif self._thefts:
            self._thefts -= 1
            self._spoof(datagram.data)
            return True
        return False

    def _towards_client(self, datagram: Datagram) -> bool:
        internet = self.internet
        if datagram.peer == RELAY:
            if internet.now < self._relays_until:
                internet.forward(datagram.data, self._client_at)
            return True
        if self._hidden:
            self._hidden -= 1
            return True
        if internet.now < self._late_until:
            late = functools.partial(internet.forward, datagram.data, datagram.peer)
            internet.at(internet.now + 0.5, late)
            return True
        return False

    def _spoof(self, data: bytes) -> None:
        self._spoofed += 1
        self.internet.spoof(data, ELSEWHERE)

    def _forge(self) -> None:
        internet, chance = self.internet, self._chance
        noise, version = chance.randbytes(60), chance.randbytes(4)
        # IDs of the usual length: who looks for them on the way learns their length by such packets.
        ids = (b"\x08" + chance.randbytes(8)) * 2
        negotiation = b"\xc0\0\0\0\0" + ids + bytes.fromhex("6b3343cf")
        for data in (b"\x40" + noise, b"\xc0" + version + ids + noise, negotiation, b"\x00" + noise):
            internet.forward(data, self._client_at)
            internet.spoof(data, self._client_at)

    # Its end ----------------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """The world comes to rest: every network works, and nobody meddles."""
        self._copies = self._echoes = self._thefts = self._hidden = 0
        self._relays_until = self._late_until = -math.inf
        for interface in self.internet.interfaces:
            self._clean(interface)
            self._silence(interface, silent=False)
            if self.journey.told:
                interface.down()
        for interface in self.internet.interfaces:
            interface.set_families(ipv4=True, ipv6=True)
            interface.up()

    def _finish(self) -> None:
        """What is under way completes, soon; and what happens last does not hold it up either."""
        internet, rest = self.internet, self.internet.now
        before = [transfer.complete for transfer in self.transfers]
        internet.run(horizon=400.0)
        if not self._may_have_ended():
            for transfer, complete in zip(self.transfers, before, strict=True):
                assert transfer.complete, f"incomplete: {internet.lost} {internet.failure}"
                ended = transfer.completed_at if transfer.completed_at is not None else math.inf
                resumed = 0.0 if complete else min(transfer.resumed_after(rest), ended - rest)
                self.measured["resumed"] = max(resumed, self.measured.get("resumed", 0.0))
                assert resumed < self._recovery, f"nothing came for {resumed:.3f} s though all was well"
        elif internet.lost is None:
            assert all(transfer.complete for transfer in self.transfers), "neither complete nor ended"
        if self.journey.is_free and internet.lost is None:
            self._last()

    def _last(self) -> None:
        match self.journey.last:
            case "portal":
                self._last_portal()
            case "lossy" if self.journey.answers_probes and not self._has_chosen:
                self._last_lossy()
            case _:
                self._last_event()

    def _last_portal(self) -> None:
        """The network that is preferred carries nothing, for minutes, and then it does."""
        internet, well = self.internet, self.internet.now
        preferred = min(internet.interfaces, key=lambda each: each.metric)
        # What the program chose is not left; and who lost much is tried again after longer pauses.
        if self._has_chosen or any(step.kind == "lossy" for step in self.journey.steps):
            return
        while internet.path.interface != preferred.name:
            assert internet.now - well < FOLLOWING, "it does not use the network that is preferred"
            internet.advance(1.0)
        internet.requests(round(PORTAL / 5.0) + 40, every=5.0)
        preferred.silence()
        internet.advance(PORTAL)
        assert internet.path.interface != preferred.name, "it is where nothing comes through"
        preferred.silence(False)
        well = internet.now
        while internet.path.interface != preferred.name:
            assert internet.now - well < FOLLOWING, "it does not return to the network that is preferred"
            internet.advance(1.0)

    def _last_lossy(self) -> None:
        """The network that is used loses much, for good."""
        internet = self.internet
        if self.journey.traffic == "upload":
            internet.upload(LONG)
        else:
            internet.download(LONG)
        internet.advance(REST)
        used = next(each for each in internet.interfaces if each.name == internet.path.interface)
        used.link.loss, used.link.rate = 0.2, RATE / 3
        began = internet.now
        while internet.path.interface == used.name:
            assert internet.now - began < DEGRADED, "it stays on a network that loses much, though others lose nothing"
            internet.advance(0.5)
        self.measured["lossy"] = internet.now - began

    def _last_event(self) -> None:
        internet = self.internet
        transfer = internet.upload(LAST) if self.journey.traffic == "upload" else internet.download(LAST)
        well = internet.now
        while not transfer.received:
            assert internet.now - well < self._recovery, "nothing came over networks that are well"
            internet.advance(0.1)
        internet.advance(REST)
        used = next(each for each in internet.interfaces if each.name == internet.path.interface)
        others = [each for each in internet.interfaces if each is not used]
        now = internet.now
        match self.journey.last:
            case "down":
                used.down()
            case "silence":
                used.silence()
            case "prefer":
                others[0].set_metric(min(each.metric for each in internet.interfaces) - 1)
            case "rebind" | "readdress":
                used.rebind(address=self.journey.last == "readdress")
            case "renumber":
                self._renumber(used)
            case "tunnel":
                self._all_silent(TUNNEL)
                now = internet.now
            case _:
                used.down()
                used.up()
        internet.run(horizon=100.0)
        assert transfer.complete, f"incomplete after the last step: {internet.lost} {internet.failure}"
        arrivals = [now, *(arrival for arrival in transfer.arrivals if arrival > now)]
        stall = max(later - earlier for earlier, later in itertools.pairwise(arrivals))
        self.measured["stall"] = stall
        assert stall < self._patience(), f"{self.journey.last}: nothing came for {stall:.3f} s"

    @property
    def _recovery(self) -> float:
        return RECOVERY if self.journey.told else UNTOLD

    def _patience(self) -> float:
        """How long a single event may hold up a transfer: some round trips of the slowest network."""
        round_trip = 2 * max(latency for _, latency in NETWORKS)
        upload = 0.15 if self.journey.traffic == "upload" else 0.0
        # Where a NAT has forgotten whoever only receives, that is a silence as well.
        silence = 0.8 if self.journey.last in ("silence", "rebind", "readdress") else 0.0
        # The networks are asked three times, and only then one is trusted.
        in_vain = LAST_WAIT + 0.2 if silence and not self.journey.answers_probes else 0.0
        if self.journey.last == "tunnel":
            # A path that was silent is asked now and then; where the server does not answer that, there are PINGs.
            silence = REVIVAL[0] + 0.2 if self.journey.answers_probes else LONGEST_PING + 2.0
        return 4 * round_trip + 0.2 + upload + silence + in_vain

    def _may_have_ended(self) -> bool:
        """Whether this connection had a reason to end, and gave it."""
        internet = self.internet
        if self.journey.is_free and self._routeless < OUTAGE - 1 and self._forbidden < IDLE / 2:
            return False
        if internet.failure is not None:
            assert isinstance(internet.failure, OutageTimeout)
        elif internet.lost is not None:
            assert internet.lost[0] in ("idle", "reset"), internet.lost
        return True

    # Looking back -----------------------------------------------------------------------------------------------------

    def _look_back(self) -> None:
        internet = self.internet
        if self.journey.sockets == "pinned":
            linkable = sum(move.linkable for move in internet.moves)
            assert len(shared(ids_by_address(internet))) <= linkable, "a connection ID was seen on two networks"
        most = most_within(internet.probes, 1.0)
        assert most <= PROBE_RATE + PROBE_BURST + CONTROL, f"{most} probes within a second"
        owed = internet.most_owed(ELSEWHERE)
        assert owed <= FULL * self._spoofed, f"{owed} bytes to an address that proved nothing"
        self._check_new_addresses()
        bound = STREAMS * (LIMITS.send_buffer + PIECE) + LIMITS.connection_window
        assert internet.most_in_memory <= bound, f"{internet.most_in_memory} bytes in memory"

    def _check_new_addresses(self) -> None:
        """Until an answer can have come from there, an address gets three times what came (RFC 9000 §8.1, §9.3)."""
        internet = self.internet
        least = 2 * min(latency for _, latency in NETWORKS)
        for peer in internet.peers():
            if peer in (ELSEWHERE, RELAY):
                continue
            to_peer = internet.of("to_client", peer)
            if to_peer:
                owed = internet.most_owed(peer, until=to_peer[0].time + least)
                assert owed <= FULL, f"{owed} bytes to {peer} before it can have answered"


def travel(journey: Journey, watch: Callable[[Traveller], None] | None = None) -> None:
    """Go on a journey.

    Args:
        journey: which one.
        watch: called at the end, however it came.

    Raises:
        AssertionError: something was not as it should be.
    """
    server = SimulatedServer(
        answers_probes=journey.answers_probes,
        idle_timeout=IDLE,
        migration=journey.forbids != "parameter",
        id_length=0 if journey.forbids == "empty ids" else 8,
    )
    migration = Migration(sockets=journey.sockets, outage=OUTAGE)
    internet = Internet(seed=journey.seed, server=server, migration=migration, limits=LIMITS, ipv6=journey.ipv6)
    with internet:
        traveller = Traveller(internet, journey)
        try:
            traveller.go()
        finally:
            if watch is not None:
                watch(traveller)
