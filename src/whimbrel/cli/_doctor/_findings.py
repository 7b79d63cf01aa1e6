"""What was found out about a host. The fields are those of ``--json``, which docs/doctor.md explains."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Literal


class Verdict(IntEnum):
    """The exit statuses."""

    FOLLOWS = 0
    USAGE = 2
    STAYS = 3
    UNREACHABLE = 4
    REFUSED = 5


@dataclass
class Way:
    """One of the host's addresses over one of this machine's networks."""

    address: str
    interface: str
    source: str
    answer_ms: float | None = None
    """How long the answer to version negotiation took; None: there was none."""


@dataclass
class Trial:
    """One move that was tried, or would have been."""

    kind: Literal["port", "interface"]
    interface: str
    survived: bool = False
    answer_ms: float | None = None
    """From the first packet on the new path to the answer of a request over it."""
    linkable: bool | None = None
    """The connection ID of the old path had to be used on the new one as well (RFC 9000 §9.5)."""
    problem: str | None = None
    """Why not, as a slug: that of the error, or "no-answer"."""


@dataclass
class Change:
    """What a connection would do about a change of the networks, by the policy's own word."""

    change: str
    step: str
    sentence: str


@dataclass
class Findings:
    """All of it, in the order in which it is found out."""

    host: str
    port: int
    addresses: list[str] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)
    refused: bool = False
    """It says itself, by ICMP, that nothing listens on that UDP port."""
    quic: bool = False
    """It answers over UDP as a QUIC server does."""
    http3: bool = False
    """And a request was answered over HTTP/3."""
    tcp: bool | None = None
    """Whether the same port answers over TCP; asked only where QUIC fails."""
    problem: str | None = None
    """Why there is no connection, as a slug."""
    sentence: str | None = None
    """The same for people."""
    status: int | None = None
    """HTTP's, of HEAD /."""
    remote: str | None = None
    """The address that the connection used, …"""
    interface: str | None = None
    """… and the network."""
    rtt_ms: float | None = None
    allows_migration: bool | None = None
    disable_active_migration: bool | None = None
    connection_id_length: int | None = None
    spare_connection_ids: int | None = None
    idle_timeout: float | None = None
    """Seconds; None where the server sets none."""
    preferred_address: list[tuple[str, int]] = field(default_factory=list)
    moves: list[Trial] = field(default_factory=list)
    network_changes: list[Change] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        if not self.http3:
            return Verdict.REFUSED if self.quic else Verdict.UNREACHABLE
        # A network over which the host cannot be reached is none that a connection would be moved to.
        made = [trial for trial in self.moves if trial.survived or trial.problem != "no-way"]
        return Verdict.FOLLOWS if made and all(trial.survived for trial in made) else Verdict.STAYS

    def as_json(self, verdict_sentence: str) -> dict[str, object]:
        """One object."""
        verdict = {
            "verdict": self.verdict.name.lower(),
            "verdict_sentence": verdict_sentence,
            "exit_status": int(self.verdict),
        }
        return {**asdict(self), **verdict}
