"""Random journeys: what may happen on one, and how Hypothesis draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hypothesis import strategies as st

Kind = Literal[
    # The device and its networks.
    "up",
    "down",
    "replug",  # down, and up again at once
    "flap",  # up and down all the time
    "silence",  # a black hole that nobody tells of
    "speak",
    "portal",  # it appears, and carries nothing
    "prefer",  # another default route
    "renumber",  # another address
    "families",  # IPv4 only, IPv6 only, or both
    "tunnel",  # nothing carries anything for a while
    "outage",  # there is no network for a while
    # The way of the packets.
    "lossy",
    "jittery",
    "doubling",
    "slow",  # ten times the latency
    "narrow",  # a tenth of the rate
    "small",  # the largest packet is the smallest that QUIC allows
    "clean",  # as it was
    "rebind",  # the NAT forgets: another port
    "readdress",  # and another address
    "forgetful",  # the NAT forgets what was quiet for a moment
    # The program, the server, and somebody on the way.
    "request",  # the program asks for a move
    "hurry",  # for one after another: spare connection IDs run out
    "pester",  # for one after another, without waiting for any
    "late",  # the server's answers take half a second longer, for a while
    "hide",  # some of them are lost: PATH_CHALLENGEs, new connection IDs
    "copy",  # packets of the client arrive from another address, too, first
    "echo",  # the same, but afterwards
    "steal",  # only from there
    "relay",  # somebody forwards everything both ways for a while, answers to path validation too
    "forge",  # stateless resets, Version Negotiation and noise from anybody
]
KINDS: tuple[Kind, ...] = get_args(Kind)
LASTS: tuple[Kind, ...] = (
    *("down", "silence", "prefer", "rebind", "readdress", "renumber", "replug"),
    *("tunnel", "portal", "lossy"),  # these take longer
)
WAITS = (0.0, 0.002, 0.02, 0.05, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Step:
    """Something happens to one of the interfaces, or at all, and then time passes."""

    kind: Kind
    interface: int = 0
    amount: int = 1
    """How much of it: 1 to 5."""
    after: float = 0.3


@dataclass(frozen=True)
class Journey:
    """Everything that is drawn; the same journey goes the same way."""

    steps: tuple[Step, ...] = ()
    traffic: Literal["download", "upload", "requests", "all"] = "download"
    sockets: Literal["pinned", "connected", "unconnected"] = "pinned"
    answers_probes: bool = True
    forbids: Literal["", "parameter", "empty ids"] = ""
    """How the server forbids moving, if it does."""
    ipv6: bool = False
    told: bool = True
    """Whether the networks that are well again at the end say so, by going down and up."""
    last: Kind = "down"
    """What happens last, when all is well, to the network that is in use."""
    seed: int = 0

    @property
    def is_free(self) -> bool:
        """Whether everything that keeps a connection alive may be done: then it has to live."""
        return self.sockets == "pinned" and not self.forbids


_steps = st.builds(
    Step,
    kind=st.sampled_from(KINDS),
    interface=st.integers(0, 2),
    amount=st.integers(1, 5),
    after=st.sampled_from(WAITS),
)
_mostly = st.sampled_from(("pinned",) * 8 + ("connected", "unconnected"))
_seldom = st.sampled_from(("",) * 8 + ("parameter", "empty ids"))

journeys = st.builds(
    Journey,
    steps=st.lists(_steps, max_size=14).map(tuple),
    traffic=st.sampled_from(("download", "upload", "requests", "all")),
    sockets=_mostly,
    answers_probes=st.sampled_from((True, True, True, False)),
    forbids=_seldom,
    ipv6=st.sampled_from((False, False, False, True)),
    told=st.booleans(),
    last=st.sampled_from(LASTS),
    seed=st.integers(0, 2**32 - 1),
)
