"""Alt-Svc as servers write it (RFC 7838 §3), and what is concluded from it."""

from __future__ import annotations

import pytest

from whimbrel.http._alt_svc import MAX_AGE, Alternative, parse
from whimbrel.http._https_records import Service, Services
from whimbrel.http._origins import FORGIVEN_AFTER, ORIGINS, Origin, Origins

HERE = "127.0.0.1"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ('h3=":443"', [Alternative("", 443)]),
        ('h3=":443"; ma=2592000,h3-29=":443"; ma=2592000', [Alternative("", 443, 2592000.0)]),
        ('h2="a.example:1", h3="b.example:2";persist=1', [Alternative("b.example", 2, MAX_AGE, True)]),
        ('h3="[2001:db8::1]:8443";ma="60"; unknown=x', [Alternative("2001:db8::1", 8443, 60.0)]),
        ('h3=":1",\th3=":2"', [Alternative("", 1), Alternative("", 2)]),
        (r'h3="\a.example:1"', [Alternative("a.example", 1)]),
        ('h3=":443"; ma=soon', [Alternative("", 443)]),
        ('h2=":443"', []),
        ("clear", []),
        (" clear ", []),
    ],
)
def test_a_field_is_read(field: str, expected: list[Alternative]) -> None:
    assert parse(field) == expected


@pytest.mark.parametrize(
    "field", ["Clear", "h3", "h3=:443", 'h3="443"', 'h3=":0"', 'h3=":65536"', 'h3=":443', 'h3="a b:1"', 'h3=":1" ma=2']
)
def test_a_field_that_is_malformed_is_none(field: str) -> None:
    assert parse(field) is None


# What is concluded ----------------------------------------------------------------------------------------------------


def test_an_origin_is_tried_itself_where_nothing_is_known() -> None:
    assert Origin("a.example", 443).places(0.0) == [("a.example", 443)]


def test_an_alternative_is_good_for_its_age() -> None:
    origin = Origin("a.example", 443)
    origin.advertised('h3=":1"; ma=10, h3="b.example:2"; ma=20', HERE, 100.0)
    assert origin.places(109.0) == [("a.example", 1), ("b.example", 2)]
    assert origin.places(111.0) == [("b.example", 2)]
    assert origin.places(121.0) == [("a.example", 443)]


def test_a_field_replaces_the_last_one_unless_it_is_malformed() -> None:
    origin = Origin("a.example", 443)
    origin.advertised('h3=":1"', HERE, 0.0)
    origin.advertised("h3=nonsense", HERE, 0.0)
    assert origin.places(1.0) == [("a.example", 1)]
    origin.advertised('h3=":2"', HERE, 0.0)
    assert origin.places(1.0) == [("a.example", 2)]
    origin.advertised("clear", HERE, 0.0)
    assert origin.places(1.0) == [("a.example", 443)]


def test_records_of_the_dns_count_less_than_the_server_and_more_than_a_guess() -> None:
    origin = Origin("a.example", 443)
    origin.services = Services((Service("b.example", 1, False), Service("c.example", 2, True)), 60.0), 60.0
    assert origin.places(1.0) == [("c.example", 2)]
    origin.services = Services((Service("b.example", 1, False),), 60.0), 60.0
    assert origin.places(1.0) == []
    origin.advertised('h3=":3"', HERE, 0.0)
    assert origin.places(1.0) == [("a.example", 3)]


def test_a_place_is_blamed_for_its_silence_only_where_tcp_gets_through() -> None:
    origin = Origin("a.example", 443)
    place = origin.place
    origin.dialling()
    origin.failed(place, 0.0)
    assert origin.places(1.0) == [place]  # Perhaps there is no network at all.
    origin.answered_over_tcp(HERE, 2.0)
    assert origin.places(3.0) == []
    assert origin.places(3.0 + FORGIVEN_AFTER) == [place]
    # The other way round, and with an answer that came before anybody asked.
    origin.dialling()
    origin.answered_over_tcp(HERE, 2.0)
    origin.failed(place, 3.0)
    assert origin.places(4.0) == []
    origin.failed_over_tcp()
    assert origin.places(4.0) == [place]
    origin.dialling()
    origin.failed(place, 5.0)
    assert origin.places(6.0) == [place]


def test_as_many_origins_are_remembered_as_fit() -> None:
    origins = Origins()
    first = origins.get("0.example", 443)
    for number in range(ORIGINS - 1):
        origins.get(f"{number + 1}.example", 443)
    assert origins.get("0.example", 443) is first
    origins.get("one.more.example", 443)
    assert origins.get("0.example", 443) is first
    assert len(origins._known) == ORIGINS
