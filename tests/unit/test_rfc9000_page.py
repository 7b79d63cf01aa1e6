"""docs/rfc9000.md names tests; each of them exists, and each deviation it points to is told."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/rfc9000.md").read_text()


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`([\w./]+\.py)::(\w+)`", PAGE))
    assert len(named) > 50
    functions = {file: _functions(TESTS / file) for file, _ in named}
    assert [f"{file}::{name}" for file, name in sorted(named) if name not in functions[file]] == []


def test_names_of_tests_are_written_so_that_they_are_found() -> None:
    assert PAGE.count("::") == len(re.findall(r"`[\w./]+\.py::test_\w+`", PAGE))


def test_every_deviation_is_marked_where_it_belongs_and_told_at_the_end() -> None:
    table, told = PAGE.split("## Deviations\n")
    numbers = [int(number) for number in re.findall(r"^(\d+)\. \*\*", told, re.MULTILINE)]
    assert numbers == list(range(1, 17))
    marked = {int(number) for number in re.findall(r"\*\*Deviation (\d+)\*\*", table)}
    assert marked == set(numbers)


def test_every_row_says_who_and_is_shown_or_says_why_not() -> None:
    rows = [row.strip("|").split("|") for row in PAGE.splitlines() if re.match(r"\| \d", row)]
    assert len(rows) > 50
    for section, requirement, who, shown in rows:
        assert who.strip(), (section, requirement)
        excused = re.search(r"[Dd]eviation \d+|none:|kernel|no test of ours|us: none", who)
        assert shown.strip() or excused, (section, requirement)


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
