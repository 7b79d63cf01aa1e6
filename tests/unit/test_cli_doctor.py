"""What `whimbrel doctor` makes of its findings. tests/loopback and tests/lab have it find them."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from whimbrel.cli._doctor._findings import Change, Findings, Trial, Verdict, Way
from whimbrel.cli._doctor._report import lines, verdict
from whimbrel.cli.doctor import EPILOG

PORT = Trial("port", "wlan0", survived=True, answer_ms=12.0, linkable=False)
MOVED = Trial("interface", "wwan0", survived=True, answer_ms=44.0, linkable=False)
LOST = Trial("interface", "wwan0", problem="no-answer", linkable=False)
UNREACHED = Trial("interface", "wwan0", problem="no-way")
GOOD = Findings(
    "example.org",
    443,
    addresses=["192.0.2.80"],
    ways=[Way("192.0.2.80", "wlan0", "10.1.0.2", 11.0), Way("192.0.2.80", "wwan0", "10.2.0.2", 41.0)],
    quic=True,
    http3=True,
    status=200,
    remote="192.0.2.80",
    interface="wlan0",
    rtt_ms=11.0,
    allows_migration=True,
    disable_active_migration=False,
    connection_id_length=4,
    spare_connection_ids=4,
    moves=[PORT, MOVED],
)


def said(found: Findings) -> str:
    return "\n".join(lines(found))


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([PORT, MOVED], Verdict.FOLLOWS),
        ([PORT, UNREACHED], Verdict.FOLLOWS),
        ([PORT, LOST], Verdict.STAYS),
        ([replace(PORT, survived=False, problem="no-answer")], Verdict.STAYS),
        ([replace(PORT, survived=False, problem="no-way")], Verdict.STAYS),
        ([], Verdict.STAYS),
    ],
    ids=["all", "another network carries nothing", "one lost", "port lost", "no move could be made", "none"],
)
def test_only_moves_that_were_made_and_survived_count(moves: list[Trial], expected: Verdict) -> None:
    assert replace(GOOD, moves=moves).verdict is expected


def test_who_answers_is_told_from_who_does_not() -> None:
    assert Findings("example.org", 443).verdict is Verdict.UNREACHABLE
    assert Findings("example.org", 443, quic=True).verdict is Verdict.REFUSED


def test_moves_in_words() -> None:
    assert "\nA move from wlan0 to wwan0: survived, an answer came after 44 ms.\n" in said(GOOD)
    assert "\nA move from wlan0 to wwan0: not survived (no-answer).\n" in said(replace(GOOD, moves=[PORT, LOST]))
    unreached = said(replace(GOOD, moves=[PORT, UNREACHED]))
    assert "\nA move from wlan0 to wwan0: not made, example.org is not reached that way.\n" in unreached


def test_a_server_that_leaves_no_spare_connection_id_is_followed_and_seen() -> None:
    found = replace(GOOD, moves=[replace(PORT, linkable=True)], spare_connection_ids=0)
    assert "survived, an answer came after 12 ms. The connection ID had to be kept.\n" in said(found)
    assert verdict(found).endswith("can link them: it leaves no spare connection ID.")


def test_a_preferred_address_is_named() -> None:
    found = replace(GOOD, preferred_address=[("192.0.2.81", 443), ("2001:db8::81", 4433)])
    assert "\nIt would rather be reached at 192.0.2.81:443 (preferred_address)." in said(found)
    assert "\nIt would rather be reached at [2001:db8::81]:4433 (preferred_address)." in said(found)


def test_an_address_without_a_network_is_said_to_have_none() -> None:
    found = replace(GOOD, addresses=["192.0.2.80", "2001:db8::80"])
    assert "\n2001:db8::80: no network leads there.\n" in said(found)


def test_what_would_be_done_is_said_case_by_case() -> None:
    found = replace(GOOD, network_changes=[Change("wlan0 goes away", "move", "would move at once to wwan0")])
    assert "\nIf wlan0 goes away: whimbrel would move at once to wwan0.\n" in said(found)


def test_the_help_and_the_page_know_every_exit_status_and_field() -> None:
    page = (Path(__file__).parents[2] / "docs/doctor.md").read_text()
    for status in Verdict:
        assert f"{int(status)} " in EPILOG
        assert re.search(rf"^\| {int(status)} \|", page, re.MULTILINE), status
    for part in (Findings, Way, Trial, Change):
        for field in fields(part):
            assert f"`{field.name}`" in page, field.name
    for name in ("verdict", "verdict_sentence", "exit_status"):
        assert f"`{name}`" in page
