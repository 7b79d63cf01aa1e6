"""What README and docs/ name is there: files, headings, tests, commands with their options. Their Python is run in
tests/loopback/test_examples.py and test_http_server_commands.py.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from whimbrel import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benches" / "README.md"]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(text: str) -> list[str]:
    """The lines of a page that stand in blocks of code."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"^    (\S.*)", text, re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The headings, as links have them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@each_page
def test_files_and_tests_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for file in re.findall(r"(?<![\w/])(?:src|rust|tests|benches|docs|examples|tools)/[\w./-]*\.[a-z]+", text):
        assert (ROOT / file).exists(), file
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name


@each_page
def test_commands_are_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`|    )make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for line in code(text):
        if command := re.search(r"(?:^|\$ |\| )whimbrel (\w+.*)", line.strip()):
            name, *argv = shlex.split(command[1], comments=True)
            parser = argparse.ArgumentParser(exit_on_error=False)
            cli._load(name).add_arguments(parser)
            parser.parse_args(argv)
