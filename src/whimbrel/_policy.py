"""When to leave one network path for another. Every judgement whimbrel makes is here; it decides and never acts.

No I/O, no clock, no randomness: events, facts and the time come in, actions go out. The driver carries them out.

The rules
 1. Ask before moving. Another network is preferred: probe it, the data stay where they are; it answers: move there.
 2. A path whose route is gone, or over which the kernel refuses to send, is dead: move at once, without asking.
 3. Nobody answers: three probes, then stay, and ask again after a growing pause, or when the network changes.
 4. A move that brings no packet back within its patience is taken back while the old path lives. One that brings back
    only the peer's question whether we are there: enter the same network anew, once; our answer may have been lost.
    The question may have been lost as well: where there is no way back, the network is asked itself, as under rule 5.
 5. Silence where something is due: PING; still nothing: probe every other network, the first to answer wins. With
    none, ask the silent path itself now and then: when it answers, move to it anew. Where packets came in an unbroken
    flow, a break in it is silence already, and the others are asked together with the PING.
 6. The kernel prefers a network that carries nothing: stay where it works, and return when it answers again.
 7. No network: hold. The first route that appears is used at once. After `Migration.outage`: give up.
 8. The peer forbids moving: stay while the path lives, hold for its return when it does not.
 9. Nothing moves before the handshake is confirmed.
10. A server that answers no probes, asked where the path is known to work, is moved to on trust, under rule 4.
11. `Connection.migrate` asks first as well; where it led is the user's choice until the network changes.
12. The interface is renamed, or the kernel prefers another of its addresses while ours is still there: stay. A way that
    is back in a blink, the same as it was: go on as if nothing had been.
13. The machine was suspended: that was an outage, under rule 7, of which nobody could tell.
14. A path that goes on losing much of what we send: ask another network, several times; each time it answers: move
    there. The one that was left is returned to when it, too, answers each time.
15. A metered network is the last choice: never taken for losses, and asked in a silence when nobody else answers.
16. After `max_time_on_non_default` the preferred network is asked again, and one answer is enough, whatever led away.

The states

              another preferred           it answers               no spare ID
     STEADY ────────────────────▶ PROBING ──────────▶ (move) ◀───────────────── AWAITING_ID
      ▲ ▲ ◀────────────────────────┘  ▲ └──────────────────────────────────────────▲
      │ │    nobody answers: stay     │ silence: ask them all
      │ │                             │
      │ │  heard      no route        │       outage over
      │ └──────── SETTLING ─────▶ HELD ────────────────────▶ GIVEN_UP
      │  (moved) ──▲  │ ▲  ▲       │
      │               │ └──┼───────┘ a route: move
      └───────────────┘    └── any state: the active route is dead, and there is another: move
        not heard: taken back, or as silence

Beside it, for the active path: QUIET (nothing is due) ─▶ LISTENING ─ silence ─▶ PINGED ─ two PTOs ─▶ suspect.

What the driver owes the policy: `Tick` when `deadline` has come, when the handshake is confirmed, when a first packet
is heard after a move, a PING or a silence, and when something becomes due (`Facts.due`); `ApplicationWrote` when the
application opens a stream or writes after quiet; the routes again after `SendFailed`. One `MoveRequested` at a time.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from whimbrel._events import NetworkLost, NetworkRestored, PathProbed, PathRejected, Reason
from whimbrel._policy_words import (
    Accepted,
    Action,
    ApplicationWrote,
    ControlProbe,
    Event,
    Facts,
    GiveUp,
    Hold,
    Migrate,
    MoveCancelled,
    MoveRequested,
    Ping,
    Probe,
    ProbeAnswered,
    RefusalSlug,
    Refuse,
    Report,
    Resume,
    RoutesChanged,
    SendFailed,
    ServerSilent,
    Tick,
    Woke,
)

if TYPE_CHECKING:
    from whimbrel._config import Migration
    from whimbrel.network import Route

PROBES: Final = 3
"""Unanswered probes before a network is left alone: one is lost on a bad radio, two seldom, three hardly ever."""
PROBE_WAIT: Final = (0.03, 1.0)
"""Bounds on the wait for an answer. Below 30 ms a sleeping radio would be asked twice for nothing."""
LAST_WAIT: Final = 1.0
"""After the last probe: the new network may be slower than any known so far, and waiting costs nothing."""
CONTROL_WAIT: Final = 1.5
"""For the driver to find out whether the server answers probes at all."""
PROBE_RATE: Final = 10.0
"""Probes a second at most, over all networks, however often the network changes …"""
PROBE_BURST: Final = 6
"""… after so many at once: five networks asked together in a silence, and one to spare."""
RETRY: Final = (1.0, 60.0)
"""First and longest pause before a network that did not answer is asked again; each is twice the last."""
ROLLED_BACK_PAUSE: Final = 10.0
"""The first pause after a move that was taken back: unlike a probe, trying again costs the user a stall."""
PATIENCE: Final = (0.3, 1.5)
"""Bounds on the wait for the first packet after a move, otherwise three PTOs, or three round trips of the new path."""
ID_WAIT: Final = 0.5
"""The longest wait for a spare connection ID while the old path lives, otherwise three PTOs."""
ID_LOOK: Final = 0.1
"""How often to look for it meanwhile: its arrival is no event."""
ANSWER_HEARD: Final = (2.0, 0.05)
"""After the peer's question over a new path, it takes our answer one round trip to bring something back; we wait for
so many, and so long on top."""
LONGEST_REST: Final = 0.015
"""How long to send nothing when a slow path is left for a faster one: less than an acknowledgement may take anyway (25
ms, RFC 9000 §18.2) …"""
REST_MARGIN: Final = 0.003
"""… and how much of it is for what is not known exactly."""
PTO_FLOOR: Final = 0.05
"""A PTO below this says more about a short path than about how long a radio may nap."""
REVIVAL: Final = (2.0, 15.0)
"""How long a path must have been silent before it is asked itself; and, doubled each time, the pauses between moves to
it anew, each of which takes a connection ID."""
LONGEST_PING: Final = 15.0
"""Pause between PINGs on a quiet, living path: shorter than what NATs give UDP (30 s and more)."""
FLOW: Final = (0.5, 60.0)
"""How long packets must have come without a pause for a break to mean anything: at first, and at most. Each break that
the network did not cause doubles it: radios that scan, and servers that think, are soon left in peace."""
BREAK: Final = 1 / 8
"""What a break must last, as a part of `Migration.silence` (25 ms by default: more than a queue that was overfilled
leaves without a packet), and two round trips at least."""
BLINK: Final = 0.1
"""How long a way may be gone and still be the same path: less than a PTO, so that nobody has backed off. Some DHCP
clients take the route away for a moment whenever they renew (busybox's script)."""
NAP: Final = 2.0
"""How long the machine must have been suspended to matter: a path may be silent for as long."""
FLAP_MEMORY: Final = 10.0
"""Seconds for which it counts that a network was preferred and then no longer."""
FLAP_HOLD: Final = (1.0, 5.0)
"""How long a network that came and went must stay before it is asked; doubled each time."""

LOSS: Final = 0.1
"""What a path may lose of the packets that we send. With a tenth lost, a congestion controller that goes by losses
sends four a round trip, whatever the rate of the network; a full queue alone costs a few in a hundred."""
LOSS_SPAN: Final = (2.0, 50)
"""Seconds, and packets, for which losses are counted at least, before that is called much: of fewer, chance decides."""
LOSSY_SPANS: Final = 2
"""So many such spans in a row: a tunnel, or a queue that was overfilled once, loses as much, and is over."""
TRIAL: Final = 5
"""Probes that another network has to answer without exception: one as bad (a fifth lost on the way there, and a fifth
on the way back) does so one time in ten."""
TRIAL_PAUSE: Final = 0.2
"""Between these: whoever loses packets loses several that follow each other."""
LOSSY_PAUSE: Final = (30.0, 600.0)
"""First and longest pause before a network that was left for its losses is tried again; each is twice the last, since
probes may pass where a transfer does not."""

DEAD: Final = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.ENODEV,
        errno.ENXIO,
        errno.EINVAL,
    }
)
"""Errors that mean "not from here": interface, address or route is gone. EPERM (a firewall being reloaded), ENOBUFS and
EAGAIN (a full queue) pass, and EMSGSIZE is about the packet: these are not here."""

