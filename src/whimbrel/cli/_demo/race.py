"""The clients, from the moment they are ready until all are done."""

from __future__ import annotations

import selectors
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from whimbrel.cli._demo.lane import Teller

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Sequence

    from whimbrel.cli._demo.crossing import Crossing
    from whimbrel.cli._demo.lane import Change, Progress
    from whimbrel.testing import Event

_TICK = 0.125
_START_PATIENCE = 20.0
_LAST_WORDS = 3.0


class CrossingFailed(Exception):
    """The clients could not be started."""


class Show(Protocol):
    """Where the crossing is watched from."""

    def begin(self, crossing: Crossing) -> None:
        """The clients begin now."""

    def event(self, at: float, event: Event) -> None:
        """The journey took a step, so many seconds after the beginning."""

    def change(self, at: float, change: Change) -> None:
        """Something happened to the migrating client's path."""

    def tick(self, crossing: Crossing, now: float) -> None:
        """Some time has passed."""

    def close(self) -> None:
        """Leave the terminal as it was."""


@dataclass(frozen=True, slots=True)
class Patience:
    """What a client is given: seconds."""

    silence: float
    """Without a byte, and without a change of the networks."""
    limit: float
    """In all."""


class Race:
    """All clients at the same time."""

    def __init__(
        self,
        crossing: Crossing,
        clients: Sequence[Teller],
        show: Show,
        patience: Patience,
        *,
        servers: Sequence[Teller] = (),
        steps: queue.SimpleQueue[Event] | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Prepare it.

        Args:
            crossing: takes what happens.
            clients: their processes, the migrating one first.
            show: is told of it.
            patience: after which a client is given up.
            servers: processes of servers that tell of uploads.
            steps: of a journey, as they are taken.
            progress: called with the part of the migrating client's transfer that is done.
        """
        self._crossing = crossing
        self._clients = clients
        self._servers = servers
        self._show = show
        self._patience = patience
        self._steps = steps
        self._progress = progress
        self._last_event = 0.0

    def run(self) -> None:
        """Let them begin, and wait until all are done.

        Raises:
            CrossingFailed: they did not start.
        """
        with selectors.DefaultSelector() as selector:
            for teller in (*self._clients, *self._servers):
                selector.register(teller, selectors.EVENT_READ)
            self._wait_until_ready(selector)
            self._begin()
            while any(teller.client.ended is None for teller in self._clients):
                self._read(selector, _TICK)
                now = time.monotonic()
                self._show.tick(self._crossing, now)
                for teller in self._clients:
                    self._lose_patience(teller, now)
            self._hear_last_words(selector)

    def _wait_until_ready(self, selector: selectors.BaseSelector) -> None:
        give_up = time.monotonic() + _START_PATIENCE
        while not all(teller.is_ready for teller in self._clients):
            if time.monotonic() > give_up:
                raise CrossingFailed("the demo's clients did not start in time: is this machine very busy?")
            self._read(selector, 0.1)
        if any(teller.is_closed for teller in self._clients):
            raise CrossingFailed("the demo's clients did not start: see above")

    def _begin(self) -> None:
        while self._steps is not None and not self._steps.empty():
            self._steps.get()  # What the journey begins with is no event.
        now = self._crossing.began = self._last_event = time.monotonic()
        for teller in self._clients:
            teller.client.begin(now)
            teller.go()
        self._show.begin(self._crossing)

    def _read(self, selector: selectors.BaseSelector, timeout: float) -> None:
        ready = selector.select(timeout)
        self._take_steps()  # Before what the clients made of them.
        for key, _ in ready:
            teller = key.fileobj
            assert isinstance(teller, Teller), "nothing else was registered"
            for change in teller.read(time.monotonic()):
                self._show.change(change.at - self._crossing.began, change)
            if teller.is_closed:
                selector.unregister(teller)
        self._progress(self._crossing.migrating.fraction)

    def _take_steps(self) -> None:
        while self._steps is not None and self._crossing.began and not self._steps.empty():
            event = self._steps.get()
            self._last_event = event.time
            self._crossing.events.append(event)
            self._show.event(event.time - self._crossing.began, event)

    def _lose_patience(self, teller: Teller, now: float) -> None:
        for progress in teller.client.transfers.values():
            if progress.ended is None and (why := self._why_give_up(progress, now)) is not None:
                progress.finish(now, why)
                teller.stop()

    def _why_give_up(self, progress: Progress, now: float) -> str | None:
        percent = int(100 * progress.fraction)
        if now - max(progress.last_byte, self._last_event) > self._patience.silence:
            return f"stalled at {percent} %, given up after {now - progress.last_byte:.0f} s without a byte"
        if now - progress.began > self._patience.limit:
            return f"at {percent} % when its time was up, after {self._patience.limit:.0f} s"
        return None

    def _hear_last_words(self, selector: selectors.BaseSelector) -> None:
        """A client that was given up still tells what it had."""
        give_up = time.monotonic() + _LAST_WORDS
        while not all(teller.is_closed for teller in self._clients) and time.monotonic() < give_up:
            self._read(selector, 0.1)
