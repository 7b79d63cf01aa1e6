"""Random moves under attack: whatever happens, the server finds its client again, and no stranger gets much.

Hypothesis draws the steps, and makes a failing journey short. WHIMBREL_JOURNEYS is how many to try.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.simulation.internet import ELSEWHERE, Datagram, Internet
from tests.simulation.support import shared
from whimbrel.testing._simulation import SimulatedServer

if TYPE_CHECKING:
    from whimbrel.testing._simulated_interface import SimulatedInterface

Action = Literal["move", "rebind", "readdress", "silence", "speak", "copy", "steal", "hide", "reset", "ping"]
ACTIONS: tuple[Action, ...] = (
    "move", "rebind", "readdress", "silence", "speak", "copy", "steal", "hide", "reset", "ping"
)  # fmt: skip
FULL = 1452


@dataclass(frozen=True)
class Step:
    """After a while, the client, a network or the attacker does something."""

    after: float
    interface: int
    action: Action


class World:
    """The networks, and an attacker who carries out what is drawn."""

    def __init__(self, internet: Internet) -> None:
        self.internet = internet
        self.interfaces = [
            self.internet.interface(name, latency=latency, rate=5e6)
            for name, latency in (("wlan0", 0.005), ("wwan0", 0.020), ("eth0", 0.002))
        ]
        self.internet.meddle = self._meddle
        self.linkable = 0
        self._copies = self._thefts = self._hidden = self._forged = 0

    def take(self, step: Step) -> None:
        internet, interface = self.internet, self.interfaces[step.interface]
        match step.action:
            case "move":
                self.move(interface)
            case "rebind" | "readdress":
                interface.rebind(address=step.action == "readdress")
                self.linkable += step.action == "readdress"  # Nobody told the client: it cannot change its ID.
            case "silence" | "speak":
                interface.silence(step.action == "silence")
            case "copy":
                self._copies += 1
            case "steal":
                self._thefts += 1
            case "hide":
                self._hidden += 1
            case "reset":
                self._forged += 1
                internet.spoof(b"\x40" + self._forged.to_bytes(8, "big") + bytes(32), internet.seen_at)
            case "ping":
                internet.ping()
        internet.advance(step.after)

    def move(self, interface: SimulatedInterface) -> None:
        self.linkable += not self.internet.move(interface)

    def _meddle(self, datagram: Datagram) -> bool:
        if datagram.direction == "to_client":
            hidden = self._hidden > 0
            self._hidden -= hidden
            return hidden
        if self._copies:
            self._copies -= 1
            self.linkable += 1
            self.internet.spoof(datagram.data, ELSEWHERE)
        elif self._thefts:
            self._thefts -= 1
            self.linkable += 1
            self.internet.spoof(datagram.data, ELSEWHERE)
            return True
        return False


STEPS = st.lists(
    st.builds(
        Step,
        after=st.sampled_from([0.0, 0.002, 0.02, 0.1, 0.5, 2.0]),
        interface=st.integers(0, 2),
        action=st.sampled_from(ACTIONS),
    ),
    max_size=15,
)


@settings(max_examples=int(os.environ.get("WHIMBREL_JOURNEYS", "50")), suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, upload=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_the_transfer_ends_whole_and_strangers_get_little(steps: list[Step], upload: bool, seed: int) -> None:
    with Internet(seed=seed, server=SimulatedServer(idle_timeout=120.0)) as internet:
        travel(World(internet), steps, upload)


def travel(world: World, steps: list[Step], upload: bool) -> None:
    internet = world.internet
    transfer = internet.upload(500_000) if upload else internet.download(500_000)
    internet.advance(0.2)
    for step in steps:
        world.take(step)
    for interface in world.interfaces:
        interface.silence(False)
    internet.meddle = None
    world.move(world.interfaces[0])
    rest = internet.now
    after = internet.requests(1)
    internet.run(horizon=60.0)
    assert transfer.complete, internet.lost
    assert after.complete
    assert internet.seen_at[0] == world.interfaces[0].external
    assert internet.now - rest < 30.0
    # Each time that the server was led there, one datagram in advance.
    spoofed = len(internet.of("to_server", ELSEWHERE))
    assert internet.most_owed(ELSEWHERE) <= FULL * spoofed
    assert len(shared(internet.ids_by_peer("to_server"))) <= world.linkable
