"""`Connection.probe`: a question that the application puts, repeated as the policy repeats its own.

No judgement and no I/O: what it measures is for the caller alone, who may want to know and not to move.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from whimbrel._policy import PROBES, probe_wait

if TYPE_CHECKING:
    import concurrent.futures

    from whimbrel._events import PathProbed
    from whimbrel._policy_words import Facts
    from whimbrel.network import Route


class Inquiry:
    """One call of `Connection.probe` that waits for an answer."""

    def __init__(self, route: Route, asking: concurrent.futures.Future[PathProbed]) -> None:
        self.route: Final = route
        self.asking: Final = asking
        self.deadline = -math.inf
        """When to ask again, or to stop asking."""
        self._sent = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether all has been asked that is worth asking: at the deadline it is over."""
        return self._sent == PROBES

    def ask(self, facts: Facts, now: float) -> None:
        """A probe is being sent."""
        self.deadline = now + probe_wait(self._sent, facts)
        self._sent += 1
