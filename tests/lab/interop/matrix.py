"""The matrix: every peer that whimbrel is tried with, every journey, and which of the cells cannot work, and why."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab.interop import against_clients, against_servers, peers, servers
from tests.lab.interop.outcome import JOURNEYS, Crossed, Failed, Journey, Outcome, Role
from whimbrel.cli._demo.servers import ServerFailed, ServerMissing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab.crossing import Dispatch

CLIENTS = ("gtlsclient", "aioquic", "quic-go", "quinn", "curl", "chromium")
PEERS: dict[Role, tuple[str, ...]] = {"client": servers.NAMES, "server": CLIENTS}
NAMES = {"caddy": "Caddy", "envoy": "Envoy", "chromium": "Chromium"}
"""What a peer is called, where it is not the name that it has here."""

_TITLES: dict[Role, str] = {"client": "Whimbrel downloads from", "server": "Downloads from `whimbrel serve`"}
_STAYS = {
    "curl": "never moves: its socket is connected to one network, and libcurl has no call that would change that",
    "chromium": "never moves on Linux: its migration needs a system that binds sockets to networks, as Android does",
}
CANNOT: dict[tuple[Role, str, Journey], str] = {
    (
        "server",
        "gtlsclient",
        "silence",
    ): "takes the address that the kernel prefers, that of the silent network",
    **{("server", peer, "there and back"): why for peer, why in _STAYS.items()},
    **{("server", peer, "silence"): why for peer, why in _STAYS.items()},
}
"""Cells that no server and no client of ours can make work."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One peer on one journey."""

    role: Role
    """Whimbrel's."""
    peer: str
    journey: Journey

    @property
    def name(self) -> str:
        """Such as ``server/quic-go/silence``."""
        return f"{self.role}/{self.peer}/{self.journey}"

    @property
    def cannot(self) -> str | None:
        """Why it cannot work; None: it can."""
        return CANNOT.get((self.role, self.peer, self.journey))

    @property
    def dispatches(self) -> tuple[Dispatch, ...]:
        """How our server holds its sockets meanwhile, one after the other."""
        # To the kernel Chromium's rebinding is the same as curl's, and it takes long to start.
        return ("wildcard",) if self.peer == "chromium" else ("wildcard", "connected")

    def fill(self) -> Outcome:
        """Try it."""
        if self.cannot is not None:
            return Outcome(role=self.role, peer=self.peer, journey=self.journey, result="cannot", why=self.cannot)
        try:
            crossed = self._cross()
        except (peers.NotHere, ServerMissing) as error:
            return Outcome(role=self.role, peer=self.peer, journey=self.journey, result="not here", why=str(error))
        except (Failed, ServerFailed, AssertionError, OSError, subprocess.SubprocessError) as error:
            why = str(error) or type(error).__name__
            return Outcome(role=self.role, peer=self.peer, journey=self.journey, result="fails", why=why,
                           version=self._version())  # fmt: skip
        ways = crossed[0].linkable
        return Outcome(
            role=self.role,
            peer=self.peer,
            journey=self.journey,
            result="works",
            version=self._version(),
            moves=crossed[0].moves,
            linkable={way: max(each.linkable[way] for each in crossed) for way in ways},
            seconds=round(sum(each.seconds for each in crossed), 1),
        )

    def _cross(self) -> list[Crossed]:
        if self.role == "client":
            return [against_servers.cross(self.peer, self.journey)]
        done = []
        for dispatch in self.dispatches:
            try:
                done.append(against_clients.cross(self.peer, self.journey, dispatch))
            except (Failed, AssertionError) as error:
                raise Failed(f"--dispatch {dispatch}: {error}") from error
        return done

    def _version(self) -> str:
        return peers.version(self.peer)


def cells() -> list[Cell]:
    """Return all of them."""
    return [Cell(role, peer, journey) for role, known in PEERS.items() for peer in known for journey in JOURNEYS]


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """Return them as a table in Markdown, with what is to be said of single cells below it."""
    filled = {(outcome.role, outcome.peer, outcome.journey): outcome for outcome in outcomes}
    lines: list[str] = []
    notes: list[str] = []
    for role, title in _TITLES.items():
        rows = [[title, *JOURNEYS], ["---"] * (1 + len(JOURNEYS))]
        for peer in dict.fromkeys(peer for of, peer, _ in filled if of == role):
            row = [filled.get((role, peer, journey)) for journey in JOURNEYS]
            rows.append([_titled([outcome for outcome in row if outcome]), *[_said(each, notes) for each in row]])
        if len(rows) > 2:
            lines += [*_aligned(rows), ""]
    return lines + notes


def _titled(row: list[Outcome]) -> str:
    version = next((outcome.version for outcome in row if outcome.version), "")
    return f"{NAMES.get(row[0].peer, row[0].peer)} {version}".strip()


def _said(outcome: Outcome | None, notes: list[str]) -> str:
    """Return a cell's text; what does not fit goes to the notes, once."""
    if outcome is None:
        return ""
    remarks = [outcome.why] if outcome.why else []
    ends = {"to_server": "the client", "to_client": "the server" if outcome.role == "client" else "our server"}
    for way, end in ends.items():
        if outcome.linkable.get(way):
            remarks.append(f"{end} sends with one connection ID over both networks")
    marks = []
    for remark in remarks:
        text = f"{NAMES.get(outcome.peer, outcome.peer)}: {remark}"
        note = next((line for line in notes if line.endswith(f". {text}")), None)
        if note is None:
            note = f"{len(notes) + 1}. {text}"
            notes.append(note)
        marks.append(note.partition(".")[0])
    return f"{outcome.result} ({', '.join(marks)})" if marks else outcome.result


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "| "
        + " | ".join(
            "-" * width if cell == "---" else cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        )
        + " |"
        for row in rows
    ]
