"""Much is under way at once where a path is long and fast, and much of it can be lost at once."""

from __future__ import annotations

import pytest

from tests.simulation.internet import Internet
from whimbrel import Limits
from whimbrel.testing import SimulatedNetwork

LATENCY, QUEUE = 0.040, 0.010
"""Seconds."""
PACKET = 1452
PIECES = 1024
"""The engine ends a connection when more pieces of one stream wait apart from each other."""


@pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
def test_every_other_packet_may_be_lost_of_all_that_is_under_way(upload: bool) -> None:
    """Slow start sends at twice the path's rate for a round trip, and a short queue drops what is too much."""
    with SimulatedNetwork(seed=1) as network:
        network.interface("wan0", latency=LATENCY, rate=500e6, queue=QUEUE)
        transfer = network.upload(20_000_000) if upload else network.download(20_000_000)
        network.run()
        assert transfer.complete
        sender = network._there.connection if upload else network._there.served[0]
        assert sender is not None
        assert sender.stats().packets_lost > PIECES


def test_a_reader_who_rests_is_sent_no_more_than_the_windows_after_many_losses() -> None:
    """What is put in order outside of the engine counts as read there. The peer must not get room for it."""
    window, buffer = 8 << 20, 8 << 20
    limits = Limits(stream_window=window, connection_window=window, send_buffer=buffer)
    with Internet(limits=limits, seed=1) as network:
        network.interface("wan0", latency=LATENCY, rate=500e6, queue=QUEUE)
        transfer = network.download(40_000_000)
        network.advance(0.5)
        while network.server.stats().packets_lost < PIECES:
            network.advance(0.05)
        go_on = network.stop_reading()
        network.advance(5.0)
        assert network._bearer.in_memory < window * 5 / 4 + buffer + PIECES * PACKET < 40_000_000 - transfer.received
        go_on()
        network.run()
        assert transfer.complete
