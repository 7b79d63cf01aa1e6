"""What happens to networks in daily life, and is no reason to move, or a reason of another kind.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms

Each transfer is compared by its hash.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.crossing import MB, PORT, Certificates, Client, Program, Server, sources
from whimbrel import NetworkLost, NetworkRestored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(180)

_SLOW = 16e6
"""Bits a second: there is a middle of the transfer to do something in."""
_FOREVER = 0xFFFFFFFF
_HERD = 1000
_HERD_BOUND = 6.0
"""Seconds, on a busy machine with the server beside it. They learn of the change within one."""


@contextlib.contextmanager
def kernel_of(lab: Laboratory, namespace: Any) -> Iterator[Any]:
    """Its rtnetlink."""
    from pyroute2 import IPRoute  # type: ignore[import-untyped]

    with lab.enter(namespace), IPRoute() as kernel:
        yield kernel


def test_an_interface_that_is_renamed_is_the_same_network(lab: Laboratory, certificates: Certificates) -> None:
    _join_both(lab)
    with Server(lab, certificates) as server, Client(lab, server) as client:
        transfer = client.get(4 * MB)
        assert transfer.reaches(0.2)
        with kernel_of(lab, "cli") as kernel:
            # Without setting it down first: Linux 6.2 and later.
            kernel.link("set", index=kernel.link_lookup(ifname="wlan0")[0], ifname="home0")
        transfer.arrived()
        assert client.changes == []
        assert client.path().interface == "home0"


def test_a_lease_that_is_renewed_changes_nothing(lab: Laboratory, certificates: Certificates) -> None:
    _join_both(lab)
    with Server(lab, certificates) as server, Client(lab, server) as client:
        transfer = client.get(4 * MB)
        for part in (0.2, 0.4, 0.6):
            assert transfer.reaches(part)
            with kernel_of(lab, "cli") as kernel:
                (index,) = kernel.link_lookup(ifname="wlan0")
                lifetime = {"valid_lft": 3600, "preferred_lft": 3600}
                kernel.addr("replace", index=index, address=lab.wifi.address, prefixlen=24, **lifetime)
            lab.wifi.join()
        transfer.arrived()
        assert client.changes == []


def test_a_way_that_is_gone_for_a_moment_is_the_path_that_it_was(lab: Laboratory, certificates: Certificates) -> None:
    _join(lab, lab.wifi)
    with Server(lab, certificates) as server, Client(lab, server) as client:
        transfer = client.get(4 * MB)
        assert transfer.reaches(0.2)
        path = client.path()
        with kernel_of(lab, "cli") as kernel:
            (index,) = kernel.link_lookup(ifname="wlan0")
            default = {"dst": "default", "gateway": "10.1.0.1", "oif": index, "priority": 600}
            # As busybox's script does at each renewal.
            kernel.route("del", **default)
            kernel.route("add", **default)
        transfer.arrived()
        # On a busy machine the kernel is asked when all is over already.
        assert [type(change) for change in client.changes] in ([], [NetworkLost, NetworkRestored])
        assert client.path().local == path.local


def test_a_privacy_address_of_yesterday_stays_in_use_until_it_is_gone(
    lab: Laboratory, certificates: Certificates
) -> None:
    _join(lab, lab.wifi)
    old, new = lab.wifi.address_ipv6, "2001:db8:1::77"
    with Server(lab, certificates) as server, Client(lab, server, lab.server_address_ipv6) as client:
        transfer = client.get(4 * MB)
        assert transfer.reaches(0.2)
        _let_the_router_know(lab, new)
        with kernel_of(lab, "cli") as kernel:
            (index,) = kernel.link_lookup(ifname="wlan0")
            kernel.addr("add", index=index, address=new, prefixlen=64, flags=0x02)
            kernel.addr("replace", index=index, address=old, prefixlen=64, preferred_lft=0, valid_lft=_FOREVER)
            assert _chosen(kernel, lab.server_address_ipv6) == new
        assert transfer.reaches(0.6)
        assert client.changes == []
        assert set(sources(lab)) == {old}
        with kernel_of(lab, "cli") as kernel:
            kernel.addr("del", index=index, address=old, prefixlen=64)
        moved = client.moved_to("wlan0")
        assert (moved.reason, moved.old.local[0], moved.new.local[0]) == ("dead", old, new)
        transfer.arrived()
    assert lab.linkable(PORT, "to_server") == frozenset()


def test_a_new_connection_uses_the_privacy_address_of_today(lab: Laboratory, certificates: Certificates) -> None:
    _join(lab, lab.wifi)
    old, new = lab.wifi.address_ipv6, "2001:db8:1::77"
    _let_the_router_know(lab, new)
    with kernel_of(lab, "cli") as kernel:
        (index,) = kernel.link_lookup(ifname="wlan0")
        kernel.addr("add", index=index, address=new, prefixlen=64, flags=0x02)
        kernel.addr("replace", index=index, address=old, prefixlen=64, preferred_lft=0, valid_lft=_FOREVER)
    with Server(lab, certificates) as server, Client(lab, server, lab.server_address_ipv6) as client:
        client.get(MB).arrived()
    assert set(sources(lab)) == {new}


def test_a_vpn_that_comes_up_is_moved_into_and_one_that_goes_is_left(
    lab: Laboratory, certificates: Certificates
) -> None:
    _join(lab, lab.wifi)
    with Server(lab, certificates) as server, Client(lab, server) as client:
        transfer = client.get(8 * MB)
        assert transfer.reaches(0.2)
        _vpn(lab)
        assert client.moved_to("tun0").reason == "preferred"
        assert transfer.reaches(0.6)
        with kernel_of(lab, "cli") as kernel:
            kernel.link("del", index=kernel.link_lookup(ifname="tun0")[0])
        assert client.moved_to("wlan0").reason == "dead"
        transfer.arrived()
        assert len(client.moves) == 2


def test_a_thousand_connections_of_one_process_move_together(lab: Laboratory, certificates: Certificates) -> None:
    lab.cellular.join()
    order: dict[str, object] = {
        "host": lab.server_address,
        "port": PORT,
        "ca": certificates.ca,
        "count": _HERD,
        "size": 1000,
    }
    with Server(lab, certificates):
        herd = Program(lab, "cli", "herd", order)
        try:
            herd.wait(lambda: herd.news("ready") or None, "all are connected", 90.0)
            _moves_to(herd, "wlan0", lab.wifi.join)
            _moves_to(herd, "wwan0", lab.wifi.down)
            assert herd.finish() == 0
        finally:
            herd.end()
    # They asked together: each for itself, it would be a thousand datagrams of 1200 bytes, at once.
    assert lab.connection_ids(PORT)["wlan0"].probes < 100
    assert lab.linkable(PORT, "to_server") == frozenset()


def _moves_to(herd: Program, interface: str, change: Callable[[], None]) -> None:
    before, begun = len(herd.news("moved")), time.monotonic()
    change()
    herd.tell(to=interface)
    moved = herd.wait(lambda: herd.news("moved")[before:] or None, f"all are on {interface}", 60.0)[0]
    last = max(moved["times"]) - begun
    sys.stdout.write(f"{_HERD} connections are on {interface} {last:.2f} s after the change\n")
    assert last < _HERD_BOUND
    assert moved["whole"] == _HERD


# What is done to the networks ----------------------------------------------------------------------------------------


def _join(lab: Laboratory, network: Any) -> None:
    network.set(rate=_SLOW)
    network.join()


def _join_both(lab: Laboratory) -> None:
    _join(lab, lab.wifi)
    _join(lab, lab.cellular)


def _let_the_router_know(lab: Laboratory, address: str) -> None:
    """Nothing is found out by neighbour discovery in the laboratory."""
    with kernel_of(lab, "cli") as kernel:
        hardware = kernel.get_links(kernel.link_lookup(ifname="wlan0")[0])[0].get("address")
    with kernel_of(lab, "ap") as router:
        (index,) = router.link_lookup(ifname="lan")
        router.neigh("add", ifindex=index, dst=address, lladdr=hardware, state=0x80)


def _chosen(kernel: Any, peer: str) -> object:
    """The address that the kernel would give to a new socket."""
    [route] = kernel.route("get", dst=peer)
    return route.get("RTA_PREFSRC")


def _vpn(lab: Laboratory) -> None:
    """A tunnel (VXLAN over IPv6) to the server's end of the world, which all IPv4 goes through from now on."""
    client, server = lab.wifi.address_ipv6, lab.server_address_ipv6
    for namespace, number, here, there in (("cli", 2, client, server), ("srv", 1, server, client)):
        with kernel_of(lab, namespace) as kernel:
            options = {"vxlan_id": 5, "vxlan_port": 4789, "vxlan_local6": here, "vxlan_group6": there}
            kernel.link("add", ifname="tun0", kind="vxlan", **options)
            (index,) = kernel.link_lookup(ifname="tun0")
            kernel.link("set", index=index, state="up", mtu=1400)
            kernel.addr("add", index=index, address=f"10.8.0.{number}", prefixlen=24)
    with kernel_of(lab, "cli") as kernel:
        (index,) = kernel.link_lookup(ifname="tun0")
        kernel.route("add", dst="default", gateway="10.8.0.1", oif=index, priority=50)