# States --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Steady:
    """On the path we want, or on the best that works."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One network that is being probed."""

    route: Route
    sent: int
    next: float
    """When to ask again, or to stop asking."""
    needed: int = 1
    """Answers that prove it good, while the active path still carries."""
    answers: int = 0

    @property
    def is_exhausted(self) -> bool:
        return self.sent >= max(PROBES, self.needed)


@dataclass(frozen=True, slots=True)
class Probing:
    """Other networks are asked; the data stay where they are."""

    reason: Reason
    asked: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class AwaitingId:
    """A move is decided, but would be linkable now (RFC 9000 §9.5)."""

    route: Route
    reason: Reason
    proven: bool
    """The server answered over it."""
    until: float


@dataclass(frozen=True, slots=True)
class Settling:
    """We moved, and wait for the first packet over the new path."""

    fallback: Route | None
    """The path before, if it worked when we left it."""
    since: float
    until: float
    anew: bool = False
    """We moved before, to this same network."""


@dataclass(frozen=True, slots=True)
class Held:
    """No network."""

    route: Route | None
    """The last one used."""
    since: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The connection is over."""


State = Steady | Probing | AwaitingId | Settling | Held | GivenUp


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing is due, so silence means nothing: no timer."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Something is due; PING after `interval` without a packet."""

    since: float
    """Silence before this does not count: nothing was due."""
    interval: float
    answered: float = -math.inf
    """When the last PING's answer came. Anything later is more than an answer."""


@dataclass(frozen=True, slots=True)
class Pinged:
    """A PING is out."""

    first: float
    last: float
    wait: float
    interval: float
    hasty: bool = False
    """A flow broke off. The others are asked already; one PTO, with two PINGs, is enough."""
    suspect: bool = False
    """Two PTOs without any packet: the path carries nothing, as far as we can tell."""


Watch = Quiet | Listening | Pinged


@dataclass(frozen=True, slots=True)
class Pause:
    """A network that failed us is left alone for a while."""

    until: float
    length: float
    left: bool
    """We were on it when it fell silent, or lost much, so going there again is a return."""
    lossy: bool = False
    """It was left for its losses."""


@dataclass(frozen=True, slots=True)
class Flaps:
    """How often a network was preferred and then no longer."""

    count: int
    last: float


@dataclass(frozen=True, slots=True)
class Span:
    """How many packets had been sent and lost when it began."""

    since: float
    sent: int
    lost: int


# The policy ----------------------------------------------------------------------------------------------------------


