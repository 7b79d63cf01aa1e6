"""Servers that forbid moving, or leave no connection ID for it, and clients that move more than anybody would.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, TypedDict

import pytest

from tests.lab.crossing import MB, SOON, Certificates, Client, Server, ids_by_address, sources, to_server
from whimbrel import IdleTimeout, MigrationDisabled, NetworkLost, OutageTimeout, PathMigrated, PathRejected
from whimbrel.testing import resumption

if TYPE_CHECKING:
    from whimbrel.testing import AccessNetwork, Laboratory

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def lab(lab: Laboratory) -> Laboratory:
    """Slow radios, so that a step that is late on a busy machine still falls on its place in the transfer."""
    for network in lab.networks:
        network.set(rate=40e6)
    return lab


class Forbids(TypedDict, total=False):
    """How a server does it."""

    migration: bool
    id_length: int


forbidding = pytest.mark.parametrize(
    "forbids", [Forbids(migration=False), Forbids(id_length=0)], ids=["disable_active_migration", "empty-ids"]
)


@forbidding
def test_who_may_not_move_stays_although_a_better_network_appears(
    lab: Laboratory, certificates: Certificates, forbids: Forbids
) -> None:
    lab.cellular.join()
    with Server(lab, certificates, **forbids) as server, Client(lab, server) as client:
        download = client.get(6 * MB)
        assert download.reaches(0.25)
        lab.wifi.join()
        with pytest.raises(MigrationDisabled):
            client.migrate(interface="wlan0")
        download.arrived()
        assert client.moves == []
        assert client.path().interface == "wwan0"
    assert to_server(lab.wifi.packets) == []


@forbidding
def test_who_may_not_move_waits_for_its_own_network_to_come_back(
    lab: Laboratory, certificates: Certificates, forbids: Forbids
) -> None:
    lab.cellular.join()
    with Server(lab, certificates, **forbids) as server, Client(lab, server) as client:
        download = client.get(6 * MB)
        assert download.reaches(0.25)
        lab.wifi.join()
        lab.cellular.down()
        client.hears(PathRejected)
        assert client.changes == [NetworkLost(), PathRejected("wlan0", "migration-disabled")]
        download.stops()
        back = time.monotonic()
        lab.cellular.join()
        # The server has not forgotten us, but its timer has had a while to grow.
        assert resumption(download.arrived(), back) < 2.0
        assert client.moves == []
    assert to_server(lab.wifi.packets) == []


@forbidding
def test_who_may_not_move_is_lost_when_its_network_is_gone_for_good(
    lab: Laboratory, certificates: Certificates, forbids: Forbids
) -> None:
    lab.cellular.join()
    with (
        Server(lab, certificates, **forbids) as server,
        Client(lab, server, migration={"outage": 2.0}) as client,
    ):
        download = client.get(6 * MB)
        assert download.reaches(0.25)
        lab.wifi.join()
        began = time.monotonic()
        lab.cellular.down()
        with pytest.raises(OutageTimeout, match="no network for 2 s"):
            download.arrived()
        assert 1.9 < time.monotonic() - began < SOON


@forbidding
def test_who_may_not_move_is_lost_when_its_network_falls_silent_for_good(
    lab: Laboratory, certificates: Certificates, forbids: Forbids
) -> None:
    lab.cellular.join()
    with (
        Server(lab, certificates, **forbids) as server,
        Client(lab, server, idle_timeout=2.0, migration={"outage": 2.0}) as client,
    ):
        download = client.get(6 * MB)
        assert download.reaches(0.25)
        lab.wifi.join()
        began = time.monotonic()
        lab.cellular.silence()
        with pytest.raises(IdleTimeout):
            download.arrived()
        assert 1.9 < time.monotonic() - began < SOON
    assert to_server(lab.wifi.packets) == []


def test_one_connection_over_twenty_addresses_in_a_row(lab: Laboratory, certificates: Certificates) -> None:
    changes = 20
    lab.wifi.set(rate=20e6)
    lab.wifi.join()
    with Server(lab, certificates) as server, Client(lab, server) as client:
        download = client.get(6 * MB)
        for number in range(changes):
            assert download.reaches((number + 1) / (changes + 1))
            lab.wifi.renew()
            client.hears(PathMigrated, number + 1)
        download.arrived()
        assert [move.linkable for move in client.moves] == [False] * changes
        assert client.path().local[0] == lab.wifi.address
    assert len(sources(lab)) == changes + 1
    assert all(len(addresses) == 1 for addresses in ids_by_address(lab).values())


def test_a_move_without_a_spare_connection_id_is_made_and_admitted(
    lossless_lab: Laboratory, certificates: Certificates
) -> None:
    # The networks change more often in a round trip than the server has left connection IDs.
    lab, changes = lossless_lab, 10
    for network in lab.networks:
        network.set(rtt=1.0)
    lab.cellular.join()
    networks = [lab.cellular, lab.wifi]
    with Server(lab, certificates) as server, Client(lab, server) as client:
        client.get(1).arrived()
        for number in range(changes + 1):
            if number == changes:
                # Round trips, in which the server leaves new ones, and those again that went nowhere.
                for _ in range(3):
                    client.get(1).arrived()
            networks[number % 2].leave()
            networks[(number + 1) % 2].join()
            client.hears(PathMigrated, number + 1)
        client.get(1).arrived()
        moves = client.moves
    admitted = [move.linkable for move in moves]
    assert admitted[0] is admitted[-1] is False
    # Whatever left over one network until the next move, as an observer of both sees it.
    observed = set()
    ends = [move.new.since for move in moves[1:]] + [math.inf]
    seen = _ids(lab.cellular, -math.inf, moves[0].new.since)
    for move, end in zip(moves, ends, strict=True):
        ids = _ids(lab.wifi if move.new.interface == "wlan0" else lab.cellular, move.new.since, end)
        if ids:  # Some moves are over before anything was sent.
            assert ids.isdisjoint(seen) is not move.linkable
            observed.add(move.linkable)
        seen |= ids
    assert observed == {False, True}


def _ids(network: AccessNetwork, begin: float, end: float) -> set[bytes]:
    return {packet.payload[1:9] for packet in to_server(network.packets, begin, end)}
