"""Where qlog files go. What is in them is for the core to say."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

StrPath = str | os.PathLike[str]

VARIABLE = "QLOGDIR"


def qlog_folder(qlog: StrPath | None) -> str | None:
    """The folder for a file of each connection; made where it is missing. None: no logs.

    Args:
        qlog: the folder; None: what QLOGDIR says.

    Raises:
        OSError: it cannot be made or written to; the message says which.
    """
    folder = os.environ.get(VARIABLE) or None if qlog is None else qlog
    if folder is None:
        return None
    what = f"the qlog folder {os.fspath(folder)!r}"
    if qlog is None:
        what += f" ({VARIABLE})"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Permissions do not tell all: a file system may be read-only, and root may do anything elsewhere.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _sentence(error, what) from None
    return os.fspath(folder)


def qlog_place(qlog: StrPath | None) -> str | None:
    """Of a client: a folder, or one file. A path that ends with a slash is meant as a folder.

    Raises:
        OSError: it cannot be made or written to; the message says which.
    """
    if qlog is None or os.fspath(qlog).endswith(os.sep) or Path(qlog).is_dir():
        return qlog_folder(qlog)
    try:
        Path(qlog).open("wb").close()
    except OSError as error:
        raise _sentence(error, f"the qlog file {os.fspath(qlog)!r}") from None
    return os.fspath(qlog)


def _sentence(error: OSError, what: str) -> OSError:
    told = type(error)(f"cannot write {what}: {error.strerror}")
    told.errno = error.errno
    return told
