"""URLs and header fields, taken apart and put together."""

from __future__ import annotations

import pytest

from whimbrel.http import Headers, InvalidUrl, Url


@pytest.mark.parametrize(
    ("text", "host", "port", "target", "authority"),
    [
        ("https://example.org", "example.org", 443, "/", "example.org"),
        ("https://example.org:443/a", "example.org", 443, "/a", "example.org"),
        ("HTTPS://Example.ORG:8443/a?b=c#d", "example.org", 8443, "/a?b=c", "example.org:8443"),
        ("https://127.0.0.1:1", "127.0.0.1", 1, "/", "127.0.0.1:1"),
        ("https://[::1]:4433/x", "::1", 4433, "/x", "[::1]:4433"),
        ("https://[2001:db8::1]/", "2001:db8::1", 443, "/", "[2001:db8::1]"),
        ("https://bücher.example/ü%20x?ä", "xn--bcher-kva.example", 443, "/%C3%BC%20x?%C3%A4", "xn--bcher-kva.example"),
        ("https://example.org?q", "example.org", 443, "/?q", "example.org"),
    ],
)
def test_urls_are_taken_apart(text: str, host: str, port: int, target: str, authority: str) -> None:
    url = Url.parse(text)
    assert (url.host, url.port, url.target, url.authority) == (host, port, target, authority)
    assert Url.parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not begin with https"),
        ("example.org/x", "does not begin with https"),
        ("http://example.org/", "needs https, not http"),
        ("ftp://example.org/", "needs https, not ftp"),
        ("https://", "no host"),
        ("https:///path", "no host"),
        ("https://:443/", "no host"),
        ("https://exa mple.org/", "space"),
        ("https://example.org/\nx", "control character"),
        ("https://example.org:port/", "Port"),
        ("https://example.org:99999/", "Port"),
        ("https://example.org:0/", "port 0"),
        ("https://[::1/", "Invalid IPv6"),
        ("https://exa%mple.org/", "no host name"),
        ("https://a..b/", "no host name"),
    ],
)
def test_what_is_no_url_is_said_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(InvalidUrl, match=reason) as caught:
        Url.parse(text)
    assert "\n" not in str(caught.value)


def test_passwords_are_not_repeated() -> None:
    with pytest.raises(InvalidUrl) as caught:
        Url.parse("https://me:secret@example.org/")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("/b", "https://example.org:8443/b"),
        ("b", "https://example.org:8443/dir/b"),
        ("//other.example/b", "https://other.example/b"),
        ("https://other.example", "https://other.example/"),
    ],
)
def test_references_are_resolved(reference: str, expected: str) -> None:
    assert str(Url.parse("https://example.org:8443/dir/a").join(reference)) == expected


def test_redirects_to_plain_http_are_refused() -> None:
    with pytest.raises(InvalidUrl, match="needs https"):
        Url.parse("https://example.org/").join("http://example.org/")


def test_headers_are_found_in_any_case() -> None:
    headers = Headers([("Content-Type", "text/plain"), ("x-a", "1"), ("X-A", "2")])
    assert headers["CONTENT-TYPE"] == "text/plain"
    assert headers["x-a"] == "1, 2"
    assert headers.get_all("X-a") == ["1", "2"]
    assert headers.get("missing") is None
    assert (list(headers), len(headers)) == (["content-type", "x-a"], 2)
    assert dict(Headers({"A": "b"})) == {"a": "b"}
    with pytest.raises(KeyError):
        headers["missing"]
