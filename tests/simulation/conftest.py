"""Simulated networks. A failing test prints its seed; WHIMBREL_SEED gives it back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol, Unpack

import pytest

from tests.simulation.internet import Internet
from whimbrel.testing._simulation import SimulatedNetwork

if TYPE_CHECKING:
    from tests.simulation.support import Options


class Simulate(Protocol):
    """Make a network that is special in some way."""

    def __call__(self, **options: Unpack[Options]) -> SimulatedNetwork: ...


@pytest.fixture
def simulate() -> Simulate:
    def make(**options: Unpack[Options]) -> SimulatedNetwork:
        seed = os.environ.get("WHIMBREL_SEED")
        network = SimulatedNetwork(**options, seed=int(seed) if seed else None)
        print(f"WHIMBREL_SEED={network.seed}")  # noqa: T201 (pytest shows it where a test fails)
        return network

    return make


@pytest.fixture
def internet() -> Internet:
    """A network with somebody in front of the server, and a client that moves when the test says so."""
    internet = Internet()
    print(f"WHIMBREL_SEED={internet.seed}")  # noqa: T201
    return internet


@pytest.fixture
def network(simulate: Simulate) -> SimulatedNetwork:
    """A network with everything as by default."""
    return simulate()
