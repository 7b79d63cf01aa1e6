"""Asking which way a peer is: what any Linux machine can answer. tests/lab/test_network.py has the rest."""

from __future__ import annotations

import errno
import statistics
import struct
import time
from pathlib import Path

import pytest

from whimbrel.network import Route, _netlink, route_to, routes_to
from whimbrel.network._lookup import NetlinkRefused, Peer
from whimbrel.network._netlink import NetlinkLookup, _attributes


def test_this_machine_is_reached_over_loopback() -> None:
    assert route_to("127.0.0.1") == Route("lo", 1, "127.0.0.1")
    assert routes_to("127.0.0.1") == [Route("lo", 1, "127.0.0.1")]


def test_ipv4_written_as_ipv6_is_ipv4() -> None:
    assert route_to("::ffff:127.0.0.1") == route_to("127.0.0.1")
    assert Peer.parse("::ffff:192.0.2.1") == Peer.parse("192.0.2.1")


@pytest.mark.parametrize("name", ["localhost", "example.com", "", "1.2.3", "1.2.3.4.5", "127.0.0.1%lo", "::1::", "1\0"])
def test_what_is_no_address_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(ValueError, match="is not an IP address: look the name up first"):
        route_to(name)
    with pytest.raises(ValueError, match="is not an IP address: look the name up first"):
        routes_to(name)


def test_a_link_local_address_names_its_interface() -> None:
    with pytest.raises(ValueError, match=r"say on which interface, as in 'fe80::1%wlan0'"):
        route_to("fe80::1")
    assert Peer.parse("fe80::1%lo").scope_index == 1
    assert Peer.parse("fe80::1%7").scope_index == 7
    assert Peer.parse("fe80::1%no-such-interface").scope_index == -1
    assert route_to("fe80::1%no-such-interface") is None


def test_a_scope_that_an_address_does_not_need_is_ignored() -> None:
    assert Peer.parse("2001:db8::1%eth0") == Peer.parse("2001:db8::1")


def test_where_netlink_is_refused_sockets_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = route_to("127.0.0.1"), routes_to("192.0.2.1")

    monkeypatch.setattr(_netlink, "_NETLINK_ROUTE", 999)  # No such protocol.
    with pytest.raises(NetlinkRefused):
        NetlinkLookup()
    assert (route_to("127.0.0.1"), routes_to("192.0.2.1")) == expected


def test_asking_holds_no_descriptor_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for peer in ("127.0.0.1", "::1", "192.0.2.1"):
        route_to(peer)
        routes_to(peer)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_asking_is_cheap() -> None:
    costs = []
    for _ in range(101):
        began = time.perf_counter()
        route_to("127.0.0.1")
        costs.append(time.perf_counter() - began)
    # Some 25 us. The median: on a busy machine one of them may wait for the processor as long as it likes.
    assert statistics.median(costs) < 0.001


# The kernel's answers, and what cannot be one ------------------------------------------------------------------------


def _answer(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_an_answer_is_read() -> None:
    route = struct.pack("=8BI", 2, 32, 0, 0, 254, 3, 0, 1, 0)
    attributes = (
        struct.pack("=HHi", 8, 4, 7) + struct.pack("=HH2sxx", 6, 99, b"ab") + struct.pack("=HH4s", 8, 7, b"\n\0\0\1")
    )
    assert _attributes(_answer(24, route + attributes)) == {4: struct.pack("=i", 7), 99: b"ab", 7: b"\n\0\0\1"}


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL])
def test_no_way_is_an_answer(code: int) -> None:
    assert _attributes(_answer(2, struct.pack("=i", -code))) is None


def test_a_route_that_refuses_is_no_way() -> None:
    assert _attributes(_answer(24, struct.pack("=8BI", 10, 128, 0, 0, 254, 3, 0, 7, 0))) is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 16,
        _answer(2, b""),
        _answer(2, struct.pack("=i", -errno.EOPNOTSUPP)),
        _answer(24, b"\0" * 11),
        _answer(16, b"\0" * 12),
        struct.pack("=IHHII", 1000, 24, 0, 0, 0) + struct.pack("=8BI", 2, 32, 0, 0, 254, 3, 0, 1, 0),
        _answer(24, struct.pack("=8BI", 2, 32, 0, 0, 254, 3, 0, 1, 0) + b"\0\0\4\0"),
    ],
)
def test_what_is_no_answer_sends_us_to_the_sockets(answer: bytes) -> None:
    with pytest.raises(OSError, match=r"Errno"):
        _attributes(answer)
