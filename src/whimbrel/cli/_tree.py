"""What lies in a folder, for those who send all of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

Names = tuple[str, ...]
"""A way down from the folder, as the file system has the names."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file, as it was when it was looked at."""

    path: Path
    names: Names
    size: int


@dataclass
class Tree:
    """Folders, those above before those below, and files, by name."""

    folders: list[Names] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    """What cannot be sent, and why: a sentence."""


def scan(root: Path, names: Names = ()) -> Tree:
    """Look at all that lies below a folder. Symbolic links are not followed: they may lead anywhere, and in circles.

    Args:
        root: the folder, or a link to it.
        names: what it is called at the other end; empty: it is there.
    """
    tree = Tree()
    waiting = [(root, names)]
    while waiting:
        folder, above = waiting.pop()
        if above:
            tree.folders.append(above)
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            tree.left_out.append((folder, f"cannot read {folder}: {error.strerror}"))
            continue
        below = []
        for entry in found:
            path, here = Path(entry.path), (*above, entry.name)
            if entry.is_symlink():
                tree.left_out.append((path, f"{path} is a symbolic link: what it leads to is not sent"))
            elif entry.is_dir():
                below.append((path, here))
            elif entry.is_file():
                tree.files.append(File(path, here, _size(entry)))
            else:
                tree.left_out.append((path, f"{path} is neither a file nor a folder"))
        waiting += reversed(below)
    return tree


def encoded(names: Names) -> str:
    """The path of a URL for these names, without a slash before or behind."""
    return "/".join(quote(os.fsencode(name), safe="") for name in names)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0  # It is gone, which will be told when it is to be opened.
