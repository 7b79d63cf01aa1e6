"""One connection under way: its policy's decisions, carried out on the core.

Neither thread nor clock: the driver calls it on the control thread, and a simulation in virtual time. What it cannot do
by itself (send a probe, ask for routes) it asks of its `Surroundings`.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, Protocol, assert_never

from whimbrel import _core
from whimbrel._errors import ConnectionLost, MigrationError, NoAnswer, NoRoute, OutageTimeout, migration_error
from whimbrel._events import (
    NetworkLost,
    NetworkRestored,
    PathChange,
    PathMigrated,
    PathProbed,
    PathRejected,
)
from whimbrel._inquiry import Inquiry
from whimbrel._own_policy import policy_for
from whimbrel._path import Path
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

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Sequence

    from whimbrel._config import Migration
    from whimbrel.network import Route

logger = logging.getLogger("whimbrel")

CONFIRMATION: Final = 0.02
"""Seconds between looks for the confirmation of the handshake, which is no event; it takes a round trip at most."""
CONTROL_TIMES: Final = (0.0, 0.3, 0.7)
"""When the working path is asked whether this server answers probes at all, …"""
CONTROL_END: Final = 1.2
"""… and when it is said to answer none."""
SERVERS_KEPT: Final = 256

_silent_servers: OrderedDict[tuple[str, int], None] = OrderedDict()
"""Servers that do not answer probes. To ask them again for each connection would cost a second each time."""


class Surroundings(Protocol):
    """What a connection needs from whoever steers it."""

    def routes(self, address: str) -> Sequence[Route]:
        """All ways to a peer now, the kernel's choice first."""

    def probe(self, steering: Steering, route: Route, now: float) -> None:
        """Ask the server over that route, from a socket of its own; `Steering.answered` is told.

        Raises:
            OSError: the kernel refuses.
        """

    def plan(self, steering: Steering) -> None:
        """`Steering.deadline` may be another."""

    @property
    def few(self) -> bool:
        """Whether there is time to look at each connection many times a second."""


