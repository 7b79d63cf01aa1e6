"""What happens to a device's networks during a transfer, and when.

Steps wait for a part of the transfer to be done, so that they fall on the same place however fast it is, or for time to
pass, when nothing is transferred meanwhile.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from whimbrel.testing._laboratory import AccessNetwork, Laboratory

Action = Literal["join", "leave", "down", "silence", "speak", "rebind", "renew", "none"]
"""``none``: the network stays as it is: what a transfer meets then is what changes are measured against."""
NetworkName = Literal["wifi", "cellular"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to one network, once ``at`` of the transfer is done and the step before it is."""

    network: NetworkName
    action: Action
    at: float = 0.0
    """Part of the transfer, 0 to 1."""
    after: float = 0.0
    """Seconds more to wait."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A journey in steps. Those without conditions at its head are what the device has at first."""

    name: str
    about: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """A step that was taken."""

    time: float
    """When it began, on the clock of `time.monotonic`. It is complete some milliseconds later."""
    interface: str
    action: Action


_ON_CELLULAR = Step("cellular", "join")
_WIFI_APPEARS = Step("wifi", "join", at=0.25)


def outage(seconds: float = 20.0, *, back: NetworkName = "wifi") -> Scenario:
    """No network at all for a time in the middle of the transfer; then the same one, or the other."""
    name = "outage" if back == "wifi" else "outage-same"
    which = "Wi-Fi" if back == "wifi" else "the same network"
    lost = Step("cellular", "down", at=0.4)
    found = Step(back, "join", after=seconds)
    return Scenario(name, f"no network for {seconds:g} s, then {which}", (_ON_CELLULAR, lost, found))


def flapping(changes: int = 30, *, pause: float = 0.1) -> Scenario:
    """Wi-Fi comes and goes; it is gone at last if the number of changes is even."""
    actions: tuple[Action, Action] = ("join", "down")
    flaps = tuple(Step("wifi", actions[number % 2], after=pause) for number in range(1, changes))
    about = f"Wi-Fi comes and goes every {pause:g} s, {changes} times"
    return Scenario("flapping", about, (_ON_CELLULAR, _WIFI_APPEARS, *flaps))


_HARD_CUT = (_ON_CELLULAR, _WIFI_APPEARS, Step("wifi", "down", at=0.6))

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("demo", "Wi-Fi appears at 25 %, and is cut at 60 %", _HARD_CUT),
        Scenario("overlap", "Wi-Fi appears at 25 %, and both networks stay", (_ON_CELLULAR, _WIFI_APPEARS)),
        Scenario("hard-cut", "Wi-Fi appears at 25 %, and its link goes down at 60 %", _HARD_CUT),
        outage(),
        outage(back="cellular"),
        Scenario(
            "black-hole",
            "Wi-Fi appears at 25 %, and from 60 % carries nothing, with link and address as they were",
            (_ON_CELLULAR, _WIFI_APPEARS, Step("wifi", "silence", at=0.6)),
        ),
        Scenario(
            "portal",
            "Wi-Fi appears at 25 %, and never carries anything",
            (_ON_CELLULAR, Step("wifi", "silence"), _WIFI_APPEARS),
        ),
        Scenario(
            "nat-rebind",
            "the router forgets its translations at 25 % and at 60 %",
            (_ON_CELLULAR, Step("cellular", "rebind", at=0.25), Step("cellular", "rebind", at=0.6)),
        ),
        flapping(),
        Scenario("calm", "nothing happens", (_ON_CELLULAR, Step("cellular", "none", at=0.25))),
    )
}
"""Every scenario by name, with its defaults."""


class Journey:
    """A scenario under way in a laboratory. Steps run on a thread of its own, beside the transfer.

        with Journey(lab, SCENARIOS["hard-cut"]) as journey:
            ...
            journey.progress(received / total)

    On entry the device has what the scenario begins with. On exit, steps that are left are not taken any more.
    """

    def __init__(self, lab: Laboratory, scenario: Scenario, *, on_event: Callable[[Event], None] | None = None) -> None:
        """Prepare it.

        Args:
            lab: where nothing has been joined yet.
            scenario: what is to happen.
            on_event: called for each step when it begins; on the journey's thread but for the first ones.
        """
        self.scenario = scenario
        self.events: list[Event] = []
        """The steps taken so far."""
        self._networks: dict[NetworkName, AccessNetwork] = {"wifi": lab.wifi, "cellular": lab.cellular}
        self._on_event = on_event
        self._news = threading.Condition()
        self._fraction = 0.0
        self._awaited = 2.0  # The part of the transfer that the next step waits for.
        self._stopped = False
        self._failure: BaseException | None = None
        conditional = [index for index, step in enumerate(scenario.steps) if step.at > 0 or step.after > 0]
        self._first = conditional[0] if conditional else len(scenario.steps)
        self._thread = threading.Thread(target=self._run, name="journey")

    def progress(self, fraction: float) -> None:
        """Tell which part of the transfer is done, 0 to 1. Cheap; from any thread; later calls may say less."""
        with self._news:
            self._fraction = max(self._fraction, fraction)
            if self._fraction >= self._awaited:
                self._news.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the last step is taken, at most so many seconds; return whether it is."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Take no further step.

        Raises:
            Exception: whatever a step on the thread failed with.
        """
        with self._news:
            self._stopped = True
            self._news.notify_all()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        for step in self.scenario.steps[: self._first]:
            self._take(step)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            for step in self.scenario.steps[self._first :]:
                if not self._due(step):
                    return
                self._take(step)
        except BaseException as error:  # noqa: BLE001 (told by stop())
            self._failure = error

    def _due(self, step: Step) -> bool:
        """Wait for a step's conditions; return False when the journey is stopped first."""
        with self._news:
            self._awaited = step.at
            self._news.wait_for(lambda: self._stopped or self._fraction >= step.at)
            return not self._news.wait_for(lambda: self._stopped, timeout=step.after)

    def _take(self, step: Step) -> None:
        network = self._networks[step.network]
        event = Event(time.monotonic(), network.interface, step.action)
        self.events.append(event)
        if self._on_event is not None:
            self._on_event(event)
        match step.action:
            case "silence":
                network.silence(True)
            case "speak":
                network.silence(False)
            case "none":
                pass
            case action:
                getattr(network, action)()
