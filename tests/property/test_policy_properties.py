"""The policy in random worlds: networks that come, go, answer, keep silent; a server and an application with moods.

The world is consistent: what it tells the policy follows from what the policy did. What must hold whatever happens is
checked at every step, and at the end the world comes to rest and the policy must have found its way.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import math
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from whimbrel._config import Migration, Sockets
from whimbrel._policy import PROBE_BURST, PROBE_RATE, MigrationPolicy
from whimbrel._policy_words import (
    Accepted,
    Action,
    ApplicationWrote,
    ControlProbe,
    Event,
    GiveUp,
    Hold,
    Migrate,
    MoveCancelled,
    MoveRequested,
    Ping,
    Probe,
    ProbeAnswered,
    Refuse,
    Report,
    Resume,
    RoutesChanged,
    SendFailed,
    ServerSilent,
    Tick,
    Woke,
)
from whimbrel.network import Route

ROUTES = [
    Route("wlan0", 3, "10.2.0.2"),
    Route("wwan0", 2, "10.1.0.2"),
    Route("eth0", 4, "10.3.0.2"),
    Route("wlan0", 3, "10.2.0.99"),
]
BESIDE = replace(ROUTES[3], addresses=("10.2.0.2", "10.2.0.99"))
"""The first route's interface, whose address is still there, but the kernel prefers another."""
RTTS = [0.010, 0.040, 0.005, 0.300]
OUTAGE = 20.0
TICKS_PER_SECOND = 50
"""Timers of all kinds together. Probes alone are ten; a loop without delay would be thousands."""


@dataclass(frozen=True)
class Known:
    heard: float = -math.inf
    reached: float = -math.inf
    flowing: float = math.inf
    due: bool = False
    rtt: float = 0.040
    pto: float = 0.100
    spare_ids: int = 3
    peer_forbids: bool = False
    confirmed: bool = True
    best_rtt: float = 0.005
    packets_sent: int = 0
    packets_lost: int = 0


