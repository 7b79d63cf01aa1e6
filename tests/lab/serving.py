"""`whimbrel serve` in a laboratory, and clients of others that download from it.

test ── orders ──▶ a client of others (cli) ~~~ the two networks ~~~ whimbrel serve (srv)
  ▲ ◀── news ───────────────┘                                          │
  └──────────────── its log ───────────────────────────────────────────┘
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from tests.lab.crossing import MB, PORT, SOON, Dispatch, Program, to_server
from tests.lab.programs.content import content, sha256

if TYPE_CHECKING:
    from whimbrel.testing import AccessNetwork, Laboratory, Packet

FILE = "file.bin"
"""What clients download."""
PAGE = "page.html"
RATE = 10e6
"""Bits a second of either radio: slow enough that there is a middle of the transfer to move in."""

Socket = tuple[str, int]


@dataclass(frozen=True)
class Moved:
    """The server says that a client did."""

    old: str
    new: str
    reason: Literal["peer", "rebinding", "rolled-back"]


class Output:
    """The lines of a process, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._came = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name=f"output of {process.pid}")
        self._thread.start()

    def wait(self, pattern: str, timeout: float = SOON) -> re.Match[str]:
        """Wait for a line that has this in it."""
        with self._came:
            self._came.wait_for(lambda: self._ended or self._find(pattern), timeout)
            found = self._find(pattern)
        assert found, f"no {pattern!r} in {self.lines[-50:]}"
        return found

    def exits(self) -> int:
        """Wait until the process ends by itself. Returns its exit status."""
        return self._process.wait(SOON)

    def end(self) -> None:
        """End the process and read what is left."""
        self._process.terminate()
        self._process.wait()
        self._thread.join()

    def _find(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in self.lines if (found := re.search(pattern, line))), None)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                with self._came:
                    self.lines.append(line.rstrip("\n"))
                    self._came.notify_all()
        with self._came:
            self._ended = True
            self._came.notify_all()


class Site:
    """A running ``whimbrel serve``, with one file of several MB and one page."""

    def __init__(self, lab: Laboratory, folder: Path, dispatch: Dispatch, size: int) -> None:
        self.size = size
        self.sha256 = sha256(size)
        root = folder / "site"
        root.mkdir()
        with (root / FILE).open("wb") as file:
            file.writelines(content(size))
        (root / PAGE).write_text("<!DOCTYPE html><title>a page</title>")
        options = [] if dispatch == "wildcard" else ["--dispatch", dispatch]
        process = lab.python(
            "srv",
            ["-m", "whimbrel", "serve", str(root), "--host", lab.server_address, "-v", *options],
            env={**os.environ, "XDG_STATE_HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._output = Output(process)
        self.certificate = self._output.wait(r"^certificate (.+)")[1]
        self.spki = self._output.wait(r"^spki (.+)")[1]
        self._url = self._output.wait(r"at (https://.+/)$")[1]

    def url(self, name: str = FILE) -> str:
        """Where a file of it is."""
        return self._url + name

    def tells_of_a_move(self) -> Moved:
        """Wait until the server knows that its client moved."""
        return _moved(self._output.wait(_MOVED))

    @property
    def moves(self) -> list[Moved]:
        """All that it said of its client's moves."""
        return [_moved(found) for line in self._output.lines if (found := re.search(_MOVED, line))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.end()


_MOVED = r"whimbrel: (\S+) moved to (\S+) \((.+)\)"


def _moved(found: re.Match[str]) -> Moved:
    reason: Any = found[3]
    return Moved(found[1], found[2], reason)


class Fetch(Program):
    """A program of this folder that downloads one URL with a client of others."""

    def __init__(self, lab: Laboratory, site: Site, module: str, **order: object) -> None:
        self._received = 0
        self._size = site.size
        facts = {"url": site.url(), "host": lab.server_address, "port": PORT, "certificate": site.certificate}
        super().__init__(lab, "cli", module, {**facts, **order})

    def reaches(self, part: float) -> None:
        """Wait until so much of it has come, 0 to 1."""
        self.wait(lambda: self._received >= part * self._size or None, f"{part:.0%} of the file has come")

    def result(self) -> dict[str, Any]:
        """Wait for what came of it, and for the program's end."""
        (news, *_) = self.wait(lambda: self.news("done") or None, "the file has come")
        assert self.finish() == 0
        return news

    def heard(self, news: dict[str, Any]) -> None:
        if news["kind"] == "progress":
            self._received = news["received"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def route_by_source(lab: Laboratory, network: AccessNetwork | None = None, table: int = 100) -> None:
    """Have what bears a network's address (cellular, by default) leave by it, whatever is preferred: as phones do.

    Without it, the kernel takes a bound socket's packets to a network that appears, with an address that is not of that
    network; the client must move before it can go on, and no client of others knows when.
    """
    network = network or lab.cellular
    gateway = network.address.rpartition(".")[0] + ".1"
    with lab.enter("cli"), IPRoute() as kernel:
        (index,) = kernel.link_lookup(ifname=network.interface)
        kernel.route("add", dst="default", gateway=gateway, oif=index, table=table)
        kernel.rule("add", src=network.address, src_len=32, table=table, priority=table)


# What an observer sees -----------------------------------------------------------------------------------------------


def downloaded(lab: Laboratory) -> dict[Socket, int]:
    """The bytes that each of the device's sockets was sent, in the order of first use."""
    found: dict[Socket, int] = defaultdict(int)
    for packet in _packets(lab):
        if packet.direction == "to_client":
            found[packet.destination] += packet.length
    return found


def ids_by_socket(lab: Laboratory, id_length: int = 8) -> dict[Socket, set[bytes]]:
    """The connection IDs sent to the server after the handshake, by the device's sockets that they came from."""
    found: dict[Socket, set[bytes]] = defaultdict(set)
    for packet in to_server(_packets(lab)):
        if not packet.payload[0] & 0x80:
            found[packet.source].add(packet.payload[1 : 1 + id_length])
    return found


def has_a_middle(parts: dict[Socket, int], count: int) -> bool:
    """Whether so many sockets had a part in the transfer each: none of them a small one."""
    return len(parts) == count and min(parts.values()) > MB // 4


def _packets(lab: Laboratory) -> list[Packet]:
    packets = [packet for network in lab.networks for packet in network.packets]
    return sorted((packet for packet in packets if PORT in (packet.source[1], packet.destination[1])), key=_time)


def _time(packet: Packet) -> float:
    return packet.time
