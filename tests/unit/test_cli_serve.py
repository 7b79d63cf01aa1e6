"""`whimbrel serve`: its rules as tables, and its certificate. What it does over a connection is in tests/loopback."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import stat
import threading
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from whimbrel import cli
from whimbrel.cli._certificate import RENEW, VALID, development_certificate, state_folder
from whimbrel.cli._disk import in_thread
from whimbrel.cli._static_listing import listing
from whimbrel.cli._static_rules import (
    MAX_RANGES,
    BadTarget,
    Validators,
    Verdict,
    chosen_ranges,
    content_range,
    content_type,
    encoded_path,
    judge,
    segments,
)
from whimbrel.http import Headers

NOW = Validators('"now"', 1_000_000)
BEFORE, SAME, LATER = (formatdate(seconds, usegmt=True) for seconds in (999_999, 1_000_000, 1_000_001))
GO_ON, NOT_MODIFIED, FAILED = Verdict.GO_ON, Verdict.NOT_MODIFIED, Verdict.FAILED


@pytest.mark.parametrize(
    ("path", "names", "is_folder"),
    [
        ("/", [], True),
        ("/a", ["a"], False),
        ("/a/", ["a"], True),
        ("/a//b", ["a", "b"], False),
        ("//host/a", ["host", "a"], False),
        ("/%61%20b", ["a b"], False),
        ("/.hidden", [".hidden"], False),
        ("/...", ["..."], False),
        ("/%C3%BC", ["ü"], False),
        ("/%FF", ["\udcff"], False),
        ("/a%5Cb", ["a\\b"], False),
        ("/a;b=c", ["a;b=c"], False),
        ("/%252e%252e", ["%2e%2e"], False),
    ],
)
def test_paths_name_files(path: str, names: list[str], is_folder: bool) -> None:
    assert segments(path) == (names, is_folder)


@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/../etc/passwd",
        "/a/../b",
        "/a/..",
        "/.",
        "/./a",
        "/%2e%2e/etc/passwd",
        "/%2E./a",
        "/.%2e",
        "/..%2fetc%2fpasswd",
        "/%2f",
        "/a%2Fb",
        "/%00",
        "/a%00.html",
        "/%",
        "/%4",
        "/%zz",
        "a",
        "*",
        "",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(BadTarget):
        segments(path)


@pytest.mark.parametrize("names", [[], ["a"], ["a b", "ü"], ["\udcff"], ["a?b", "c#d"], ["%2e"]])
def test_a_path_that_is_told_leads_back(names: list[str]) -> None:
    path = encoded_path(names, folder=True)
    assert segments(path) == (names, True)
    assert not path.startswith("//")


@pytest.mark.parametrize(
    ("method", "headers", "verdict"),
    [
        ("GET", {}, GO_ON),
        ("GET", {"if-none-match": '"now"'}, NOT_MODIFIED),
        ("HEAD", {"if-none-match": 'W/"now"'}, NOT_MODIFIED),
        ("GET", {"if-none-match": '"a", "now", "b"'}, NOT_MODIFIED),
        ("GET", {"if-none-match": "*"}, NOT_MODIFIED),
        ("GET", {"if-none-match": '"other"'}, GO_ON),
        ("PUT", {"if-none-match": "*"}, FAILED),
        ("PUT", {"if-none-match": '"other"'}, GO_ON),
        ("GET", {"if-modified-since": SAME}, NOT_MODIFIED),
        ("GET", {"if-modified-since": LATER}, NOT_MODIFIED),
        ("GET", {"if-modified-since": BEFORE}, GO_ON),
        ("PUT", {"if-modified-since": LATER}, GO_ON),
        ("GET", {"if-modified-since": "yesterday"}, GO_ON),
        # §13.1.3: it is not looked at where If-None-Match is.
        ("GET", {"if-none-match": '"other"', "if-modified-since": LATER}, GO_ON),
        ("GET", {"if-match": '"now"'}, GO_ON),
        ("GET", {"if-match": "*"}, GO_ON),
        ("GET", {"if-match": '"other"'}, FAILED),
        ("GET", {"if-match": 'W/"now"'}, FAILED),
        ("PUT", {"if-match": '"other"'}, FAILED),
        ("GET", {"if-unmodified-since": SAME}, GO_ON),
        ("GET", {"if-unmodified-since": BEFORE}, FAILED),
        ("GET", {"if-unmodified-since": "yesterday"}, GO_ON),
        # §13.1.4: it is not looked at where If-Match is.
        ("GET", {"if-match": '"now"', "if-unmodified-since": BEFORE}, GO_ON),
        ("GET", {"if-match": '"now"', "if-none-match": '"now"'}, NOT_MODIFIED),
        ("GET", {"if-match": '"other"', "if-none-match": '"now"'}, FAILED),
    ],
)
def test_conditions_are_judged_in_their_order(method: str, headers: dict[str, str], verdict: Verdict) -> None:
    assert judge(method, Headers(headers), NOW) is verdict


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, GO_ON),
        ({"if-none-match": "*"}, GO_ON),
        ({"if-none-match": '"now"'}, GO_ON),
        ({"if-match": "*"}, FAILED),
        ({"if-match": '"now"'}, FAILED),
        ({"if-unmodified-since": LATER}, FAILED),
    ],
)
def test_conditions_about_what_is_not_there(headers: dict[str, str], verdict: Verdict) -> None:
    assert judge("PUT", Headers(headers), None) is verdict


@pytest.mark.parametrize(
    ("field", "ranges"),
    [
        ("bytes=0-0", [range(1)]),
        ("bytes=0-", [range(100)]),
        ("bytes=10-19", [range(10, 20)]),
        ("bytes=90-200", [range(90, 100)]),
        ("bytes=-10", [range(90, 100)]),
        ("bytes=-200", [range(100)]),
        ("BYTES = 0-1", [range(2)]),
        ("bytes=0-0, 50-59 ,-1", [range(1), range(50, 60), range(99, 100)]),
        ("bytes=50-59,0-0", [range(50, 60), range(1)]),
        ("bytes=0-9,200-300", [range(10)]),
        ("bytes=100-", []),
        ("bytes=-0", []),
        ("bytes=200-300,400-", []),
        ("bytes=5-4", None),
        ("bytes=a-b", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=1", None),
        ("bytes=0x1-2", None),
        ("lines=1-2", None),
        ("bytes 0-1", None),
        ("bytes=" + "9" * 30 + "-", None),
        ("bytes=0-60,40-99", None),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(MAX_RANGES + 1)), None),
    ],
)
def test_ranges(field: str, ranges: list[range] | None) -> None:
    assert chosen_ranges(Headers({"range": field}), 100, NOW) == ranges


@pytest.mark.parametrize(
    ("condition", "is_met"),
    [
        ('"now"', True),
        ('W/"now"', False),
        ('"other"', False),
        (SAME, True),
        (BEFORE, False),
        (LATER, False),
        ("yesterday", False),
    ],
)
def test_a_range_of_something_else_is_not_wanted(condition: str, is_met: bool) -> None:
    headers = Headers({"range": "bytes=1-2", "if-range": condition})
    assert chosen_ranges(headers, 100, NOW) == ([range(1, 3)] if is_met else None)


def test_an_empty_file_has_no_range() -> None:
    assert chosen_ranges(Headers({"range": "bytes=0-"}), 0, NOW) == []
    assert chosen_ranges(Headers(), 0, NOW) is None
    assert (content_range(None, 0), content_range(range(1, 3), 10)) == ("bytes */0", "bytes 1-2/10")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("a.tar.gz", "application/gzip"),
        ("a", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
    ],
)
def test_types(name: str, kind: str) -> None:
    assert content_type(name) == kind


def test_an_etag_tells_states_of_a_file_apart(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    seen = [Validators.of(file.stat()).etag]
    os.utime(file, ns=(0, 1))
    seen.append(Validators.of(file.stat()).etag)
    file.write_text("longer")
    os.utime(file, ns=(0, 1))
    seen.append(Validators.of(file.stat()).etag)
    (tmp_path / "other").write_text("longer")
    os.utime(tmp_path / "other", ns=(0, 1))
    (tmp_path / "other").replace(file)
    seen.append(Validators.of(file.stat()).etag)
    assert len(set(seen)) == 4
    assert all(tag.startswith('"') for tag in seen)
    assert Validators.of(file.stat()).etag == seen[-1]


def test_a_listing_shows_names_as_text_and_links_to_them(tmp_path: Path) -> None:
    for name in ("b.txt", "a&<b>.txt", "javascript:x", "ü"):
        (tmp_path / name).write_bytes(bytes(1500))
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / os.fsdecode(b"\xff")).touch()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        page = listing(["x<y"], descriptor).decode()
    finally:
        os.close(descriptor)
    assert "<title>/x&lt;y/</title>" in page
    links = [line.partition('href="')[2].partition('"')[0] for line in page.splitlines() if "href" in line]
    assert links == ["../", "./folder/", "./a%26%3Cb%3E.txt", "./b.txt", "./javascript%3Ax", "./%C3%BC", "./%FF"]
    assert ">a&amp;&lt;b&gt;.txt<" in page
    assert "1.5 kB" in page


# The certificate ------------------------------------------------------------------------------------------------------

TODAY = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def test_a_certificate_for_trying_things_out(tmp_path: Path) -> None:
    made = development_certificate(["192.0.2.1", "2001:db8::1%eth0", "example.test"], tmp_path / "state", TODAY)
    (certificate,) = x509.load_pem_x509_certificates(made.chain.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = set(names.get_values_for_type(x509.DNSName))
    assert hosts >= {"localhost", "example.test"}
    addresses = {"127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"}
    assert set(names.get_values_for_type(x509.IPAddress)) == set(map(ipaddress.ip_address, addresses))
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.not_valid_before_utc < TODAY
    # Chromium takes one by its hash for no longer than 14 days.
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == VALID <= dt.timedelta(days=14)
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert sorted(path.name for path in made.chain.parent.iterdir()) == ["certificate.pem", "key.pem"]
    assert len(made.fingerprint.split(":")) == 32
    assert len(made.spki) == 44


def test_a_certificate_is_kept_while_it_is_good(tmp_path: Path) -> None:
    first = development_certificate(["192.0.2.1"], tmp_path, TODAY).fingerprint
    assert development_certificate(["192.0.2.1"], tmp_path, TODAY).fingerprint == first
    # It holds more names than are needed now.
    assert development_certificate([], tmp_path, TODAY + VALID - RENEW - dt.timedelta(hours=2)).fingerprint == first


@pytest.mark.parametrize("why", ["old", "early", "name", "key", "garbage", "missing"])
def test_a_certificate_that_is_no_good_is_made_anew(tmp_path: Path, why: str) -> None:
    made = development_certificate([], tmp_path, TODAY)
    first, names, now = made.fingerprint, ["192.0.2.1"] if why == "name" else [], TODAY
    match why:
        case "old":
            now += VALID - RENEW
        case "early":
            now -= VALID
        case "key":
            made.key.write_bytes(development_certificate([], tmp_path / "other", TODAY).key.read_bytes())
        case "garbage":
            made.chain.write_text("garbage")
        case "missing":
            made.key.unlink()
    assert development_certificate(names, tmp_path, now).fingerprint != first


def test_the_folder_that_users_choose_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "whimbrel"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local/state/whimbrel"


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{tmp}/missing"], "{tmp}/missing does not exist"),
        (["{tmp}/file"], "{tmp}/file is no folder"),
        (["{tmp}", "--upload", "{tmp}/missing"], "{tmp}/missing does not exist"),
        (["{tmp}", "--cert", "{tmp}/file"], "--cert and --key go together"),
        (["{tmp}", "--cert", "{tmp}/missing", "--key", "{tmp}/file"], "cannot read the certificate"),
        (["{tmp}", "--cert", "{tmp}/file", "--key", "{tmp}/file"], "holds no PEM certificate"),
        (["{tmp}", "--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["{tmp}", "--client-ca", "{tmp}/file"], "holds no PEM certificate"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("text")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert cli.main(["serve", *(argument.format(tmp=tmp_path) for argument in arguments), "--port", "0"]) != 0
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("whimbrel: ")
    assert sentence.format(tmp=tmp_path) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_is_a_number(port: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(["serve", ".", "--port", port])
    assert exited.value.code == 2
    assert "is no port" in capfd.readouterr().err


async def test_a_write_is_over_however_often_its_upload_is_cancelled() -> None:
    began, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    over = False

    def write() -> None:
        nonlocal over
        loop.call_soon_threadsafe(began.set)
        assert go_on.wait(30)
        over = True

    task = asyncio.create_task(in_thread(write))
    await began.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.wait([task], timeout=0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert over