@dataclass
class World:
    """Networks, a server and an application around one policy, with a clock of its own."""

    policy: MigrationPolicy
    mode: Migration
    facts: Known
    routes: tuple[Route, ...]
    carrying: set[Route]
    answers: bool  # does the server answer probes?
    streaming: bool  # does it send all the time while something is due, or only answer?
    now: float = 0.0
    pending: list[tuple[float, int, Event | None, Route | None]] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    probes: list[float] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)
    held: bool = False
    held_since: float = 0.0
    over: bool = False
    asked: int = 0  # requests handed in …
    settled: int = 0  # … and answered
    flowing_since: float = 0.0
    pto: float = 0.0
    slept: float = 0.0  # what the event under way says of a suspension
    losing: set[Route] = field(default_factory=set)
    sent_until: float = 0.0
    left_for_losses: float = -math.inf
    answer_lost: bool = False  # the one to the next PATH_CHALLENGE will be; or has been, over this path
    mute: bool = False

    def __post_init__(self) -> None:
        self.pto = self.facts.pto

    def is_there(self, route: Route | None) -> bool:
        """The kernel may prefer another address of that interface."""
        return any(each == route or (route and route.source in each.addresses) for each in self.routes)

    def works(self, route: Route | None) -> bool:
        return self.is_there(route) and route in self.carrying

    def carries(self) -> bool:
        return self.works(self.policy.active) and not self.mute

    def later(self, delay: float, event: Event | None, over: Route | None = None) -> None:
        heapq.heappush(self.pending, (self.now + delay, next(self.numbers), event, over))

    def tell(self, event: Event) -> None:
        if self.streaming and self.facts.due and self.carries() and self.now >= self.flowing_since:
            self.facts = replace(self.facts, heard=self.now, flowing=self.flowing_since)
            self.send()
        before = self.policy.active
        actions = self.policy.handle(event, self.facts, self.now)
        for action in actions:
            self.carry_out(action, before)
        deadline = self.policy.deadline
        assert deadline is None or deadline >= self.now
        if not self.facts.confirmed:
            assert all(isinstance(action, Refuse | Report) for action in actions)

    def send(self) -> None:
        """A hundred packets a second, of which a fifth may be lost."""
        sent = min(1000, round(100 * (self.now - self.sent_until)))
        lost = sent // 5 if self.policy.active in self.losing else 0
        if sent:
            self.sent_until = self.now
            known = self.facts
            self.facts = replace(known, packets_sent=known.packets_sent + sent, packets_lost=known.packets_lost + lost)

    def carry_out(self, action: Action, before: Route | None) -> None:
        assert not self.over
        match action:
            case Probe(route):
                assert self.is_there(route)
                assert route != before or self.now - self.facts.heard >= 2.0  # a silent path is asked itself
                self.probes.append(self.now)
                if self.answers and self.works(route):
                    self.later(RTTS[ROUTES.index(route)], ProbeAnswered(route, RTTS[ROUTES.index(route)]))
            case ControlProbe(route):
                assert route == before
                self.probes.append(self.now)
                answer = ProbeAnswered(route, 0.04) if self.answers else ServerSilent(route)
                if self.works(route):
                    self.later(RTTS[ROUTES.index(route)] if self.answers else 1.0, answer)
            case Migrate(route, reason):
                assert not self.held
                if reason == "lossy":
                    assert self.mode.sockets == "pinned"
                    assert self.answers
                    assert not self.mode._is_metered(route.interface)
                    assert self.now - self.left_for_losses >= 4.0, "two networks are swapped"
                    self.left_for_losses = self.now
                assert self.is_there(route)
                assert route == self.policy.active
                assert self.mode.sockets != "unconnected"
                assert self.facts.confirmed
                assert not self.facts.peer_forbids
                ids = max(0, self.facts.spare_ids - 1)
                self.facts = replace(self.facts, heard=-math.inf, reached=-math.inf, flowing=math.inf, spare_ids=ids)
                self.answer_lost, self.mute = False, self.answer_lost
                self.facts = replace(self.facts, pto=max(self.pto, 2 * RTTS[ROUTES.index(route)]))
                self.flowing_since = self.now + RTTS[ROUTES.index(route)]
                self.echo(route)
            case Ping():
                assert not self.held
                assert self.mode.auto or self.asked > self.settled
                self.echo(self.policy.active)
            case Hold():
                assert not self.held
                self.held, self.held_since = True, self.now - self.slept
            case Resume(route):
                assert self.held
                assert route in self.routes
                self.held = False
            case GiveUp():
                assert self.held
                assert self.now >= self.held_since + OUTAGE
                self.over = True
            case Accepted() | Refuse():
                self.settled += 1
                assert self.settled <= self.asked
            case Report():
                pass

    def echo(self, route: Route | None) -> None:
        if route is not None and self.works(route):
            self.later(RTTS[ROUTES.index(route)], None, route)

    def run(self, seconds: float) -> None:
        """Let time pass: answers arrive, timers fire."""
        end = self.now + seconds
        while True:
            due = min(self.policy.deadline or math.inf, self.pending[0][0] if self.pending else math.inf)
            if self.policy.deadline == 0.0:
                due = 0.0
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            if self.pending and self.pending[0][0] <= self.now:
                _, _, event, over = heapq.heappop(self.pending)
                if event is not None:
                    self.tell(event)
                elif over == self.policy.active and self.works(over) and self.mute:
                    self.facts = replace(self.facts, reached=self.now)
                    self.tell(Tick())
                elif over == self.policy.active and self.works(over):
                    # An answer to a PING: news of the first packet; and the server sends new connection IDs.
                    self.facts = replace(self.facts, heard=self.now, spare_ids=min(3, self.facts.spare_ids + 1))
                    self.tell(Tick())
            else:
                self.ticks.append(self.now)
                # No loop without delay: in each second only so many.
                recent = self.ticks[-TICKS_PER_SECOND - 1 :]
                assert len(recent) <= TICKS_PER_SECOND or recent[-1] - recent[0] >= 1.0, recent
                self.tell(Tick())

    def check_probes(self) -> None:
        for first in range(len(self.probes)):
            for window in (PROBE_BURST, 4 * PROBE_BURST):
                last = first + window
                if last < len(self.probes):
                    allowed = PROBE_BURST + PROBE_RATE * (self.probes[last] - self.probes[first])
                    assert window + 1 <= allowed + 1e-6


orders = st.permutations(ROUTES[:3]).flatmap(
    lambda order: st.integers(0, 3).map(lambda length: tuple(order[:length]))
) | st.sampled_from([(ROUTES[3], ROUTES[1]), (BESIDE, ROUTES[1])])
steps = st.one_of(
    st.tuples(st.just("routes"), orders),
    st.tuples(st.just("routes"), orders),
    st.tuples(st.just("carry"), st.sets(st.sampled_from(ROUTES))),
    st.tuples(st.just("lose"), st.sets(st.sampled_from(ROUTES))),
    st.tuples(st.just("refuse"), st.sampled_from([errno.ENETUNREACH, errno.EPERM, errno.EINVAL])),
    st.tuples(st.just("request"), st.none() | st.sampled_from(ROUTES)),
    st.tuples(st.just("cancel"), st.none()),
    st.tuples(st.just("due"), st.booleans()),
    st.tuples(st.just("stray"), st.sampled_from(ROUTES)),
    st.tuples(st.just("exhaust"), st.none()),
    st.tuples(st.just("answer"), st.none()),
    st.tuples(st.just("sleep"), st.sampled_from([1.0, 5.0, 15.0])),
)
pauses = st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.1, 0.5, 2.0, 10.0, 40.0])
journeys = st.lists(st.tuples(pauses, steps), max_size=40)


