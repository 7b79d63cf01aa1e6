"""What all suites share: marks by folder, the event loop that async tests run on, and hypothesis' settings."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

# Who starts the tests in the background may have Ctrl-C ignored; programs that the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A folder's tests carry its mark, so that `-m "not lab"` leaves out what needs more than this process.
_MARKED_FOLDERS = ("lab", "interop")

# A run of CI that failed must fail again on another machine, so chance has no part in it; at a desk it is welcome.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("desk", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of the folders that have a mark of their own."""
    tests = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        if folder in _MARKED_FOLDERS:
            item.add_marker(folder)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on plain asyncio; one that concerns the loop itself overrides this."""
    return "asyncio"
