"""Tunnels, as far as they are rules: targets, who may go where, tokens, and what programs say to a proxy."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.cli._via import duration, server
from whimbrel.cli.run import environment
from whimbrel.tunnel._audit import Audit
from whimbrel.tunnel._dialect import BadGreeting, Dialect, HttpConnect, Socks5, dialect_of
from whimbrel.tunnel._listeners import Forwarding, LocalPort, LocalSocket, parse_local
from whimbrel.tunnel._refusal import Reason, proxy_status, refused
from whimbrel.tunnel._rules import BadRule, Rules, parse_rule
from whimbrel.tunnel._target import BadTarget, TcpTarget, UnixTarget, parse_authority, parse_target
from whimbrel.tunnel._throttle import Quota, Throttle
from whimbrel.tunnel._tokens import BadTokenFile, Tokens, read_token, write_token

# Targets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("example.org:22", TcpTarget("example.org", 22)),
        ("EXAMPLE.org.:22", TcpTarget("example.org", 22)),
        ("bücher.example:443", TcpTarget("xn--bcher-kva.example", 443)),
        ("192.0.2.1:1", TcpTarget("192.0.2.1", 1)),
        ("[2001:DB8::0]:65535", TcpTarget("2001:db8::", 65535)),
        ("[::ffff:192.0.2.1]:22", TcpTarget("192.0.2.1", 22)),
        ("/run/docker.sock", UnixTarget("/run/docker.sock")),
        ("/run/with space", UnixTarget("/run/with space")),
    ],
)
def test_targets_are_read_and_named(text: str, target: TcpTarget | UnixTarget) -> None:
    assert parse_target(text) == target
    assert parse_authority(target.authority) == target


@pytest.mark.parametrize(
    "text",
    [
        *["", "host", "host:", ":22", "host:0", "host:65536", "host:-1", "host:1e3", "2001:db8::1:22", "[host]:22"],
        *["a b:22", "[fe80::1%eth0]:22", "-a.example:22", "a..b:22", "host\n:22", "/", "/a/../b", "/a/./b", "/a//b"],
        *["/a/", "/" + "a" * 108, "/a\x00b", "host:２２", "x" * 64 + ":22"],
    ],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(BadTarget):
        parse_target(text)


@pytest.mark.parametrize("authority", ["%2F..%2Fetc:0", "%2Frun%2F%00:0", "%2F%FF:0", "%2Frun:1", "run%2Fx:0"])
def test_an_authority_is_no_way_around_that(authority: str) -> None:
    with pytest.raises(BadTarget):
        parse_authority(authority)


@pytest.mark.parametrize(
    ("text", "forwarding"),
    [
        ("8080:db:5432", Forwarding(LocalPort("127.0.0.1", 8080), TcpTarget("db", 5432))),
        ("0:db:5432", Forwarding(LocalPort("127.0.0.1", 0), TcpTarget("db", 5432))),
        ("0.0.0.0:80:db:5432", Forwarding(LocalPort("0.0.0.0", 80), TcpTarget("db", 5432))),
        ("[::1]:80:[::1]:81", Forwarding(LocalPort("::1", 80), TcpTarget("::1", 81))),
        ("8080:/run/docker.sock", Forwarding(LocalPort("127.0.0.1", 8080), UnixTarget("/run/docker.sock"))),
        ("/tmp/here:db:1", Forwarding(LocalSocket("/tmp/here"), TcpTarget("db", 1))),
        ("/tmp/here:/there", Forwarding(LocalSocket("/tmp/here"), UnixTarget("/there"))),
    ],
)
def test_forwardings_are_read_as_ssh_has_them(text: str, forwarding: Forwarding) -> None:
    assert Forwarding.parse(text) == forwarding


@pytest.mark.parametrize(
    "text", ["", "8080", "8080:db", "db:5432", "8080:db:x", "x:db:1", "/here", "/here:", "::1:1:db:2"]
)
def test_what_is_no_forwarding_is_refused(text: str) -> None:
    with pytest.raises(BadTarget):
        Forwarding.parse(text)


def test_places_on_the_command_line() -> None:
    assert server("example.org") == ("example.org", 4433)
    assert server("example.org:443") == ("example.org", 443)
    assert server("[2001:db8::1]:443") == ("2001:db8::1", 443)
    assert server("[2001:db8::1]") == server("2001:db8::1") == ("2001:db8::1", 4433)
    assert parse_local("1080") == LocalPort("127.0.0.1", 1080)
    assert [duration(text) for text in ("90", "1.5s", "30m", "1h", "2d")] == [90, 1.5, 1800, 3600, 172800]


# Rules ----------------------------------------------------------------------------------------------------------------


def allowed(rules: list[str], target: str, *addresses: str) -> list[str]:
    """The addresses that a tunnel may lead to; without any, the target is an address itself."""
    place = parse_target(target)
    assert isinstance(place, TcpTarget)
    known = Rules(map(parse_rule, rules))
    if not known.may_permit(place):
        return []
    return [
        str(address)
        for address in known.permitted(place, [ipaddress.ip_address(a) for a in addresses or (place.host,)])
    ]


@pytest.mark.parametrize(
    ("rule", "target", "addresses", "expected"),
    [
        ("example.org:22", "example.org:22", ["93.184.216.34"], ["93.184.216.34"]),
        ("EXAMPLE.org.:22", "example.ORG:22", ["93.184.216.34"], ["93.184.216.34"]),
        ("example.org:22", "example.org:23", ["93.184.216.34"], []),
        ("example.org:*", "example.org:23", ["93.184.216.34"], ["93.184.216.34"]),
        ("example.org:22", "www.example.org:22", ["93.184.216.34"], []),
        ("example.org:22", "93.184.216.34:22", [], []),
        # Whoever answers for a name does not decide that it leads into the server's own network.
        ("example.org:22", "example.org:22", ["127.0.0.1"], []),
        (
            "example.org:22",
            "example.org:22",
            ["::1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "fe80::1", "fd00::1"],
            [],
        ),
        ("example.org:22", "example.org:22", ["192.168.1.1", "93.184.216.34", "224.0.1.1"], ["93.184.216.34"]),
        ("example.org:22", "example.org:22", ["100.64.0.1"], []),
        # Unless a rule says where.
        ("db.corp:5432=10.0.0.0/8", "db.corp:5432", ["10.1.2.3", "192.168.1.1"], ["10.1.2.3"]),
        ("db.corp:5432=10.1.2.3", "db.corp:5432", ["10.1.2.3"], ["10.1.2.3"]),
        ("db.corp:5432=[fd00::/8]", "db.corp:5432", ["fd00::1", "93.184.216.34"], ["fd00::1"]),
        ("db.corp:5432=10.0.0.0/8", "10.1.2.3:5432", [], []),
        # Networks, whatever name leads there.
        ("10.0.0.0/8:22", "10.1.2.3:22", [], ["10.1.2.3"]),
        ("10.0.0.0/8:22", "10.1.2.3:23", [], []),
        ("10.0.0.0/8:22", "any.corp:22", ["10.1.2.3", "11.0.0.1"], ["10.1.2.3"]),
        ("10.0.0.0/8:22", "any.corp:23", ["10.1.2.3"], []),
        ("[2001:db8::/32]:*", "[2001:db8::1]:99", [], ["2001:db8::1"]),
        ("[2001:db8::1]:22", "[2001:db8::1]:22", [], ["2001:db8::1"]),
        ("192.0.2.1:22", "[::ffff:192.0.2.1]:22", [], ["192.0.2.1"]),
        # This machine.
        ("localhost:22", "localhost:22", ["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        ("localhost:22", "127.0.0.1:22", [], ["127.0.0.1"]),
        ("localhost:22", "[::1]:22", [], ["::1"]),
        ("localhost:22", "localhost:23", ["127.0.0.1"], []),
        ("localhost:22", "0.0.0.0:22", [], []),
        ("localhost:22", "localhost:22", ["10.0.0.1"], []),
    ],
)
def test_rules(rule: str, target: str, addresses: list[str], expected: list[str]) -> None:
    assert allowed([rule], target, *addresses) == expected
    assert allowed([], target, *addresses) == []


def test_sockets_are_allowed_by_their_path_alone() -> None:
    rules = Rules([parse_rule("/run/docker.sock")])
    assert rules.permits_socket(UnixTarget("/run/docker.sock"))
    assert not rules.permits_socket(UnixTarget("/run/docker.sock2"))
    assert not rules.permits_socket(UnixTarget("/run/docker.soc"))
    assert not Rules([parse_rule("10.0.0.0/8:22")]).permits_socket(UnixTarget("/run/docker.sock"))


@pytest.mark.parametrize(
    "text",
    [
        *["", "host", ":22", "host:", "host:x", "10.0.0.1/8:22", "10.0.0.0/33:22", "2001:db8::/32:22", "*:22", "*"],
        *["a/b:22", "10.0.0.0/8:22=10.0.0.0/8", "db:22=", "db:22=corp", "/a/../b", "host:0"],
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(BadRule, match="is no rule"):
        parse_rule(text)


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_a_token_lets_its_bearer_in(tmp_path: Path) -> None:
    file, other = tmp_path / "deep" / "token", tmp_path / "other"
    write_token(file, "anna on her laptop")
    write_token(other, "ben")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = read_token(file)
    assert len(token) >= 43
    tokens = Tokens.read(file)
    assert tokens.bearer(f"Bearer {token}") == tokens.bearer(f"bearer  {token}") == "anna on her laptop"
    for wrong in ["", "Bearer", "Bearer ", f"Basic {token}", token, f"Bearer {token[:-1]}", f"Bearer {token}x"]:
        assert tokens.bearer(wrong) is None
    assert tokens.bearer(f"Bearer {read_token(other)}") is None
    other.write_text(f"# friends\n\n{other.read_text()}{file.read_text().split()[0]}\n")
    both = Tokens.read(other)
    assert both.bearer(f"Bearer {token}") == "line 4"
    assert both.bearer(f"Bearer {read_token(other)}") == "ben"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_a_token_that_others_can_have_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token"
    write_token(file, "anna")
    file.chmod(mode)
    with pytest.raises(BadTokenFile, match="chmod 600") as caught:
        Tokens.read(file)
    assert file.read_text().split()[0] not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "# nothing\n", "short\n", "not/a=token but,words,here,and,there\n", "\x00" * 30]
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(BadTokenFile, match="no token"):
        Tokens.read(file)


def test_a_token_is_never_replaced(tmp_path: Path) -> None:
    write_token(tmp_path / "token", "anna")
    with pytest.raises(BadTokenFile, match="exists already"):
        write_token(tmp_path / "token", "anna")
    with pytest.raises(BadTokenFile, match="No such file"):
        read_token(tmp_path / "nowhere")


# How often ------------------------------------------------------------------------------------------------------------


def test_who_fails_too_often_is_not_listened_to_for_a_while() -> None:
    throttle = Throttle(failures=3, window=60)
    for _ in range(3):
        assert not throttle.is_blocked("192.0.2.1", 0)
        throttle.failed("192.0.2.1", 0)
    assert throttle.is_blocked("192.0.2.1", 59)
    assert [throttle.unheard("192.0.2.1") for _ in range(2)] == [1, 2]
    assert not throttle.is_blocked("192.0.2.2", 59)
    assert not throttle.is_blocked("192.0.2.1", 60)


def test_an_ipv6_network_is_one_customer() -> None:
    throttle = Throttle(failures=1)
    throttle.failed("2001:db8::1", 0)
    assert throttle.is_blocked("2001:db8::ffff", 0)
    assert not throttle.is_blocked("2001:db8:0:1::1", 0)


def test_what_is_remembered_is_bounded() -> None:
    throttle = Throttle(failures=1, addresses=100)
    for number in range(10_000):
        throttle.failed(str(ipaddress.ip_address(number)), 0)
    assert len(throttle) == 100
    assert throttle.is_blocked(str(ipaddress.ip_address(9_999)), 0)


def test_tunnels_are_counted() -> None:
    quota = Quota(each=2, in_all=3)
    assert [quota.take("anna") for _ in range(3)] == [True, True, False]
    assert [quota.take("ben") for _ in range(2)] == [True, False]
    quota.give_back("anna")
    assert quota.take("ben")


# The log --------------------------------------------------------------------------------------------------------------


def test_what_a_client_says_is_never_another_line_of_the_log(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "log", lambda: datetime(2026, 1, 2, tzinfo=UTC))
    audit.tell("refused", target='x\n{"event": "opened"}\x1b[2J', who=None)
    audit.close()
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "\x1b" not in line
    assert json.loads(line) == {
        "time": "2026-01-02T00:00:00.000+00:00",
        "event": "refused",
        "target": 'x\n{"event": "opened"}\x1b[2J',
    }
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


# What programs say to a proxy -----------------------------------------------------------------------------------------


def said(data: bytes, cuts: list[int]) -> tuple[Dialect, bytes]:
    """What comes of bytes that arrive in pieces."""
    dialect, answer, begin = dialect_of(data[:1]), b"", 0
    for end in [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]:
        if end > begin:
            answer += dialect.receive(data[begin:end])
            begin = end
    return dialect, answer


CUTS = st.lists(st.integers(0, 1000), max_size=8)


@given(cuts=CUTS, rest=st.binary(max_size=40))
@pytest.mark.parametrize(
    ("request_bytes", "target"),
    [
        (b"\x01\xc0\x00\x02\x01\x00\x16", TcpTarget("192.0.2.1", 22)),
        (b"\x03\x0bexample.org\x01\xbb", TcpTarget("example.org", 443)),
        (b"\x03\x09192.0.2.1\x01\xbb", TcpTarget("192.0.2.1", 443)),
        (b"\x04" + bytes.fromhex("20010db8000000000000000000000001") + b"\x00\x50", TcpTarget("2001:db8::1", 80)),
    ],
)
def test_socks5_is_understood_however_it_is_cut(
    request_bytes: bytes, target: TcpTarget, cuts: list[int], rest: bytes
) -> None:
    dialect, answer = said(b"\x05\x02\x01\x00\x05\x01\x00" + request_bytes + rest, cuts)
    assert isinstance(dialect, Socks5)
    assert (dialect.target, dialect.rest, answer) == (target, rest, b"\x05\x00")
    assert dialect.granted() == b"\x05\x00\x00\x01" + bytes(6)
    assert dialect.refused(Reason.PORT_CLOSED, "")[:2] == b"\x05\x05"


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x01\x00\x05\x02\x00\x01\x7f", b"\x05\x07\x00\x01" + bytes(6)),  # BIND
        (b"\x05\x01\x00\x05\x03\x00\x01\x7f", b"\x05\x07\x00\x01" + bytes(6)),  # UDP ASSOCIATE
        (b"\x05\x01\x00\x05\x01\x00\x02\x00", b"\x05\x08\x00\x01" + bytes(6)),
        (b"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x16", b"\x05\x01\x00\x01" + bytes(6)),
        (b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00", b"\x05\x01\x00\x01" + bytes(6)),
        (b"GET http://example.org/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 501 "),
        (b"CONNECT example.org HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT example.org:22 HTTP/2\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT /etc/passwd:1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT a:22 HTTP/1.1\r\nx: " + b"y" * 20_000, b"HTTP/1.1 431 "),
    ],
)
def test_what_a_proxy_does_not_serve_is_answered(data: bytes, reply: bytes) -> None:
    with pytest.raises(BadGreeting) as caught:
        said(data, [])
    assert caught.value.reply.startswith(reply)


@given(cuts=CUTS, rest=st.binary(max_size=40))
def test_connect_is_understood_however_it_is_cut(cuts: list[int], rest: bytes) -> None:
    head = b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic eDp5\r\n\r\n"
    dialect, answer = said(head + rest, cuts)
    assert isinstance(dialect, HttpConnect)
    assert (dialect.target, dialect.rest, answer) == (TcpTarget("2001:db8::1", 443), rest, b"")
    assert dialect.refused(Reason.UNAUTHENTICATED, "no token").startswith(b"HTTP/1.1 403 ")
    assert dialect.refused(Reason.NO_ANSWER, "nobody").endswith(b"\r\n\r\nwhimbrel: nobody\n")


@given(data=st.binary(min_size=1, max_size=60) | st.binary(max_size=60).map(b"\x05\x01\x00\x05".__add__), cuts=CUTS)
def test_no_bytes_bring_a_proxy_down(data: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(BadGreeting):
        dialect, _ = said(data, cuts)
        assert dialect.target is None or dialect.target.authority


def test_programs_are_told_of_their_proxy_in_both_spellings() -> None:
    told = environment("127.0.0.1:5")
    assert told["ALL_PROXY"] == told["all_proxy"] == told["http_proxy"] == "socks5h://127.0.0.1:5"
    assert told["HTTPS_PROXY"] == told["https_proxy"] == "http://127.0.0.1:5"
    assert told["NO_PROXY"] == told["no_proxy"] == ""


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_crosses_the_network(reason: Reason) -> None:
    told = refused(reason.status, {"proxy-status": proxy_status(reason)}, "example.org:22", "server:4433")
    assert told.reason is reason
    assert re.search(r"^server:4433: \w.*\w", str(told))


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (407, Reason.UNAUTHENTICATED),
        (401, Reason.UNAUTHENTICATED),
        (403, Reason.NOT_ALLOWED),
        (405, Reason.NO_TUNNELS),
        (502, Reason.FAILED),
        (504, Reason.NO_ANSWER),
        (500, Reason.FAILED),
    ],
)
def test_servers_of_others_are_understood(status: int, reason: Reason) -> None:
    assert refused(status, {"proxy-status": "squid; error=something_else"}, "x:1", "server:1").reason is reason
