"""A server's process: it says where it is, and what it has used when it is asked."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

from programs import _kinds
from programs._files import Files
from programs._kinds import Kind


class Served:
    """What a server did so far."""

    def __init__(self) -> None:
        self._accepted = 0
        self._lock = threading.Lock()

    def accepted(self) -> None:
        """One more connection stands."""
        with self._lock:
            self._accepted += 1

    def usage(self) -> str:
        """A line of JSON: connections, resident bytes, processor seconds."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        report = {
            "accepted": self._accepted,
            "memory": pages * os.sysconf("SC_PAGE_SIZE"),
            "user": used.ru_utime,
            "system": used.ru_stime,
        }
        return json.dumps(report)


def serve(kind: Kind, files: Files, **options: Any) -> None:
    """Serve until standard input ends."""
    _kinds.run(kind, _serve(kind, files, options))


async def _serve(kind: Kind, files: Files, options: dict[str, Any]) -> None:
    served = Served()
    async with kind.program().serve(files, served.accepted, **options) as port:
        print(json.dumps({"port": port}), flush=True)
        if kind.loop == "none":
            for _ in sys.stdin:
                print(served.usage(), flush=True)
            os._exit(0)  # Its threads may be in the middle of something.
        else:
            await _obey(served)


async def _obey(served: Served) -> None:
    """Answer each line, on the loop, without a thread that would want Python's lock."""
    gone = asyncio.Event()

    def heard() -> None:
        lines = os.read(sys.stdin.fileno(), 4096)
        if not lines:
            gone.set()
        for _ in range(lines.count(b"\n")):
            print(served.usage(), flush=True)

    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), heard)
    await gone.wait()
    loop.remove_reader(sys.stdin.fileno())


def raise_descriptor_limit() -> None:
    """As many descriptors as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
