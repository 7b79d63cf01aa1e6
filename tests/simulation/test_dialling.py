"""What becomes of a handshake when the network changes under it: it is tried over the other network.

Nothing may move before the handshake is confirmed (RFC 9000 §9), so each attempt is a connection of its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import pytest

import whimbrel
from whimbrel import ConnectFailed, Connection, ConnectTimeout, Migration
from whimbrel._attempts import ELSEWHERE, PATIENCE
from whimbrel.testing import SimulatedNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = 4433


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(seed=1) as network:
        yield network


def dial(
    network: SimulatedNetwork,
    *,
    migration: Migration | None = Migration(),  # noqa: B008 - frozen
    host: str = "",
    timeout: float | None = 10.0,
    begun: Callable[[], object] = lambda: None,
    alpn: str = "test",
) -> tuple[float, str | None, str]:
    """Connect. Returns how long that took, over which interface, and to which address."""

    async def wait(connection: Connection) -> None:
        await connection.wait_closed()

    async def program() -> tuple[float, str | None, str]:
        files, hosts = network.certificate, (network.server_address[0], network.server_address6[0])
        async with whimbrel.serve(wait, hosts, PORT, cert=(files.chain, files.key), alpn="test"):
            began = network.now
            begun()
            async with whimbrel.connect(
                host or network.name,
                PORT,
                alpn=alpn,
                verify=files.authority,
                server_hostname=network.name,
                migration=migration,
                timeout=timeout,
            ) as connection:
                path = connection.path
                return network.now - began, path.interface, path.remote[0]

    return network.run(program())


def after(network: SimulatedNetwork, seconds: float, *steps: Callable[[], object]) -> Callable[[], None]:
    """Have something done so long after the dial has begun."""

    def begun() -> None:
        for step in steps:
            network.at(network.now + seconds, step)

    return begun


def test_a_handshake_that_goes_nowhere_is_tried_over_a_network_that_appears(network: SimulatedNetwork) -> None:
    network.interface("wwan0", latency=0.040, metric=200, portal=True)
    wifi = network.interface("wlan0", latency=0.010, metric=100, up=False)
    took, interface, _ = dial(network, begun=after(network, 0.1, wifi.up))
    assert interface == "wlan0"
    assert took == pytest.approx(0.1 + 0.02, abs=0.02)


def test_a_handshake_whose_network_is_cut_is_tried_over_the_other_one(network: SimulatedNetwork) -> None:
    wifi = network.interface("wlan0", latency=0.200, metric=100)
    network.interface("wwan0", latency=0.040, metric=200)
    took, interface, _ = dial(network, begun=after(network, 0.1, wifi.down))
    assert interface == "wwan0"
    assert took == pytest.approx(0.1 + 0.08, abs=0.02)


def test_after_a_moment_without_any_network_it_does_not_wait_for_its_own_timers(network: SimulatedNetwork) -> None:
    wifi = network.interface("wlan0", latency=0.010)
    wifi.silence()
    network.at(0.5, wifi.down)
    network.at(3.5, lambda: wifi.silence(False))
    network.at(3.5, wifi.up)
    # Its probe timeouts are at 1, 3 and 7 s: it knows of no round trip (RFC 9002 §6.2.2).
    took, interface, _ = dial(network)
    assert interface == "wlan0"
    assert took == pytest.approx(3.5 + 0.02, abs=0.03)


def test_one_that_goes_well_is_not_given_up_for_a_network_that_appears(network: SimulatedNetwork) -> None:
    network.interface("wwan0", latency=0.040, metric=200)
    wifi = network.interface("wlan0", latency=0.010, metric=100, up=False, portal=True)
    took, interface, _ = dial(network, begun=after(network, 0.02, wifi.up))
    assert interface == "wwan0"
    assert took == pytest.approx(0.08, abs=0.02)


def test_a_network_that_comes_and_goes_is_tried_once_each_time(network: SimulatedNetwork) -> None:
    network.interface("wwan0", latency=0.040, metric=200, portal=True)
    wifi = network.interface("wlan0", latency=0.010, metric=100, up=False, portal=True)
    times = [0.2 * step for step in range(20)]
    tasks: list[int] = []
    for time in times:
        network.at(time + 0.1, wifi.up)
        network.at(time + 0.15, lambda: tasks.append(len(asyncio.all_tasks(network._loop))))
        network.at(time + 0.2, wifi.down)
    with pytest.raises(ConnectTimeout, match="no answer within 5 s"):
        dial(network, timeout=5.0)
    # Each by its own destination connection ID (RFC 9000 §7.2), which nobody has answered.
    assert len({packet.payload[6 : 6 + packet.payload[5]] for packet in wifi.packets}) == len(times)
    assert len(tasks) == len(times)
    assert max(tasks) == tasks[1]  # What leads nowhere any more is given up at once.


@pytest.mark.parametrize("migration", [None, Migration(auto=False)], ids=["none", "by-hand"])
def test_who_is_to_stay_stays(network: SimulatedNetwork, migration: Migration | None) -> None:
    network.interface("wwan0", latency=0.040, metric=200, portal=True)
    wifi = network.interface("wlan0", latency=0.010, metric=100, up=False)
    with pytest.raises(ConnectTimeout):
        dial(network, migration=migration, begun=after(network, 0.1, wifi.up))


def test_a_network_of_the_other_family_alone_is_used_where_the_name_has_both(network: SimulatedNetwork) -> None:
    ipv4 = network.interface("wwan0", latency=0.200, metric=200)
    ipv6 = network.interface("wlan0", latency=0.010, metric=100, ipv4=False, ipv6=True, up=False)
    took, interface, address = dial(network, begun=after(network, 0.1, ipv4.down, ipv6.up))
    assert (interface, address) == ("wlan0", network.server_address6[0])
    assert took == pytest.approx(0.1 + 0.02, abs=0.02)


def test_without_any_network_a_dial_fails_at_once(network: SimulatedNetwork) -> None:
    network.interface("wlan0", up=False)
    with pytest.raises(ConnectFailed, match="no network leads"):
        dial(network)


# Silence without any news ---------------------------------------------------------------------------------------------


def test_a_handshake_that_nobody_answers_is_tried_over_the_other_network(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010, metric=100, portal=True)
    network.interface("wwan0", latency=0.040, metric=200)
    took, interface, _ = dial(network, host=network.server_address[0])
    assert interface == "wwan0"
    assert took == pytest.approx(PATIENCE + 0.08, abs=0.02)


def test_who_lost_only_its_first_packet_stays(network: SimulatedNetwork) -> None:
    wifi = network.interface("wlan0", latency=0.010, metric=100, portal=True)
    cellular = network.interface("wwan0", latency=0.040, metric=200)
    # It is sent again before that.
    took, interface, _ = dial(network, begun=after(network, 0.5, lambda: wifi.silence(False)))
    assert interface == "wlan0"
    assert took < PATIENCE
    assert not cellular.packets


def test_the_preferred_network_wins_where_it_answers_first_after_all(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.700, metric=100)
    cellular = network.interface("wwan0", latency=0.300, metric=200)
    took, interface, _ = dial(network)
    assert interface == "wlan0"
    assert took == pytest.approx(1.4, abs=0.02)
    assert cellular.packets


def test_each_network_is_tried_once_and_the_metered_last(network: SimulatedNetwork) -> None:
    network.interface("wwan0", latency=0.040, metric=50, portal=True)
    network.interface("wlan0", latency=0.010, metric=100, portal=True)
    network.interface("eth0", latency=0.002, metric=200, portal=True)
    with pytest.raises(ConnectTimeout, match="no answer within 10 s"):
        dial(network, migration=Migration(metered=["wwan*"]), host=network.server_address[0])
    cellular, wifi, cable = (min(packet.time for packet in each.packets) for each in network.interfaces)
    assert cable - wifi == pytest.approx(PATIENCE, abs=0.02)
    assert cellular - cable == pytest.approx(PATIENCE, abs=0.02)
    for each in network.interfaces:
        # Each by its own destination connection ID (RFC 9000 §7.2).
        assert len({packet.payload[6 : 6 + packet.payload[5]] for packet in each.packets}) == 1


def test_a_server_that_is_silent_everywhere_is_not_asked_for_ever(network: SimulatedNetwork) -> None:
    for number in range(9):
        network.interface(f"eth{number}", latency=0.002, metric=100 + number, portal=True)
    with pytest.raises(ConnectTimeout):
        dial(network, timeout=60.0)
    assert sum(bool(each.packets) for each in network.interfaces) == 1 + ELSEWHERE


def test_who_is_refused_is_not_kept_waiting_for_another_network(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010, metric=100)
    cellular = network.interface("wwan0", latency=0.040, metric=200)
    with pytest.raises(whimbrel.AlpnMismatch):
        dial(network, alpn="other")
    assert network.now < 0.5
    assert not cellular.packets


@pytest.mark.parametrize("sockets", ["connected", "unconnected"])
def test_where_the_kernel_routes_it_is_not_tried_elsewhere(
    network: SimulatedNetwork, sockets: Literal["connected", "unconnected"]
) -> None:
    network.interface("wlan0", latency=0.010, metric=100, portal=True)
    cellular = network.interface("wwan0", latency=0.040, metric=200)
    with pytest.raises(ConnectTimeout):
        dial(network, migration=Migration(sockets=sockets))
    assert not cellular.packets


# prefer ---------------------------------------------------------------------------------------------------------------

MOBILE = Migration(prefer=["wwan*"])


def test_a_dial_begins_over_the_favourite(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010, metric=100)
    network.interface("wwan0", latency=0.040, metric=200)
    assert dial(network)[1] == "wlan0"
    took, interface, _ = dial(network, migration=MOBILE)
    assert interface == "wwan0"
    assert took == pytest.approx(0.08, abs=0.02)


def test_where_the_favourite_does_not_answer_the_next_is_dialled(network: SimulatedNetwork) -> None:
    network.interface("wlan0", latency=0.010, metric=100)
    network.interface("wwan0", latency=0.040, metric=200, portal=True)
    took, interface, _ = dial(network, migration=MOBILE, host=network.server_address[0])
    assert interface == "wlan0"
    assert took == pytest.approx(0.25 + 0.02, abs=0.02)
