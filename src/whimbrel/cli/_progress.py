"""How a download shows its progress: a live bar on a terminal, plain lines elsewhere, nothing when told so."""

from __future__ import annotations

import contextlib
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from whimbrel.cli import fail, message

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

BAR_INTERVAL = 0.1
"""Seconds between refreshes of a bar: it looks alive, and costs nothing to speak of."""
LINE_INTERVAL = 5.0
"""Seconds between plain lines, which stay in a log."""


class Progress(Protocol):
    """Where a download reports to. One at a time."""

    interval: float
    """Seconds between calls of `update`."""

    def start(self, name: str, total: int | None) -> None:
        """A download begins; ``total``: its bytes, if the server said."""

    def update(self, received: int, rate: float, interface: str | None) -> None:
        """How far it is: bytes, bytes a second lately, and the network that carries it."""

    def rename(self, name: str) -> None:
        """What is shown is called otherwise now."""

    def note(self, text: str) -> None:
        """Something happened, such as a move: one line that stays."""

    def complain(self, problem: object) -> None:
        """Something went wrong: one line that stays, whatever else is shown."""

    def done(self, text: str) -> None:
        """It ended; ``text`` is its line."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def progress(*, quiet: bool) -> Progress:
    """The kind that suits standard error."""
    if quiet:
        return Silent()
    if sys.stderr.isatty() and find_spec("rich") is not None:
        return Bar()
    return Lines()


class Silent:
    """Shows nothing."""

    interval = LINE_INTERVAL

    def start(self, name: str, total: int | None) -> None:
        pass

    def update(self, received: int, rate: float, interface: str | None) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def complain(self, problem: object) -> None:
        fail(problem)

    def done(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines(Silent):
    """A line now and then."""

    def start(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = total

    def update(self, received: int, rate: float, interface: str | None) -> None:
        share = f" of {size(self._total)} ({100 * received // self._total} %)" if self._total else ""
        self._print(f"{self._name}: {size(received)}{share} at {size(rate)}/s{_over(interface)}")

    def rename(self, name: str) -> None:
        self._name = name

    def note(self, text: str) -> None:
        self._print(text)

    def done(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        # A log that nobody reads any more is no reason to stop a download.
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


class Bar:
    """One line that redraws itself; what stays is printed above it."""

    interval = BAR_INTERVAL

    def __init__(self) -> None:
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, name: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self.close()
        self._progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("[bold cyan]{task.fields[interface]}"),
            console=Console(stderr=True),
            # Drawn when `update` is called: a thread that draws would take the GIL at moments of its own choosing.
            auto_refresh=False,
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(name, total=total, rate="", interface="")

    def update(self, received: int, rate: float, interface: str | None) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, completed=received, rate=f"{size(rate)}/s", interface=interface or "", refresh=True
            )

    def rename(self, name: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=name)

    def complain(self, problem: object) -> None:
        if self._progress is None:
            fail(problem)
        else:
            self.note(message(problem))

    def note(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def done(self, text: str) -> None:
        self.close()
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def size(count: float) -> str:
    """Bytes for a person, in powers of ten: ``60.0 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def _over(interface: str | None) -> str:
    return f" over {interface}" if interface else ""
