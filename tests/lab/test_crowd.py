"""Many clients at once, a part of which moves in the same second.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

import sys

import pytest

from tests.lab.crossing import PORT, Certificates, Dispatch, News, Program, Server
from whimbrel.testing import Laboratory

CLIENTS, MOVING = 1000, 200
SIZE = 32_000

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("sockets", ["wildcard", "connected"])
def test_a_thousand_clients_are_served_while_two_hundred_move(
    lab: Laboratory, certificates: Certificates, sockets: Dispatch
) -> None:
    lab.cellular.join()
    order: dict[str, object] = {
        "host": lab.server_address,
        "port": PORT,
        "ca": certificates.ca,
        "moving": MOVING,
        "staying": CLIENTS - MOVING,
        "size": SIZE,
    }
    with Server(lab, certificates, sockets=sockets):
        crowd = Program(lab, "cli", "crowd", order)
        try:
            crowd.wait(lambda: crowd.news("under way") or None, "all have begun", 90.0)
            lab.wifi.join()
            clients = crowd.wait(lambda: _all(crowd), "all have what they asked for", 90.0)
            assert crowd.finish() == 0
        finally:
            crowd.end()
    assert [client["number"] for client in clients if not client["whole"] == client["downloads"] > 0] == []
    moves = [client["move"] for client in clients if client["number"] < MOVING]
    assert {interface for interface, _ in moves} == {"wlan0"}
    times = [at for _, at in moves]
    sys.stdout.write(f"{MOVING} clients moved within {max(times) - min(times):.2f} s\n")
    assert [client["number"] for client in clients if client["move"] and client["number"] >= MOVING] == []
    assert lab.linkable(PORT, "to_server") == frozenset()
    assert lab.linkable(PORT, "to_client") == frozenset()


def _all(crowd: Program) -> list[News] | None:
    clients = crowd.news("client")
    return clients if len(clients) == CLIENTS else None
