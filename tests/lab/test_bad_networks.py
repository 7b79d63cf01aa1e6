"""Networks that carry nothing from the start, not well, or at a price, on a real kernel.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import pytest

from tests.lab.crossing import MB, Certificates, Client, Server

if TYPE_CHECKING:
    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(180)

_SLOW = 8e6
"""Bits a second: what is lost in a few seconds is then judged in the midst of the transfer."""


def _join_both(lab: Laboratory) -> None:
    for network in (lab.wifi, lab.cellular):
        network.set(rate=_SLOW)
        network.join()


@pytest.mark.parametrize("loop", ["asyncio", "none"])
def test_a_dial_that_nobody_answers_over_wifi_goes_over_the_other_network(
    lab: Laboratory, certificates: Certificates, loop: Literal["asyncio", "none"]
) -> None:
    _join_both(lab)
    lab.wifi.silence()
    with Server(lab, certificates) as server:
        began = time.monotonic()
        with Client(lab, server, loop=loop) as client:
            assert time.monotonic() - began < 8.0  # the program's own start included; a dial gives up after ten
            client.get(MB).arrived()


@pytest.mark.parametrize("way", ["download", "upload"])
def test_a_transfer_leaves_wifi_that_loses_much(
    lab: Laboratory, certificates: Certificates, way: Literal["download", "upload"]
) -> None:
    _join_both(lab)
    with Server(lab, certificates) as server, Client(lab, server) as client:
        transfer = client.transfer(way, 12 * MB)
        assert transfer.reaches(0.1)
        lab.wifi.set(loss=0.2)
        client.moved_to("wwan0", timeout=60.0)
        transfer.arrived()
        # Chance decides whether it seems lossy first or, when several packets in a row are lost, silent.
        assert {"lossy", "silent"} & {move.reason for move in client.moves}


def test_a_metered_network_is_used_when_nothing_else_carries(lab: Laboratory, certificates: Certificates) -> None:
    _join_both(lab)
    with Server(lab, certificates) as server, Client(lab, server, migration={"metered": ["wlan*"]}) as client:
        assert client.path().interface == "wwan0"  # though the kernel prefers the other
        transfer = client.get(4 * MB)
        assert transfer.reaches(0.2)
        lab.cellular.silence()
        client.moved_to("wlan0")
        transfer.arrived()
