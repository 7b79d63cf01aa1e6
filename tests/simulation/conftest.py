"""Simulated networks. A failing test prints its seed; WHIMBREL_SEED gives it back."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol, Unpack

import pytest

from tests.simulation.internet import Internet
from whimbrel.testing._simulation import SimulatedNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.support import Options


class Simulate(Protocol):
    """Make a network that is special in some way."""

    def __call__(self, **options: Unpack[Options]) -> SimulatedNetwork: ...


@pytest.fixture
def simulate() -> Iterator[Simulate]:
    with contextlib.ExitStack() as networks:

        def make(**options: Unpack[Options]) -> SimulatedNetwork:
            network = networks.enter_context(SimulatedNetwork(**options, seed=_seed()))
            print(f"WHIMBREL_SEED={network.seed}")  # noqa: T201 (pytest shows it where a test fails)
            return network

        yield make


class Meddle(Protocol):
    """Make a network with somebody in front of the server."""

    def __call__(self, **options: Unpack[Options]) -> Internet: ...


@pytest.fixture
def meddle() -> Iterator[Meddle]:
    with contextlib.ExitStack() as networks:

        def make(**options: Unpack[Options]) -> Internet:
            internet = networks.enter_context(Internet(**options, seed=_seed()))
            print(f"WHIMBREL_SEED={internet.seed}")  # noqa: T201
            return internet

        yield make


@pytest.fixture
def internet(meddle: Meddle) -> Internet:
    """A network with somebody in front of the server, and a client that moves when the test says so."""
    return meddle()


@pytest.fixture
def network(simulate: Simulate) -> SimulatedNetwork:
    """A network with everything as by default."""
    return simulate()


def _seed() -> int | None:
    seed = os.environ.get("WHIMBREL_SEED")
    return int(seed) if seed else None
