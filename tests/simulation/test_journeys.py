"""Random journeys: whatever the networks do, every byte arrives once and in order, and nobody can tell who it was.

Hypothesis draws the steps, and makes a failing journey short. WHIMBREL_JOURNEYS is how many to try.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.simulation.support import ids_by_address, shared
from tests.simulation.test_flapping import most_within
from whimbrel._policy import PROBE_BURST, PROBE_RATE
from whimbrel.testing._simulation import SimulatedNetwork, SimulatedServer

if TYPE_CHECKING:
    from whimbrel.testing._simulated_interface import SimulatedInterface

Action = Literal["up", "down", "silence", "speak", "rebind", "readdress", "renumber", "prefer", "lossy", "request"]
ACTIONS: tuple[Action, ...] = (
    "up", "down", "silence", "speak", "rebind", "readdress", "renumber", "prefer", "lossy", "request"
)  # fmt: skip
CONTROL = 3
"""Probes over the working path, beside those that are limited: once in the life of a connection."""


@dataclass(frozen=True)
class Step:
    """After a while, something happens to one of the interfaces."""

    after: float
    interface: int
    action: Action

    def take(self, network: SimulatedNetwork, number: int) -> None:
        interface = network.interfaces[self.interface]
        match self.action:
            case "up":
                interface.up()
            case "down":
                interface.down()
            case "silence" | "speak":
                interface.silence(self.action == "silence")
            case "rebind" | "readdress":
                interface.rebind(address=self.action == "readdress")
            case "renumber":
                interface.up(address=f"10.{self.interface + 1}.0.{number + 10}")
            case "prefer":
                interface.set_metric(min(each.metric for each in network.interfaces) - 1)
            case "lossy":
                interface.link.loss = 0.1
            case "request":
                network.migrate(interface.name)


def heal(interface: SimulatedInterface) -> None:
    """The world comes to rest: this network works."""
    interface.link.loss = 0.0
    interface.silence(False)
    interface.up()


STEPS = st.lists(
    st.builds(
        Step,
        after=st.sampled_from([0.0, 0.002, 0.05, 0.3, 1.0, 3.0]),
        interface=st.integers(0, 2),
        action=st.sampled_from(ACTIONS),
    ),
    max_size=12,
)


@settings(
    max_examples=int(os.environ.get("WHIMBREL_JOURNEYS", "50")),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    steps=STEPS,
    what=st.sampled_from(["download", "upload", "requests"]),
    answers_probes=st.sampled_from([True, True, False]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_byte_arrives_and_no_id_is_seen_twice(
    steps: list[Step], what: str, answers_probes: bool, seed: int
) -> None:
    server = SimulatedServer(answers_probes=answers_probes, idle_timeout=120.0)
    with SimulatedNetwork(seed=seed, server=server) as network:
        travel(network, steps, what)


def travel(network: SimulatedNetwork, steps: list[Step], what: str) -> None:
    for name, latency in (("wlan0", 0.005), ("wwan0", 0.020), ("eth0", 0.002)):
        network.interface(name, latency=latency, rate=5e6, up=name != "eth0")
    match what:
        case "download":
            transfer = network.download(1_000_000)
        case "upload":
            transfer = network.upload(1_000_000)
        case _:
            transfer = network.requests(100, every=0.02)
    network.advance(0.3)
    for number, step in enumerate(steps):
        step.take(network, number)
        network.advance(step.after)
    for interface in network.interfaces:
        heal(interface)
    rest = network.now
    network.run(horizon=100.0)
    assert transfer.complete, network.lost
    assert transfer.completed_at is not None
    assert transfer.completed_at - rest < 60.0
    assert len(shared(ids_by_address(network))) <= sum(move.linkable for move in network.moves)
    assert most_within(network.probes, 1.0) <= PROBE_RATE + PROBE_BURST + CONTROL
