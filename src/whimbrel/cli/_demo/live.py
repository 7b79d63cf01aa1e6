"""The crossing in the terminal: two lanes that redraw themselves, or plain lines where there is no terminal."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

from whimbrel.cli._demo.report import duration, fate, name, sentence
from whimbrel.cli._progress import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.text import Text

    from whimbrel.cli._demo.crossing import Crossing
    from whimbrel.cli._demo.lane import Change, Client, Progress
    from whimbrel.cli._demo.race import Show
    from whimbrel.testing import Event

COLOURS = {"wlan0": "dodger_blue1", "wwan0": "dark_orange"}
_OTHER = "grey50"
_BAR = 36
_STALL = 0.3
"""Seconds without a byte from which a lane says so."""
_LINE_INTERVAL = 1.0
_ARROWS = {"down": "↓", "up": "↑"}


def show(output: TextIO) -> Show:
    """Return the kind that suits the output."""
    if output.isatty() and find_spec("rich") is not None and (output.encoding or "").lower().startswith("utf"):
        return Lanes(output)
    return Lines(output)


class Lines:
    """A line for each thing that happens, and one a second."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._due = 0.0

    def begin(self, crossing: Crossing) -> None:
        self._print(title(crossing))
        self._due = crossing.began + _LINE_INTERVAL

    def event(self, at: float, event: Event) -> None:
        self._print(f"{at:6.2f} s  {sentence(event)}")

    def change(self, at: float, change: Change) -> None:
        self._print(f"{at:6.2f} s  whimbrel {happening(change)}")

    def tick(self, crossing: Crossing, now: float) -> None:
        if now < self._due:
            return
        self._due += _LINE_INTERVAL
        lanes = [
            f"{title_} {how_far(lane)}, {state(client, lane, now)}"
            for title_, client, lane in rows(crossing)
            if lane.ended is None or lane.ended > now - _LINE_INTERVAL
        ]
        self._print(f"{now - crossing.began:6.2f} s  {'; '.join(lanes)}")

    def close(self) -> None:
        pass

    def _print(self, text: str) -> None:
        print(text, file=self._output, flush=True)


class Lanes:
    """Two lanes that redraw themselves below the lines that stay."""

    def __init__(self, output: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=output, highlight=False)
        # Drawn when `tick` is called: a thread that draws would compete with the one that changes the networks.
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._moves = 0
        self._gaps: list[float] = []

    def begin(self, crossing: Crossing) -> None:
        self._console.print(title(crossing), style="bold", markup=False)
        self._live.start()

    def event(self, at: float, event: Event) -> None:
        from rich.text import Text

        self._say(at, Text(sentence(event), style=f"bold {COLOURS.get(event.interface, _OTHER)}"))

    def change(self, at: float, change: Change) -> None:
        from rich.text import Text

        if change.kind == "Gap":
            self._gaps.append(change.facts["seconds"])
        self._moves += change.kind == "PathMigrated"
        self._say(at, Text(f"whimbrel {happening(change)}", style="bold" if change.kind == "PathMigrated" else "dim"))

    def tick(self, crossing: Crossing, now: float) -> None:
        self._live.update(self._draw(crossing, now), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _say(self, at: float, text: Text) -> None:
        from rich.text import Text

        self._console.print(Text.assemble((f"{at:6.2f} s  ", "dim"), text))

    def _draw(self, crossing: Crossing, now: float) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        moves = self._told()
        for title_, client, lane in rows(crossing):
            at = now if lane.ended is None else min(now, lane.ended)
            table.add_row(
                Text(title_, style="bold"),
                _bar(lane),
                how_far(lane) if lane.total else "",
                size(lane.received),
                Text(state(client, lane, at), style=_style(client, lane, at)),
                moves,
            )
            moves = ""  # In the first row alone: they are the connection's.
        return table

    def _told(self) -> str:
        moves = f"{self._moves} move{'' if self._moves == 1 else 's'}"
        gaps = ", ".join(f"{1000 * gap:.0f}" for gap in self._gaps[-3:])
        return f"{moves}, gaps {gaps} ms" if gaps else moves


def title(crossing: Crossing) -> str:
    """Say what is about to happen."""
    plan = crossing.plan
    how = f"{plan.sockets} sockets{'' if plan.auto else ', nobody watching the network'}"
    if plan.scenario is None:
        return f"{plan.server}, over this machine's own networks: change them and see. whimbrel with {how}."
    about = plan.scenario.about
    server = plan.server if plan.dispatch is None else f"{plan.server}'s server ({plan.dispatch} sockets)"
    what = {"down": f"from {server}", "up": f"to {server}", "both": f"from and to {server}"}[plan.direction]
    return f"{size(plan.size)} {what} over 5G. {about[0].upper()}{about[1:]}. whimbrel with {how}."


def rows(crossing: Crossing) -> Iterator[tuple[str, Client, Progress]]:
    """Go through what is shown: each transfer with its title and its client."""
    for client in crossing.clients:
        for direction, transfer in client.transfers.items():
            alone = crossing.plan.direction == "down"
            yield client.name if alone else f"{client.name} {_ARROWS[direction]}", client, transfer


def how_far(lane: Progress) -> str:
    """Say how much has come."""
    return f"{100 * lane.fraction:3.0f} %" if lane.total else size(lane.received)


def state(client: Client, lane: Progress, now: float) -> str:
    """Say what a lane is doing now."""
    if lane.ended is not None:
        return fate(lane)
    silent = now - lane.last_byte
    if silent >= _STALL:
        return f"nothing for {silent:.1f} s"
    over = f" over {name(client.interface)}" if client.interface else ""
    return f"{lane.rate(now) * 8e-6:.0f} Mbit/s{over}"


def happening(change: Change) -> str:
    """Say what happened to a path."""
    facts = change.facts
    match change.kind:
        case "PathMigrated":
            return f"moved from {name(facts['source'])} to {name(facts['target'])} ({facts['reason']})"
        case "PathProbed":
            return f"was answered over {name(facts['interface'])} in {facts['rtt'] * 1000:.0f} ms"
        case "PathRejected":
            return f"stays away from {name(facts['interface'])} ({facts['reason']})"
        case "Gap":
            which = "uploaded data" if facts["direction"] == "up" else "data"
            return f"was {duration(facts['seconds'])} without {which} around that move"
        case "NetworkLost":
            return "has no network, and holds on"
        case "NetworkRestored":
            return f"has a network again after {facts['outage']:.1f} s: {name(facts['interface'])}"
        case kind:
            return kind


def _bar(lane: Progress) -> Text:
    """A bar whose colours are the networks that carried the bytes."""
    from rich.text import Text

    bar, filled, carried = Text(), 0, 0
    # Of a size that nobody tells, all that has come is the whole bar.
    whole = max(lane.total or lane.received, 1)
    for stretch in lane.stretches:
        carried += stretch.size
        until = min(round(_BAR * carried / whole), _BAR)
        bar.append("━" * (until - filled), COLOURS.get(stretch.interface or "", _OTHER))
        filled = until
    bar.append("━" * (_BAR - filled), "grey23")
    return bar


def _style(client: Client, lane: Progress, now: float) -> str:
    if lane.ended is not None:
        return "green" if lane.whole else "red"
    return "red" if now - lane.last_byte >= _STALL else COLOURS.get(client.interface or "", _OTHER)
