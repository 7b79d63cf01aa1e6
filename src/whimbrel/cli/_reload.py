"""Starting anew when a file has changed: for those who write an application and look at it meanwhile."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn


async def changed() -> None:
    """Wait until a Python file in this folder, or below, has changed."""
    from watchfiles import PythonFilter, awatch

    async for _ in awatch(Path.cwd(), watch_filter=PythonFilter()):
        return


def again() -> NoReturn:
    """Become a new process of the same command line: nothing of the old modules is left in it."""
    sys.stdout.flush()
    os.execv(sys.executable, sys.orig_argv)