def take(world: World, kind: str, value: object) -> None:
    match kind, value:
        case "routes", tuple():
            world.routes = value
            world.tell(RoutesChanged(value))
        case "carry", set():
            world.carrying = value
        case "lose", set():
            world.losing = value
        case "refuse", int() if world.policy.active is not None:
            world.tell(SendFailed(world.policy.active, value))
        case "request", None | Route() if world.asked == world.settled:
            world.asked += 1
            world.tell(MoveRequested(value))
        case "cancel", _:
            world.settled = world.asked
            world.tell(MoveCancelled())
        case "due", bool():
            world.facts = replace(world.facts, due=value)
            world.tell(ApplicationWrote() if value else Tick())
        case "stray", Route():
            if world.answers:
                world.tell(ProbeAnswered(value, 0.01))
        case "sleep", float():
            world.held_since -= value
            world.slept = value
            world.tell(Woke(value))
            world.slept = 0.0
        case "answer", _:
            world.answer_lost = True
        case "exhaust", _:
            world.facts = replace(world.facts, spare_ids=0)
        case _:
            pass


def build(mode: Migration, facts: Known, *, answers: bool, streaming: bool) -> World:
    first = ROUTES[1]
    policy = MigrationPolicy(mode, first)
    return World(policy, mode, facts, (first,), set(ROUTES), answers, streaming)


@given(
    journeys,
    st.sampled_from(["pinned", "pinned", "unconnected", "connected"]),
    st.booleans(),
    st.builds(Known, due=st.booleans(), peer_forbids=st.booleans(), pto=st.sampled_from([0.005, 0.1, 2.0])),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
    st.sampled_from([(), ("wwan*",), ("wlan*", "eth*")]),
    st.sampled_from([math.inf, 3.0, 30.0]),
)
@settings(max_examples=300, deadline=None)
def test_whatever_happens_it_keeps_its_promises(
    journey: list[tuple[float, tuple[str, object]]],
    sockets: Sockets,
    auto: bool,
    facts: Known,
    answers: bool,
    streaming: bool,
    confirmed_after: int,
    metered: tuple[str, ...],
    longest_away: float,
) -> None:
    metered = metered if sockets == "pinned" else ()
    mode = Migration(sockets=sockets, auto=auto, outage=OUTAGE, metered=metered, max_time_on_non_default=longest_away)
    world = build(mode, replace(facts, confirmed=False), answers=answers, streaming=streaming)
    for number, (pause, (kind, value)) in enumerate(journey):
        if number == confirmed_after:
            world.facts = replace(world.facts, confirmed=True)
            world.tell(Tick())
        take(world, kind, value)
        world.run(pause)
    world.run(100.0)
    world.check_probes()
    if world.facts.confirmed and not world.over:
        assert world.settled == world.asked, "a request was never answered"


@given(journeys, orders.filter(bool), st.data(), st.booleans(), st.sampled_from([0.005, 0.1, 2.0]))
@settings(max_examples=300, deadline=None)
def test_when_the_world_comes_to_rest_it_is_on_the_best_network_that_works(
    journey: list[tuple[float, tuple[str, object]]],
    routes: tuple[Route, ...],
    data: st.DataObject,
    streaming: bool,
    pto: float,
) -> None:
    world = build(Migration(outage=1000.0), Known(due=True, pto=pto), answers=True, streaming=streaming)
    for pause, (kind, value) in journey:
        take(world, kind, value)
        world.run(pause)
    world.facts = replace(world.facts, due=True)
    take(world, "cancel", None)
    take(world, "carry", data.draw(st.sets(st.sampled_from(routes), min_size=1)))
    take(world, "routes", routes)
    take(world, "lose", set())
    world.tell(ApplicationWrote())
    world.run(25.0)
    assert world.works(world.policy.active), "a network that works is found within the longest pause between PINGs"
    world.run(60.0)
    best = next(route for route in routes if world.works(route))
    if world.works(routes[0]) and not world.policy._chosen:
        assert world.policy.active is not None
        assert world.policy.active.index == best.index
    moved = world.policy.active
    world.run(100.0)
    assert world.policy.active == moved


@given(journeys, orders.filter(bool), st.data())
@settings(max_examples=150, deadline=None)
def test_a_server_that_answers_no_probes_is_reached_all_the_same(
    journey: list[tuple[float, tuple[str, object]]], routes: tuple[Route, ...], data: st.DataObject
) -> None:
    world = build(Migration(outage=1000.0), Known(due=True), answers=False, streaming=True)
    for pause, (kind, value) in journey:
        take(world, kind, value)
        world.run(pause)
    world.facts = replace(world.facts, due=True)
    take(world, "cancel", None)
    take(world, "carry", data.draw(st.sets(st.sampled_from(routes), min_size=1)))
    take(world, "routes", routes)
    world.tell(ApplicationWrote())
    # Each wrong guess doubles the pause before the next.
    world.run(60.0)
    assert any(world.works(route) for route in routes)
    settled = world.policy.active
    while not world.works(settled) and world.now < 10_000.0:
        world.run(10.0)
        settled = world.policy.active
    assert world.works(settled)