class MigrationPolicy:
    """Decides for one client connection.

    Each `handle` first takes note (`_note`), then asks whether the active path is silent (`_listen`), then what the
    event means in this state (`_happened`), and last what the situation asks for, whatever led to it (`_act`).

    The three kinds of sockets: *pinned* follows every rule. *connected* moves as soon as the kernel's choice changes,
    because a connected socket stops working then; for the same reason it neither searches in a silence nor moves back
    to a network that is not preferred. *unconnected* moves nothing: the kernel does; a PING after each change lets the
    server see it. With ``auto=False`` only `MoveRequested` counts.
    """

    active: Route | None
    """The route in use; None while there is none."""
    deadline: float | None
    """When `Tick` is due at the latest; None: never."""

    def __init__(self, settings: Migration, active: Route | None) -> None:
        self._settings = settings
        self.active = active
        self.deadline = None
        self.routes: tuple[Route, ...] = () if active is None else (active,)
        self._state: State = Steady()
        self._watch: Watch = Quiet()
        self._requested: Route | None = None
        self._waiting_request: MoveRequested | None = None  # made before the handshake was confirmed
        self._chosen = False  # the active route is the user's choice, so the kernel's does not count
        self._pauses: dict[Route, Pause] = {}
        self._flaps: dict[Route, Flaps] = {}
        self._preferred_since = -math.inf
        self._span: Span | None = None
        self._lossy_spans = 0  # in a row, on the active path
        self._away_since: float | None = None  # not on the preferred network; None: there
        self._called_back = False  # … for so long that it is asked whatever led away
        self._rtts: dict[Route, float] = {}  # as probes have measured them
        self._left: dict[Route, float] = {}  # when each route was last moved away from
        self._probes_paid_until = -math.inf  # the rate limit's only memory: see _may_probe
        self._revive_after = -math.inf  # the silent active path is not asked before this …
        self._revive_pause = REVIVAL[0]  # … and the pause after the next move to it anew
        self._flow = FLOW[0]  # how long one must have been unbroken for its end to mean anything
        self._leap_after = -math.inf  # no move on trust in a silence before this …
        self._leap_pause = RETRY[0]  # … and the next such pause
        self._in_vain: set[Route] = set()  # who was asked in this silence, and did not answer
        self._server_answers = False
        self._server_silent = False
        self._control_asked = False

    def handle(self, event: Event, facts: Facts, now: float) -> list[Action]:
        """Take in one event and say what to do, in this order. ``now`` never goes back."""
        if isinstance(self._state, GivenUp):
            return []
        if isinstance(event, RoutesChanged) and self._are_known(event.routes):
            event = Tick()  # Several messages come for one change; only the answer counts, and it is the same.
        actions = self._note(event, facts, now)
        # RFC 9000 §9: a client must not migrate before the handshake is confirmed. A network that dies in the
        # handshake is the dial's business, which has other addresses to try.
        if facts.confirmed:
            self._count_losses(facts, now)
            self._count_time_away(now)
            actions += self._listen(facts, now)
            if self._waiting_request is not None and not isinstance(event, MoveRequested):
                waiting, self._waiting_request = self._waiting_request, None
                actions += self._happened(waiting, facts, now)
            actions += self._happened(event, facts, now)
            actions += self._act(facts, now)
            actions += self._revive(facts, now)
            if isinstance(self._watch, Quiet):
                actions += self._listen(facts, now)  # On another path, or on this one for good: listen anew.
            self.deadline = self._next_deadline(facts, now)
        elif isinstance(event, MoveRequested):
            self._waiting_request = event
        return actions

    # Memory ----------------------------------------------------------------------------------------------------------

    def _are_known(self, routes: tuple[Route, ...]) -> bool:
        """Whether these are the same ways. How they are called now, and which other addresses are there, is noted."""
        self.active = next((r for r in routes if r == self.active), self.active)
        if routes != self.routes:
            return False
        self.routes = routes
        return True

    def _note(self, event: Event, facts: Facts, now: float) -> list[Action]:
        """Remember what the event says, whatever the state."""
        match event:
            case RoutesChanged(routes):
                return self._note_routes(routes, now)
            case ProbeAnswered(route, rtt):
                self._server_answers, self._server_silent = True, False
                self._rtts[route] = rtt
            case ServerSilent(route) if route == self.active and not self._server_answers:
                self._server_silent = True
                self._pauses.clear()  # They were earned by not answering, which says nothing about this server.
            case MoveCancelled():
                self._requested = self._waiting_request = None
            case ApplicationWrote() if isinstance(self._watch, Listening):
                # A write must not postpone the question that an earlier one, not answered yet, has raised.
                since = now if facts.heard > self._watch.since else self._watch.since
                self._watch = Listening(since, self._settings.silence)
            case _:
                pass
        return []

    def _note_routes(self, routes: tuple[Route, ...], now: float) -> list[Action]:
        before, self.routes = self.routes, routes
        if before[:1] != routes[:1]:
            self._preferred_since = now
            for route in before[:1]:
                flaps = self._flaps.get(route)
                recent = flaps is not None and now - flaps.last < FLAP_MEMORY
                self._flaps[route] = Flaps(flaps.count + 1 if flaps and recent else 1, now)
        # The network changed, so who did not answer may answer now, and who was away is as good as new. But where we
        # cannot ask, and would move on trust, a change elsewhere is no reason to try again.
        self._pauses = {r: p for r, p in self._pauses.items() if r in routes and r in before}
        if not self._server_silent:
            self._end_pauses(now, lossy=False)
        self._flaps = {r: f for r, f in self._flaps.items() if now - f.last < FLAP_MEMORY}
        self._left = {r: at for r, at in self._left.items() if r in routes}
        self._rtts = {r: rtt for r, rtt in self._rtts.items() if r in routes}
        self._leap_after, self._leap_pause = now, RETRY[0]
        self._chosen = False
        if isinstance(self._watch, Listening):
            self._watch = replace(self._watch, interval=self._settings.silence)
        if self._requested is not None and self._requested not in routes:
            self._requested = None
            return [Refuse("no-route")]
        return []

    # Is the active path silent? --------------------------------------------------------------------------------------

    def _listen(self, facts: Facts, now: float) -> list[Action]:
        """Rule 5. A receiver sends only ACKs, so the engine has no timer of its own there: without this, a pure
        download stays silent on both sides after a hard cut, a black hole or a NAT rebinding."""
        silence = self._settings.silence
        if not self._settings.auto or isinstance(self._state, Settling | Held):
            return []
        if not facts.due:
            self._watch = Quiet()
            return []
        if isinstance(self._watch, Quiet):
            self._watch = Listening(now, silence)
        if isinstance(self._watch, Pinged) and facts.heard > self._watch.first:
            # Only the answer came: a quiet, living path (a long poll) is asked half as often each time.
            pinged, prompt = self._watch, facts.heard <= self._watch.first + _two_ptos(facts)
            interval = min(LONGEST_PING, 2 * pinged.interval) if prompt else silence
            if pinged.hasty:
                self._doubt_flows()
            self._watch = Listening(pinged.first, interval, facts.heard)
        match self._watch:
            case Listening(since, interval, answered):
                if interval > silence and facts.heard > answered:
                    interval = silence
                    self._watch = Listening(since, interval, answered)
                if now >= self._broken_off(facts):
                    self._watch = Pinged(now, now, facts.pto / 2, interval, hasty=True)
                    return [Ping()]
                if now >= max(facts.heard, since) + interval:
                    self._watch = Pinged(now, now, _two_ptos(facts), interval)
                    return [Ping()]
            case Pinged(first, last, wait, interval, hasty, suspect) if now >= last + wait:
                if hasty and last == first:  # It may have been a nap of the radio, in which the PING was lost.
                    self._watch = Pinged(first, now, wait, interval, hasty)
                    return [Ping()]
                if not suspect:
                    self._in_vain.clear()
                    # They were for as long as this path works. But two bad paths are not to be swapped all the time.
                    self._end_pauses(now, spare=FLAP_MEMORY)
                self._watch = Pinged(first, now, min(2 * wait, LONGEST_PING), interval, hasty, True)
                return [Ping()]
            case _:
                pass
        return []

    @property
    def _suspect(self) -> bool:
        return isinstance(self._watch, Pinged) and self._watch.suspect

    def _broken_off(self, facts: Facts) -> float:
        """When a flow of packets has broken off, if nothing comes by then."""
        if not self._may_search(facts) or not self._others() or facts.heard < facts.flowing + self._flow:
            return math.inf
        return facts.heard + min(max(BREAK * self._settings.silence, 2 * facts.rtt), self._settings.silence)

    def _doubt_flows(self) -> None:
        self._flow = min(FLOW[1], 2 * self._flow)

    @property
    def _in_doubt(self) -> bool:
        """The active path may be silent, and it is worth to know who is not."""
        return isinstance(self._watch, Pinged) and (self._watch.hasty or self._watch.suspect)

    # Is it a bad one? ------------------------------------------------------------------------------------------------

    def _count_losses(self, facts: Facts, now: float) -> None:
        """Rule 14. While anything comes, `_listen` has this called several times a second.

        What is lost of that which the server sends, nobody here is told. A receiver's own packets are acknowledgements
        and a few window updates: enough to tell where a network loses both ways, as radios do.
        """
        span, sent, lost = self._span, facts.packets_sent, facts.packets_lost
        if span is None or isinstance(self._state, Settling | Held):
            self._span, self._lossy_spans = Span(now, sent, lost), 0  # What is lost by now, the old path has lost.
        elif now >= span.since + LOSS_SPAN[0] and sent >= span.sent + LOSS_SPAN[1]:
            self._lossy_spans = self._lossy_spans + 1 if lost - span.lost >= LOSS * (sent - span.sent) else 0
            self._span = Span(now, sent, lost)

    @property
    def _lossy(self) -> bool:
        # Where nobody can be asked, a path that carries something is not left for one of which nothing is known.
        return self._lossy_spans >= LOSSY_SPANS and self._settings.sockets == "pinned" and not self._server_silent

    def _count_time_away(self, now: float) -> None:
        """Rule 16."""
        if self.active is None or not self.routes or _carries(self.routes[0], self.active):
            self._away_since, self._called_back = None, False
            return
        if self._away_since is None:
            self._away_since = now
        if not self._called_back and now >= self._away_since + self._settings.max_time_on_non_default:
            self._called_back, self._chosen = True, False
            if self.routes[0] in self._pauses:
                self._pauses[self.routes[0]] = replace(self._pauses[self.routes[0]], until=now, lossy=False)

    # What happened ---------------------------------------------------------------------------------------------------

    def _happened(self, event: Event, facts: Facts, now: float) -> list[Action]:
        match self._state, event:
            case _, MoveRequested(route):
                return self._requested_move(route, facts)
            case _, Woke(slept):
                return self._woke(slept, now)

            case _, ProbeAnswered(route) if route == self.active and self._suspect and self._may_search(facts):
                self._revive_after = now + self._revive_pause
                self._revive_pause = min(REVIVAL[1], 2 * self._revive_pause)
                return self._move(route, "restored", facts, now, proven=True)
            case Probing(asked=asked) as probing, ProbeAnswered(route, rtt) if any(a.route == route for a in asked):
                return self._answered(probing, route, rtt, facts, now)
            case Probing(reason, asked), ProbeAnswered(route) if route == self.active:
                # The control was answered: those who had all their probes are silent by themselves.
                self._state = Probing(reason, tuple(replace(a, next=now) if a.is_exhausted else a for a in asked))
            case _, ProbeAnswered():
                pass  # Too late: the network changed, or the active path was heard again, while we were asking.

            case Probing(), ServerSilent() if self._server_silent:
                self._state = Steady()  # Asking is in vain; what is wanted is done on trust.

            case _, SendFailed(route, number) if route == self.active and number in DEAD:
                return self._refused(facts, now)
            case Probing(reason, asked), SendFailed(route, number) if number in DEAD:
                kept = tuple(a for a in asked if a.route != route)
                if len(kept) < len(asked):
                    self._state = Probing(reason, kept) if kept else Steady()
                    return self._reject(route, "no-route", now)
            case _:
                pass  # A tick, news that is noted already, or a packet that was refused in passing.
        return []

    def _requested_move(self, route: Route | None, facts: Facts) -> list[Action]:
        """Rule 11."""
        wanted = self.routes[0] if route is None and self.routes else route
        if wanted is not None and wanted == self.active and self._settings.sockets != "unconnected":
            self._requested, self._chosen = None, True
            return [Accepted(wanted)]
        # RFC 9000 §18.2: disable_active_migration. An unconnected socket has nothing that could be moved.
        if facts.peer_forbids or self._settings.sockets == "unconnected":
            return [Refuse("migration-disabled")]
        if wanted is None or wanted not in self.routes or isinstance(self._state, Held):
            return [Refuse("no-route")]
        self._requested = wanted
        self._pauses.pop(wanted, None)
        return []

    def _answered(self, probing: Probing, route: Route, rtt: float, facts: Facts, now: float) -> list[Action]:
        report: list[Action] = [Report(PathProbed(route.interface, rtt))]
        if probing.reason == "silent":
            if not self._suspect:  # It is soon, unless the active path is heard; then this was asked in vain.
                waiting = tuple(replace(a, answers=1, next=math.inf) if a.route == route else a for a in probing.asked)
                self._state = replace(probing, asked=waiting)
                return report
            return report + self._leave_silent(route, facts, now)
        asked = tuple(replace(a, answers=a.answers + 1) if a.route == route else a for a in probing.asked)
        if any(a.route == route and a.answers < a.needed for a in asked):
            self._state = replace(probing, asked=asked)
            return []
        return report + self._move_with_new_id(route, probing.reason, True, facts, now)

    def _refused(self, facts: Facts, now: float) -> list[Action]:
        """Rule 2, by the kernel's word: interface, address or route is gone, and the news of it are still to come."""
        # RFC 9000 §18.2 (rule 8), or migrate() alone decides: then the news do, or nobody.
        if facts.peer_forbids or not self._settings.auto or self.active is None or self._suspect:
            return []
        others = self._others()
        if self._settings.sockets != "pinned":
            others = [r for r in others if self._settings.sockets == "connected" and r == self.routes[0]]
        if not others:
            return []  # Nowhere to go. If the route is really gone, the list will say so.
        self._penalise(self.active, now)
        actions = self._not_arrived("no-route")
        usable = [r for r in others if not self._paused(r, now)]
        if usable:
            return actions + self._move(self._best(usable), "dead", facts, now)
        # All have failed us a moment ago, perhaps in this same way: ask, rather than hop from refusal to refusal.
        self._suspect_active(facts, now)
        self._end_pauses(now)
        return actions

    # What is to be done ----------------------------------------------------------------------------------------------

    def _act(self, facts: Facts, now: float) -> list[Action]:
        """What the situation asks for now, whatever led to it."""
        if isinstance(self._state, Held):
            return self._held(self._state, facts, now)
        if self._settings.sockets == "unconnected":
            return self._follow_kernel(facts, now)
        if self._settings.auto and not self._is_there(self.active):
            if not self.routes or facts.peer_forbids:
                held = self._hold(now)
                return held + [Report(PathRejected(r.interface, "migration-disabled")) for r in self.routes[:1]]
            # Rule 2. Nobody is asked: whatever the new network is like, the old one is gone.
            usable = [r for r in self.routes if not self._paused(r, now)]
            return self._move(self._best(usable or self.routes), "dead", facts, now)
        if self._must_follow_kernel(facts):
            return self._move(self.routes[0], "preferred", facts, now)
        match self._state:
            case Settling() as settling:
                return self._settle(settling, facts, now)
            case AwaitingId() as waiting:
                return self._await_id(waiting, facts, now)
            case Probing() as probing:
                return self._probe(probing, facts, now)
            case Steady():
                return self._look_around(facts, now)
            case GivenUp():
                return []

    def _must_follow_kernel(self, facts: Facts) -> bool:
        """A connected socket stops working once another network is preferred: no time to ask, or to settle."""
        if self._settings.sockets != "connected" or not self._settings.auto or facts.peer_forbids:
            return False
        return not _carries(self.routes[0], self.active) and not self._chosen and self._requested != self.active

    def _look_around(self, facts: Facts, now: float) -> list[Action]:
        """Steady: is there a reason to ask somebody, or to move?"""
        wish = self._wish()
        if self._suspect and self._may_search(facts) and not (self._server_silent and self._requested):
            return self._search(facts, now)
        if self._in_doubt and self._may_search(facts) and not self._server_silent and self._askable(now):
            return self._probe(Probing("silent", ()), facts, now)
        if wish is None or facts.peer_forbids or now < self._wish_after(*wish):
            return []
        route, reason = wish
        if self._server_silent:
            return self._move_with_new_id(route, reason, False, facts, now)
        lossy = reason == "lossy" or (reason == "returned" and self._pauses[route].lossy)
        return self._probe(Probing(reason, (Asked(route, 0, now, TRIAL if lossy else 1),)), facts, now)

    def _wish(self) -> tuple[Route, Reason] | None:
        """Where we would rather be, and why."""
        if self._requested is not None and self._requested != self.active:
            return self._requested, "requested"
        if not self._settings.auto or self._chosen or not self.routes:
            return None
        others = [r for r in self._others() if not self._is_metered(r)]
        if self._lossy and others:
            soonest = min(others, key=lambda r: self._pauses[r].until if r in self._pauses else -math.inf)
            if soonest != self.routes[0]:
                return soonest, "lossy"
        if _carries(self.routes[0], self.active):
            return None
        pause = self._pauses.get(self.routes[0])
        return self.routes[0], "returned" if pause is not None and pause.left else "preferred"

    def _wish_after(self, route: Route, reason: Reason) -> float:
        """When that may be tried."""
        if reason == "requested":
            return -math.inf
        after = self._pauses[route].until if route in self._pauses else -math.inf
        flaps = self._flaps.get(route)
        # A network at the edge of its range comes and goes. A new one is followed at once; one that went a moment ago
        # has to stay for a while first, or each flap would cost a move, a dead path, and connection IDs at both ends.
        if flaps is not None:
            hold = min(FLAP_HOLD[1], FLAP_HOLD[0] * 2 ** min(flaps.count - 1, 10))
            after = max(after, self._preferred_since + hold)
        return after

    # Asking ----------------------------------------------------------------------------------------------------------

    def _probe(self, probing: Probing, facts: Facts, now: float) -> list[Action]:
        """Rules 1, 3, 5: put the question, repeat it, and stop."""
        self._state = probing
        asked = [a for a in probing.asked if a.route in self.routes and a.route != self.active]
        if probing.reason == "silent":
            if not self._in_doubt:  # Heard again, or nothing is due any more.
                return self._steady(facts, now)
            if self._suspect and (answered := [a.route for a in asked if a.answers]):
                return self._leave_silent(self._best(answered), facts, now)
            known = {a.route for a in asked}
            asked += [Asked(r, 0, now) for r in self._askable(now) if r not in known]
        elif self._suspect and self._may_search(facts):
            # The path that we were in no hurry to leave fell silent.
            anew = tuple(Asked(a.route, 0, now) if a.needed > 1 else a for a in asked)
            return self._probe(Probing("silent", anew), facts, now)
        else:
            wish = self._wish()
            if wish is None or wish[0] not in {a.route for a in asked}:
                return self._steady(facts, now)
            probing = replace(probing, reason=wish[1])  # A request may have come, or been cancelled.

        actions: list[Action] = []
        kept = []
        for a in asked:
            if now < a.next:
                kept.append(a)
            elif not a.is_exhausted:
                if self._may_probe(now):
                    actions.append(Probe(a.route))
                    kept.append(replace(a, sent=a.sent + 1, next=now + _answer_wait(a, facts)))
                else:
                    kept.append(replace(a, next=self._next_probe()))
            elif self._control_wanted(facts) and self._may_probe(now) and self.active is not None:
                # Rule 10. Is it the network, or does this server answer nobody? Ask where we know it is reached.
                self._control_asked = True
                # By a PING we will know whether it is reached there still, though nothing may be under way.
                actions += [ControlProbe(self.active), Ping()]
                kept.append(replace(a, next=now + CONTROL_WAIT))
            else:
                actions += self._reject(a.route, "no-answer", now) if not a.answers else self._fell_short(a.route, now)
        self._state = Probing(probing.reason, tuple(kept))
        return actions if kept else actions + self._steady(facts, now)

    def _control_wanted(self, facts: Facts) -> bool:
        known = self._server_answers or self._server_silent or self._control_asked
        return not known and not self._suspect and facts.heard > -math.inf

    def _may_probe(self, now: float) -> bool:
        """A token bucket, kept as the time at which it will be full again."""
        if now < self._next_probe():
            return False
        self._probes_paid_until = max(self._probes_paid_until, now) + 1 / PROBE_RATE
        return True

    def _next_probe(self) -> float:
        return self._probes_paid_until - (PROBE_BURST - 1) / PROBE_RATE

    def _reject(
        self, route: Route, reason: Literal["no-answer", "no-route"], now: float, pause: float = RETRY[0]
    ) -> list[Action]:
        self._penalise(route, now, first=pause, answered=False)
        if self._suspect:
            self._in_vain.add(route)
        actions: list[Action] = [Report(PathRejected(route.interface, reason))]
        if route == self._requested:
            self._requested = None
            actions.append(Refuse(reason))
        return actions

    def _fell_short(self, route: Route, now: float) -> list[Action]:
        """It answered, but not each time."""
        self._penalise(route, now, first=ROLLED_BACK_PAUSE)
        return [Report(PathRejected(route.interface, "lossy"))]

    def _penalise(
        self,
        route: Route,
        now: float,
        *,
        first: float = RETRY[0],
        left: bool = False,
        lossy: bool = False,
        answered: bool = True,
    ) -> None:
        """Rule 3: a pause that grows from failure to failure; after a good while without one, the first again."""
        old = self._pauses.get(route)
        recent = old is not None and now < old.until + 2 * old.length
        # In a silence nobody is served meanwhile, so the others are asked as often as the path itself.
        lossy = lossy or (old is not None and old.lossy)
        # Who loses much is not tried for long, lest a transfer suffer; who does not answer at all only costs probes.
        longest = LONGEST_PING if self._suspect else LOSSY_PAUSE[1] if lossy and answered else RETRY[1]
        length = min(longest, max(first, 2 * old.length)) if old is not None and recent else first
        self._pauses[route] = Pause(now + length, length, left or (old is not None and old.left), lossy)

    def _end_pauses(self, now: float, *, spare: float = 0.0, lossy: bool = True) -> None:
        """Networks may be asked again at once, but ``spare`` seconds after they were left at the earliest.

        ``lossy``: also those that were left for their losses, which answer whatever happens.
        """
        for route, pause in self._pauses.items():
            if pause.lossy and not lossy:
                continue
            # How long the pauses had grown is remembered.
            at = max(now, self._left.get(route, -math.inf) + spare)
            self._pauses[route] = replace(pause, until=min(pause.until, at))

    def _paused(self, route: Route, now: float) -> bool:
        return route in self._pauses and now < self._pauses[route].until

    # Silence ---------------------------------------------------------------------------------------------------------

    def _may_search(self, facts: Facts) -> bool:
        return self._settings.auto and self._settings.sockets == "pinned" and not facts.peer_forbids

    def _search(self, facts: Facts, now: float) -> list[Action]:
        """The active path carries nothing: ask all the others, and as a last resort trust one of them."""
        others = self._others()
        fresh = tuple(Asked(r, 0, now) for r in self._askable(now))
        if fresh and not self._server_silent:
            return self._probe(Probing("silent", fresh), facts, now)
        # Rule 10. Nobody answered, but we do not know that this server ever would, and here is nothing to lose. A
        # server that answered before would have: then the networks are bad, and a move would only use up an ID.
        if others and not self._server_answers and now >= self._leap_after:
            self._leap_after = now + self._leap_pause
            self._leap_pause = min(RETRY[1], 2 * self._leap_pause)
            longest_left = min(others, key=lambda r: (self._is_metered(r), self._left.get(r, -math.inf)))
            return self._leave_silent(longest_left, facts, now)
        return []

    def _askable(self, now: float) -> list[Route]:
        """Whom to ask in a silence. Rule 15: a metered network is asked when there is no other to ask."""
        askable = [r for r in self._others() if self._may_answer(r, now)]
        return [r for r in askable if not self._is_metered(r)] or askable

    def _may_answer(self, route: Route, now: float) -> bool:
        """Whether to ask, in a silence. Who did not answer is not asked again where a move on trust may come first."""
        trust_first = route in self._in_vain and not self._server_answers and now >= self._leap_after
        return not self._paused(route, now) and not trust_first

    def _revive(self, facts: Facts, now: float) -> list[Action]:
        """Rule 5, for who walks through a tunnel: no news tell when a silent path carries again.

        PINGs do not either. A server whose window is full answers none of them until its own next try, which has been
        put off further and further, up to a minute. So the path itself is asked; when it answers, we move to it anew,
        from another port: to the server that is a new path, which it tries at once.
        """
        when = self._revival(facts)
        return [] if when is None or now < when else self._ask_active(now)

    def _ask_active(self, now: float) -> list[Action]:
        if self.active is None:
            return []
        if not self._may_probe(now):
            self._revive_after = self._next_probe()
            return []
        self._revive_after = now + REVIVAL[0]
        return [Probe(self.active)]

    def _revival(self, facts: Facts) -> float | None:
        if not isinstance(self._watch, Pinged) or not self._watch.suspect or not self._may_search(facts):
            return None
        if self._server_silent or isinstance(self._state, Settling | Held | GivenUp):
            return None
        return max(max(facts.heard, self._watch.first) + REVIVAL[0], self._revive_after)

    def _leave_silent(self, route: Route, facts: Facts, now: float) -> list[Action]:
        if self.active is not None:
            # Where much was lost before, one answer would not say that it is over.
            self._penalise(self.active, now, left=True, lossy=self._lossy_spans > 0)
        if isinstance(self._watch, Pinged) and self._watch.hasty:
            self._doubt_flows()
        return self._move(route, "silent", facts, now, proven=self._server_answers)

    def _suspect_active(self, facts: Facts, now: float) -> None:
        if self._settings.auto and facts.due:
            self._state = Steady()
            self._in_vain.clear()
            self._watch = Pinged(now, now, _two_ptos(facts), self._settings.silence, suspect=True)

    # Moving ----------------------------------------------------------------------------------------------------------

    def _move_with_new_id(self, route: Route, reason: Reason, proven: bool, facts: Facts, now: float) -> list[Action]:
        """Move; but for a spare connection ID it is worth to wait a moment, while the old path lives (§9.5)."""
        if facts.spare_ids > 0:
            return self._move(route, reason, facts, now, proven=proven)
        self._state = AwaitingId(route, reason, proven, now + min(ID_WAIT, 3 * facts.pto))
        return []

    def _await_id(self, waiting: AwaitingId, facts: Facts, now: float) -> list[Action]:
        wish = self._wish()
        if wish is None or wish[0] != waiting.route:
            return self._steady(facts, now)
        self._state = waiting = replace(waiting, reason=wish[1])
        if facts.spare_ids > 0 or self._suspect:
            return self._move(waiting.route, waiting.reason, facts, now, proven=waiting.proven)
        if now < waiting.until:
            return []
        if waiting.reason == "requested":
            self._requested, self._state = None, Steady()
            return [Refuse("connection-ids-exhausted")]
        if not waiting.proven:
            # On trust, with the way back linkable as well: too much for a network that we may not need.
            self._penalise(waiting.route, now, first=ROLLED_BACK_PAUSE)
            self._state = Steady()
            return [Report(PathRejected(waiting.route.interface, "connection-ids-exhausted"))]
        return self._move(waiting.route, waiting.reason, facts, now)

    def _move(self, route: Route, reason: Reason, facts: Facts, now: float, *, proven: bool = False) -> list[Action]:
        left, self.active = self.active, next((r for r in self.routes if r == route), route)  # By its newest name.
        if left is not None:
            self._left[left] = now
        worked = reason in ("preferred", "returned", "requested", "lossy") and not self._suspect
        if left is not None and reason == "lossy":
            self._penalise(left, now, first=LOSSY_PAUSE[0], left=True, lossy=True)
        # The PTO is the old path's; the new one may be the slower.
        patience = min(max(3 * facts.pto, 3 * self._rtts.get(route, 0.0), PATIENCE[0]), PATIENCE[1])
        self._state = Settling(left if worked else None, now, now + patience)
        self._watch = Quiet()
        self._chosen = False
        actions: list[Action] = [Migrate(self.active, reason, self._rest(route, facts) if worked else 0.0)]
        if proven:
            actions += self._arrived()
            if not self._settings.auto:
                self._state = Steady()
        return actions

    def _rest(self, route: Route, facts: Facts) -> float:
        """What left over a slow path a moment ago arrives after the server has followed us to a fast one. That looks
        like a move back, and costs a connection ID of ours to ask about (quic-go): it has four, and the next move needs
        one. The server follows after one and a half round trips of the new path."""
        late = facts.rtt / 2 - 1.5 * self._rtts.get(route, math.inf)
        return min(late + REST_MARGIN, LONGEST_REST) if late > -REST_MARGIN else 0.0

    def _arrived(self) -> list[Action]:
        """The active path works; was it the one asked for?"""
        if self.active is None or self.active != self._requested:
            return []
        self._requested, self._chosen = None, True
        return [Accepted(self.active)]

    def _not_arrived(self, slug: RefusalSlug) -> list[Action]:
        if self.active is None or self.active != self._requested:
            return []
        self._requested = None
        return [Refuse(slug)]

    def _settle(self, settling: Settling, facts: Facts, now: float) -> list[Action]:
        """Rule 4."""
        assert self.active is not None  # Settling follows a move.
        if facts.heard > settling.since:
            if self.active in self._pauses:
                self._pauses[self.active] = replace(self._pauses[self.active], left=False, lossy=False)
            self._leap_after, self._leap_pause = now, RETRY[0]
            self._revive_after, self._revive_pause = now, REVIVAL[0]
            return self._arrived() + self._steady(facts, now)
        if now < settling.until:
            return []
        if facts.reached > settling.since and not settling.anew:
            return self._enter_anew(settling, facts, now)
        back = settling.fallback
        pinned = self._settings.sockets == "pinned"
        if back is not None and self._is_there(back) and (pinned or _carries(self.routes[0], back)):
            actions = self._reject(self.active, "no-answer", now, ROLLED_BACK_PAUSE)
            return actions + self._move(back, "rolled-back", facts, now)
        # No way back. That is a silent path, of which we know it already. What was lost may be the only packet in which
        # the peer asks about the new path (RFC 9000 §9.3): some never repeat it, but ask again from another port.
        self._suspect_active(facts, now)
        asked = self._ask_active(now) if self._revival(facts) is not None and now >= self._revive_after else []
        return [Ping(), *asked, *self._not_arrived("no-answer"), *self._steady(facts, now)]

    def _enter_anew(self, settling: Settling, facts: Facts, now: float) -> list[Action]:
        """The peer asked by PATH_CHALLENGE whether we are there, and does not seem to have got our answer. That may not
        be repeated (RFC 9000 §8.2.2), and some peers ask only once. But from another port they ask again."""
        assert self.active is not None
        round_trips, on_top = ANSWER_HEARD
        until = facts.reached + round_trips * (facts.reached - settling.since) + on_top
        if now < (until := min(until, settling.since + 2 * PATIENCE[1])):
            self._state = replace(settling, until=until)
            return []
        actions = self._move(self.active, "restored", facts, now)
        if isinstance(self._state, Settling):
            self._state = replace(self._state, fallback=settling.fallback, anew=True)
        return actions

    def _steady(self, facts: Facts, now: float) -> list[Action]:
        self._state = Steady()
        return self._look_around(facts, now)

    def _is_there(self, route: Route | None) -> bool:
        return any(_carries(r, route) for r in self.routes)

    def _others(self) -> list[Route]:
        return [r for r in self.routes if r != self.active]

    def _is_metered(self, route: Route) -> bool:
        return self._settings._is_metered(route.interface)

    def _best(self, routes: list[Route] | tuple[Route, ...]) -> Route:
        return next((r for r in routes if r == self._requested), routes[0])

    # No network ------------------------------------------------------------------------------------------------------

    def _hold(self, since: float) -> list[Action]:
        """Rules 7 and 8: an outage is waited out, with the engine's clock stopped so that no back-off grows."""
        self._state, self.active = Held(self.active, since), None
        self._watch = Quiet()
        return [Hold(), Report(NetworkLost())]

    def _woke(self, slept: float, now: float) -> list[Action]:
        """Rule 13. NATs have forgotten us, and the peer's timers have backed off, whatever the routes look like."""
        if not self._settings.auto or slept < NAP:
            return []
        if isinstance(self._state, Held):
            self._state = replace(self._state, since=self._state.since - slept)
            return []
        return self._hold(now - slept)

    def _held(self, held: Held, facts: Facts, now: float) -> list[Action]:
        if now >= held.since + self._settings.outage:
            self._state = GivenUp()
            return [GiveUp()]
        # RFC 9000 §9, §18.2: a peer that forbids migration knows us by the old address only. It may come back.
        forbidden = facts.peer_forbids and self._settings.sockets != "unconnected"
        routes = [r for r in self.routes if not forbidden or r == held.route]
        if not routes:
            return []
        route, self._state = routes[0], Steady()
        restored = Report(NetworkRestored(route.interface, now - held.since))
        blink = route == held.route and now < held.since + BLINK
        if forbidden or blink or self._settings.sockets == "unconnected":
            self.active = route
            return [Resume(route), Ping(), restored]
        # Also to the route that was used before: that makes a new path of it for the server, which tries it at once. On
        # the old one its back-off may have grown to many seconds.
        return [Resume(route), *self._move(route, "restored", facts, now), restored]

    def _follow_kernel(self, facts: Facts, now: float) -> list[Action]:
        """Unconnected sockets: the kernel moves the packets. All that can be done is to let one be sent."""
        if not self._settings.auto:
            return []
        first = self.routes[0] if self.routes else None
        if first == self.active:
            return []
        if first is None:
            return self._hold(now)
        before, self.active = self.active, first
        return [Ping()] if before is not None else []

    # Time ------------------------------------------------------------------------------------------------------------

    def _next_deadline(self, facts: Facts, now: float) -> float | None:
        times: list[float] = []
        match self._state:
            case Steady():
                wish = self._wish()
                if self._suspect and self._may_search(facts):
                    others = self._others()
                    times += [self._pauses[r].until for r in others if self._paused(r, now)]
                    if others and not self._server_answers:
                        times.append(self._leap_after)
                elif wish is not None and not facts.peer_forbids:
                    times.append(self._wish_after(*wish))
            case Probing(_, asked):
                times += [a.next for a in asked]
            case AwaitingId(until=until):
                times.append(min(until, now + ID_LOOK))
            case Settling(until=until):
                times.append(until)
            case Held(since=since):
                times.append(since + self._settings.outage)
            case GivenUp():
                return None
        match self._watch:
            case Listening(since, interval):
                times.append(min(max(facts.heard, since) + interval, self._broken_off(facts)))
            case Pinged(_, last, wait):
                times.append(last + wait)
            case Quiet():
                pass
        revival = self._revival(facts)
        if revival is not None:
            times.append(revival)
        if self._away_since is not None and not self._called_back:
            times.append(self._away_since + self._settings.max_time_on_non_default)
        earliest = min(times, default=math.inf)
        return max(now, earliest) if earliest < math.inf else None


def _carries(route: Route, used: Route | None) -> bool:
    """Rule 12: whether packets can go on leaving as they did, now that this is the kernel's choice for new ones."""
    return used is not None and (route == used or (route.index == used.index and used.source in route.addresses))


def _two_ptos(facts: Facts) -> float:
    return 2 * max(facts.pto, PTO_FLOOR)


def _answer_wait(asked: Asked, facts: Facts) -> float:
    """How long to wait after the next probe."""
    if asked.needed == 1 or asked.sent + 1 == asked.needed:
        return probe_wait(min(asked.sent, PROBES - 1), facts)
    return TRIAL_PAUSE


def probe_wait(sent: int, facts: Facts) -> float:
    """How long to wait after the next probe, when ``sent`` have gone before."""
    if sent + 1 == PROBES:
        return LAST_WAIT
    return min(max(2 * facts.best_rtt, PROBE_WAIT[0]) * 2.0**sent, PROBE_WAIT[1])
