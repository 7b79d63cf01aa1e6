"""Random journeys: whatever happens to the networks and on the way, the invariants of `traveller.py` hold.

These are always the same journeys, so that a failure is the change's. `make sim` goes on others, and more.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, example, given, settings

from tests.simulation.journey import Journey, Step, journeys
from tests.simulation.traveller import Traveller, travel


# A failing journey is not made short here, which can take minutes: `make sim` does that.
@settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(journeys)
# Requests came so quickly after each other that nobody was told when something was due again after a pause.
@example(Journey((Step("clean", 1),), "all", answers_probes=False, told=False, last="silence", seed=1))
# A server that answers no probes: its networks were asked in turns, and none of them was trusted for rounds.
@example(
    Journey((Step("flap", 0, 2, 0.0), Step("prefer", 2, 1, 0.0)), answers_probes=False, told=False, last="silence")
)
def test_a_journey_goes_well(journey: Journey) -> None:
    travel(journey)


def test_the_same_journey_goes_the_same_way() -> None:
    journey = Journey((Step("flap"), Step("lossy", 1, 3), Step("hurry", 0, 2), Step("copy", 0, 3)), "all", seed=7)
    traces: list[list[tuple[float, int]]] = []

    def watch(traveller: Traveller) -> None:
        traces.append([(datagram.time, len(datagram.data)) for datagram in traveller.internet.datagrams])

    for _ in range(2):
        travel(journey, watch)
    assert len(traces[0]) > 500
    assert traces[0] == traces[1]