class Steering:
    """Joins one client connection of the core to a `MigrationPolicy`."""

    def __init__(
        self,
        endpoint: _core.Endpoint,
        core: _core.Connection,
        peer: str,
        settings: Migration,
        surroundings: Surroundings,
        report: Callable[[PathChange | ConnectionLost], None],
        now: float,
        active: Route | None,
    ) -> None:
        self.remote = core.remote_address()
        self.over = False
        self._endpoint = endpoint
        self._core = core
        self._peer = peer
        self._settings = settings
        self._surroundings = surroundings
        self._report = report
        self._policy = policy_for(settings, active, peer)
        self._route = active
        self._since = now
        self._confirmed = False
        self._looked = now
        self._probing: dict[str, Route] = {}
        self._control: tuple[Route, float, int] | None = None
        self._moving: concurrent.futures.Future[Path] | None = None
        self._inquiries: list[Inquiry] = []
        self._events: deque[Event] = deque()
        self._note_route()
        if self.remote in _silent_servers and active is not None:
            self._handle(ServerSilent(active), now)

    # What is told from outside ----------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When to call `tick` at the latest."""
        times = [time for time in (self._policy.deadline, self._confirmation(), self._control_time()) if time]
        times += [inquiry.deadline for inquiry in self._inquiries]
        return min(times) if times and not self.over else None

    @property
    def is_due(self) -> bool:
        """Whether an answer or data are expected."""
        try:
            return not self.over and self._core.facts().due
        except RuntimeError:
            return False  # It is gone; the news of that are on their way.

    def tick(self, now: float) -> None:
        """The deadline has come."""
        if self.over:
            return
        self._looked = now
        self._control_tick(now)
        self._inquire(now)
        self._handle(Tick(), now)

    def ask_routes(self, now: float) -> None:
        """The network may have changed: ask, and tell the policy."""
        if not self.over:
            self._handle(RoutesChanged(tuple(self._settings._in_order(self._surroundings.routes(self.remote[0])))), now)

    def woke(self, slept: float, now: float) -> None:
        """The machine was suspended for so many seconds; the networks may be others now."""
        if not self.over:
            self.ask_routes(now)
            self._handle(Woke(slept), now)

    def core_news(self, now: float) -> None:
        """The core has news for whoever decides about paths."""
        if not self.over:
            self.hear(self._endpoint.control_news(), now)

    def hear(self, news: Sequence[tuple[int, int, int]], now: float) -> None:
        """What the core had to say."""
        for _, kind, value in news:
            if self.over:
                return
            if kind == _core.LOST:
                self.end()
            elif kind == _core.SEND_FAILED:
                refused = self._policy.active
                # What the kernel says now may explain it, and is newer than any news of it.
                self.ask_routes(now)
                if refused is not None and self._policy.active == refused:
                    self._handle(SendFailed(refused, value), now)
            elif kind == _core.DUE:
                self._handle(ApplicationWrote(), now)
            else:
                self._handle(Tick(), now)

    def answered(self, route: Route, rtt: float, now: float) -> None:
        """The server answered a probe over that route."""
        if self.over:
            return
        if self._control is not None and route == self._control[0]:
            self._control = None
        _silent_servers.pop(self.remote, None)
        self._note_probed(route.interface, "probing_successful")
        self._inquiry_answered(route, rtt)
        self._handle(ProbeAnswered(route, rtt), now)

    def request_move(self, interface: str | None, moving: concurrent.futures.Future[Path], now: float) -> None:
        """The application calls ``migrate()``; its future is resolved when the policy has decided."""
        if not moving.set_running_or_notify_cancel():
            return  # Nobody waits for it any more. From now on it is ours alone to resolve.
        if self.over:
            moving.set_exception(ConnectionLost(peer=self._peer))
            return
        if self._moving is not None:
            moving.set_exception(MigrationError("another move is under way", peer=self._peer, path=self.path()))
            return
        self._moving = moving
        self.ask_routes(now)
        routes = self._policy.routes
        route = next((route for route in routes if route.interface == interface), None)
        if interface is not None and route is None:
            self._refuse("no-route")
            return
        self._handle(MoveRequested(route), now)

    def cancel_move(self, moving: concurrent.futures.Future[Path], now: float) -> None:
        """Nobody waits for that move any more. It may be decided, or was refused because another is under way."""
        if moving is self._moving:
            self._moving = None
            self._handle(MoveCancelled(), now)

    def request_probe(self, interface: str | None, asking: concurrent.futures.Future[PathProbed], now: float) -> None:
        """The application calls ``probe()``; its future is resolved when the server answers or does not."""
        if not asking.set_running_or_notify_cancel():
            return
        if self.over:
            asking.set_exception(ConnectionLost(peer=self._peer))
            return
        self.ask_routes(now)
        route = next((route for route in self._policy.routes if interface in (None, route.interface)), None)
        if route is None:
            asking.set_exception(NoRoute(peer=self._peer, path=self.path()))
        elif any(inquiry.route == route for inquiry in self._inquiries):
            text = f"{route.interface} is being asked already"
            asking.set_exception(MigrationError(text, peer=self._peer, path=self.path()))
        else:
            self._inquiries.append(Inquiry(route, asking))
            self._inquire(now)

    def cancel_probe(self, asking: concurrent.futures.Future[PathProbed], _now: float) -> None:
        """Nobody waits for that answer any more."""
        self._inquiries = [inquiry for inquiry in self._inquiries if inquiry.asking is not asking]

    def end(self) -> None:
        """The connection is over, or nobody cares for it any more."""
        self.over = True
        inquiries, self._inquiries = self._inquiries, []
        for inquiry in inquiries:
            inquiry.asking.set_exception(ConnectionLost(peer=self._peer))
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.set_exception(ConnectionLost(peer=self._peer))

    def path(self) -> Path:
        """The path in use."""
        facts, stats = self._core.facts(), self._core.stats()
        host, port = self._core.local_address()
        route = self._route
        return Path(
            local=(route.source if route is not None else host, port),
            remote=self.remote,
            interface=route.interface if route is not None else None,
            validated=facts.heard > -math.inf,
            rtt=stats.rtt,
            mtu=stats.mtu,
            since=self._since,
        )

    # What the policy decides ------------------------------------------------------------------------------------------

    def _handle(self, event: Event, now: float) -> None:
        """Take an event to the policy and carry out what it says. What that leads to waits for its turn."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        try:
            while self._events:
                self._handle_one(self._events[0], now)
                self._events.popleft()
        finally:
            self._events.clear()
            self._surroundings.plan(self)

    def _handle_one(self, event: Event, now: float) -> None:
        if self.over:
            return
        try:
            facts = self._core.facts(self._surroundings.few)
        except RuntimeError:  # It is gone; the news of that are on their way.
            self.end()
            return
        self._confirmed = facts.confirmed
        actions = self._policy.handle(event, facts, now)
        if self._settings.sockets == "unconnected":
            self._route = self._policy.active or self._route
            self._note_route()
        elif self._route == self._policy.active:
            self._route = self._policy.active  # Its interface may have another name by now.
        if logger.isEnabledFor(logging.DEBUG) and actions:
            logger.debug("%s: %s -> %s", self._peer, event, actions)
        # The old path must not be used again between the clock's start and the move, so the move goes first.
        actions.sort(key=lambda action: isinstance(action, Resume))
        for action in actions:
            self._carry_out(action, now)

    def _carry_out(self, action: Action, now: float) -> None:
        match action:
            case Probe(route):
                self._note_probing(route)
                self._probe(route, now)
            case ControlProbe(route):
                self._control = (route, now, 0)
                self._control_tick(now)
            case Migrate():
                self._migrate(action, now)
            case Ping():
                self._core.ping()
            case Hold():
                self._endpoint.hold(True)
            case Resume(route):
                self._route = route
                self._endpoint.hold(False)
            case Accepted():
                moving, self._moving = self._moving, None
                if moving is not None:
                    moving.set_result(self.path())
            case Refuse(slug):
                self._refuse(slug)
            case GiveUp():
                self.end()
                text = f"no network for {self._settings.outage:g} s"
                self._report(OutageTimeout(text, peer=self._peer))
            case Report(change):
                self._tell(change)
            case _:
                assert_never(action)

    def _migrate(self, action: Migrate, now: float) -> None:
        route, old = action.route, self.path()
        heard = self._core.facts().heard
        self._core.rest(action.rest)
        try:
            if self._settings.sockets == "connected":
                fresh_id = self._core.use_connected_socket(route.index, route.source)
            else:
                # From a new port: one seen on both networks would link them, where no NAT changes it. And a server that
                # still has the old path in mind (quic-go, for some seconds) takes the new port for the new path it is.
                # Of a move that is taken back the server may know nothing: there the old port needs no validation.
                fresh_id = self._core.pin(route.index, route.source, action.reason != "rolled-back")
        except OSError as error:
            # The network went away while we decided. The news of it will come; this makes it sooner.
            logger.debug("%s: cannot move to %s: %s", self._peer, route.interface, error)
            self._handle(SendFailed(route, error.errno or 0), now)
            return
        self._route, self._since = route, now
        # A packet may have come since the turn began.
        silence = max(0.0, now - heard) if heard > -math.inf else now - old.since
        self._tell(PathMigrated(old, self.path(), action.reason, silence, linkable=not fresh_id))

    def _refuse(self, slug: str) -> None:
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.set_exception(migration_error(slug, peer=self._peer, path=self.path()))

    def _tell(self, change: PathChange) -> None:
        match change:
            case PathMigrated(old, new, reason, silence, linkable):
                traceable = "; an observer of both could link them, no connection ID was left" if linkable else ""
                was, to = old.interface or "nothing", new.interface
                text = "%s: moved from %s to %s (%s; last heard %.0f ms before%s)"
                logger.info(text, self._peer, was, to, reason, silence * 1000, traceable)
            case NetworkLost():
                logger.info("%s: no network; holding on for %g s", self._peer, self._settings.outage)
            case NetworkRestored(interface, outage):
                logger.info("%s: %s leads there again, after %.1f s", self._peer, interface, outage)
            case PathRejected(interface, reason):
                self._note_probed(interface, "probing_abandoned")
                logger.info("%s: not moving to %s: %s", self._peer, interface, reason)
            case PathProbed(interface, rtt):
                logger.debug("%s: the server answers over %s, in %.0f ms", self._peer, interface, rtt * 1000)
        self._report(change)

    # What the qlog cannot know by itself ------------------------------------------------------------------------------

    def _note_route(self) -> None:
        if self._settings.sockets == "unconnected" and self._route is not None:
            self._core.leaves_from(self._route.source)

    def _note_probing(self, route: Route) -> None:
        """Once for all the probes of one question."""
        if self._probing.get(route.interface) != route:
            self._probing[route.interface] = route
            self._core.probing("probing_started", route.source)

    def _note_probed(self, interface: str, state: str) -> None:
        route = self._probing.pop(interface, None)
        if route is not None:
            self._core.probing(state, route.source)

    # Probes -----------------------------------------------------------------------------------------------------------

    def _probe(self, route: Route, now: float) -> None:
        try:
            self._surroundings.probe(self, route, now)
        except OSError as error:
            self._handle(SendFailed(route, error.errno or 0), now)

    def _inquire(self, now: float) -> None:
        if not self._inquiries:
            return
        self._ask_inquiries(now)
        self._surroundings.plan(self)

    def _ask_inquiries(self, now: float) -> None:
        try:
            facts = self._core.facts()
        except RuntimeError:  # It is gone; the news of that are on their way.
            self.end()
            return
        for inquiry in [inquiry for inquiry in self._inquiries if inquiry.deadline <= now]:
            if inquiry.is_exhausted:
                self._inquiries.remove(inquiry)
                self._note_probed(inquiry.route.interface, "probing_abandoned")
                text = f"no answer over {inquiry.route.interface}"
                if self.remote in _silent_servers:
                    text += ", but then this server answers no probes at all"
                inquiry.asking.set_exception(NoAnswer(text, peer=self._peer, path=self.path()))
            else:
                inquiry.ask(facts, now)
                self._note_probing(inquiry.route)
                self._probe(inquiry.route, now)

    def _inquiry_answered(self, route: Route, rtt: float) -> None:
        answered = [inquiry for inquiry in self._inquiries if inquiry.route == route]
        self._inquiries = [inquiry for inquiry in self._inquiries if inquiry.route != route]
        for inquiry in answered:
            inquiry.asking.set_result(PathProbed(route.interface, rtt))

    def _control_tick(self, now: float) -> None:
        """Rule 10 of the policy: ask the path that works whether this server answers at all."""
        if self._control is None:
            return
        route, begun, sent = self._control
        if sent < len(CONTROL_TIMES) and now >= begun + CONTROL_TIMES[sent]:
            self._control = route, begun, sent + 1
            self._probe(route, now)
        elif now >= begun + CONTROL_END:
            self._control = None
            if self._core.facts().heard > begun and route == self._policy.active:
                _silent_servers[self.remote] = None
                while len(_silent_servers) > SERVERS_KEPT:
                    _silent_servers.popitem(last=False)
                self._handle(ServerSilent(route), now)

    def _control_time(self) -> float | None:
        if self._control is None:
            return None
        _, begun, sent = self._control
        return begun + (CONTROL_TIMES[sent] if sent < len(CONTROL_TIMES) else CONTROL_END)

    def _confirmation(self) -> float | None:
        # RFC 9001 §4.1.2: HANDSHAKE_DONE; until then nothing may move (RFC 9000 §9).
        if self._confirmed or not (self._settings.auto or self._moving):
            return None
        return self._looked + CONFIRMATION
