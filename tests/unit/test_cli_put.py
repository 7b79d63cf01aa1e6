"""`whimbrel put`: where files go. The rest is in tests/loopback/test_http_server_commands.py."""

from __future__ import annotations

import pytest

from whimbrel.cli.put import target_of
from whimbrel.http import Url


@pytest.mark.parametrize(
    ("url", "file", "target"),
    [
        ("https://example.org/", "a.txt", "/a.txt"),
        ("https://example.org/up/", "folder/a b.txt", "/up/a%20b.txt"),
        ("https://example.org/up/", "../ü?#.txt", "/up/%C3%BC%3F%23.txt"),
        ("https://example.org/up/", "\udcff", "/up/%FF"),
        ("https://example.org", "a", "/a"),
        ("https://example.org/name", "a", "/name"),
        ("https://example.org/name?query", "-", "/name?query"),
        ("https://example.org/", "..", "/"),
        ("https://example.org/up/", ".", "/up/"),
        ("https://example.org/up/", "/usr", "/up/usr/"),
    ],
)
def test_a_file_keeps_its_name_in_a_folder(url: str, file: str, target: str) -> None:
    where = target_of(Url.parse(url), file, alone=True)
    assert (where.target, where.origin) == (target, ("example.org", 443))


@pytest.mark.parametrize(
    ("url", "file", "alone"),
    [
        ("https://example.org/", "-", True),
        ("https://example.org/", "none/..", False),
        ("https://example.org/name", "..", True),
        ("https://example.org/name", "a", False),
    ],
)
def test_a_file_without_a_place_is_refused(url: str, file: str, alone: bool) -> None:
    with pytest.raises(ValueError, match=r"https://example\.org/"):
        target_of(Url.parse(url), file, alone=alone)
