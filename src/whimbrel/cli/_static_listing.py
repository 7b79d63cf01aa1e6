"""The page that shows what a folder holds."""

from __future__ import annotations

import datetime as dt
import html
import os
import stat
from typing import TYPE_CHECKING
from urllib.parse import quote

from whimbrel.cli._progress import size

if TYPE_CHECKING:
    from collections.abc import Sequence

_PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body{{font-family:sans-serif}}td{{padding:0 1em}}td+td{{text-align:right;white-space:nowrap}}</style></head>
<body><h1>{title}</h1>
<table>
{rows}
</table></body></html>
"""


def listing(names: Sequence[str], descriptor: int) -> bytes:
    """An HTML page: folders first, then files, each by name.

    Args:
        names: the path of the folder, for the heading.
        descriptor: the folder, open.

    Raises:
        OSError: it cannot be read.
    """
    folders: list[tuple[str, os.stat_result]] = []
    files: list[tuple[str, os.stat_result]] = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            try:
                facts = entry.stat()
            except OSError:
                continue  # It is gone already, or a link that leads nowhere.
            if stat.S_ISDIR(facts.st_mode):
                folders.append((entry.name, facts))
            elif stat.S_ISREG(facts.st_mode):
                files.append((entry.name, facts))
    rows = [_row("..", "../", "", "")] if names else []
    rows += [_row(f"{name}/", f"{_link(name)}/", "", _date(facts)) for name, facts in sorted(folders)]
    rows += [_row(name, _link(name), size(facts.st_size), _date(facts)) for name, facts in sorted(files)]
    title = html.escape(_text("/" + "".join(f"{name}/" for name in names)))
    return _PAGE.format(title=title, rows="\n".join(rows)).encode("utf-8")


def _row(name: str, link: str, length: str, changed: str) -> str:
    label = html.escape(_text(name))
    return f'<tr><td><a href="{html.escape(link)}">{label}</a></td><td>{length}</td><td>{changed}</td></tr>'


def _link(name: str) -> str:
    # "./": a name such as "javascript:x" must not be taken for a URL of its own.
    return "./" + quote(name.encode("utf-8", "surrogateescape"), safe="")


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _date(facts: os.stat_result) -> str:
    return dt.datetime.fromtimestamp(facts.st_mtime, dt.UTC).strftime("%Y-%m-%d %H:%M")
