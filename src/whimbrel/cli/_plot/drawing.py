"""The figure of a log: rate, RTT and congestion window over time, by path, with the moves marked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from whimbrel.cli._figures import BLUE, FAINT, ORANGE, STYLE, label, mark, plain, save, stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from whimbrel.cli._plot.trace import Move, PathTrace, Series, Trace

_COLOURS: Final = (ORANGE, BLUE, "#3a9a5b", "#a04fb0", "#c23b3b", "#6b6b6b", "#b59a1e", "#2aa5a5")
_BINS: Final = 400
"""Of a rate's curve, at most: narrower ones would be thinner than a line."""
_NARROWEST: Final = 1e-3
_LABELLED: Final = 6
"""More moves than these would cover each other with words."""
_NEGLIGIBLE: Final = 0.02
"""Which part of the other direction's bytes are mere acknowledgements."""


def draw(trace: Trace, title: str, output: Path) -> None:
    """Write the figure, as SVG or PNG by the path's ending.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
        OSError: it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", facecolor="white")
        _draw(trace, title, figure)
        save(figure, output)


def _draw(trace: Trace, title: str, figure: Figure) -> None:
    lanes = _lanes(trace)
    figure.set_size_inches(9, 1.2 + 1.5 * len(lanes))
    drawn: list[Axes] = list(figure.subplots(len(lanes), 1, sharex=True, squeeze=False)[:, 0])
    for axes, (name, paint) in zip(drawn, lanes, strict=True):
        paint(axes)
        axes.set_title(name, loc="left", fontsize=9, color=FAINT, pad=3)
        plain(axes)
    drawn[-1].set_xlabel("seconds")
    drawn[-1].set_xlim(0, max(trace.ended, _NARROWEST))
    for axes in drawn:
        for at in trace.probes:
            axes.axvline(at, color=FAINT, linewidth=0.6, linestyle=(0, (1, 3)))
    few = len(trace.moves) <= _LABELLED
    mark(drawn, [move.time for move in trace.moves], faint=not few)
    if few:
        label(drawn[0], [(move.time, _words(trace, move)) for move in trace.moves], trace.ended)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    handles, places = drawn[0].get_legend_handles_labels()
    legend = dict(zip(places, handles, strict=True))  # Each place once.
    columns = min(4, len(legend))
    figure.legend(legend.values(), legend.keys(), loc="outside lower right", frameon=False, ncols=columns)


def _lanes(trace: Trace) -> list[tuple[str, Callable[[Axes], None]]]:
    """What there is to draw, from the top."""
    received = sum(size for path in trace.paths for _, size in path.received)
    sent = sum(size for path in trace.paths for _, size in path.sent)
    lanes: list[tuple[str, Callable[[Axes], None]]] = []
    if received > _NEGLIGIBLE * sent:
        lanes.append(("received", lambda axes: _rates(axes, trace, lambda path: path.received)))
    if sent > _NEGLIGIBLE * received:
        lanes.append(("sent", lambda axes: _rates(axes, trace, lambda path: path.sent)))
    if any(path.rtt for path in trace.paths):
        lanes.append(("smoothed RTT", lambda axes: _steps(axes, trace, lambda path: path.rtt, 1e3, "ms")))
    if any(path.window for path in trace.paths):
        lanes.append(("congestion window; thin: bytes in flight", lambda axes: _windows(axes, trace)))
    return lanes


def _rates(axes: Axes, trace: Trace, of: Callable[[PathTrace], Series]) -> None:
    width = bin_width(trace.ended)
    together: dict[str, Series] = {}
    for path in trace.paths:
        together.setdefault(_place(trace, path), []).extend(of(path))
    colours = _colours(trace)
    stack(
        axes,
        [(place, colours[place], *rates(series, trace.ended, width)) for place, series in together.items()],
        least=0.1,
    )


def _steps(
    axes: Axes, trace: Trace, of: Callable[[PathTrace], Series], unit: float, name: str, *, thin: bool = False
) -> None:
    colours = _colours(trace)
    for path in trace.paths:
        place = _place(trace, path)
        # A value holds until the next; and the last as long as the path is used.
        series = of(path)
        series = [*series, (_end_of_use(path), series[-1][1])] if series else []
        axes.step(
            [time for time, _ in series], [value * unit for _, value in series],
            where="post", color=colours[place], linewidth=0.6 if thin else 1.3, alpha=0.6 if thin else 1, label=place,
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_ylabel(name)


def _windows(axes: Axes, trace: Trace) -> None:
    _steps(axes, trace, lambda path: path.window, 1e-3, "kB")
    _steps(axes, trace, lambda path: path.in_flight, 1e-3, "kB", thin=True)


def _words(trace: Trace, move: Move) -> str:
    """What to write at a move."""
    text = f"to {_place(trace, move.path)}"
    if move.abandoned:
        return f"{text}\ntaken back"
    return text if move.complete is None else f"{text}\nworks after {1000 * (move.complete - move.time):.0f} ms"


def _place(trace: Trace, path: PathTrace) -> str:
    """Name what tells this path from the others: our address on a client, the client's on a server, or its number.

    A network that is used again has a new port each time, but is the same network.
    """
    ends = [_differing(trace, each) for each in trace.paths]
    own = _differing(trace, path)
    if own is None or None in ends:
        return f"path {path.name or 0}"
    hosts = [(each or "").rpartition(":")[0] for each in ends]
    return own.rpartition(":")[0] if len(set(hosts)) > 1 else own


def _differing(trace: Trace, path: PathTrace) -> str | None:
    return path.remote if trace.side == "server" else path.local


def _colours(trace: Trace) -> dict[str, str]:
    places = dict.fromkeys(_place(trace, path) for path in trace.paths)
    return {place: _COLOURS[number % len(_COLOURS)] for number, place in enumerate(places)}


def _end_of_use(path: PathTrace) -> float:
    return max(series[-1][0] for series in (path.received, path.sent, path.rtt, path.window, path.in_flight) if series)


def bin_width(span: float) -> float:
    """Return a round number of seconds that divides a time into no more bins than can be seen."""
    least = max(span / _BINS, _NARROWEST)
    magnitude = 10.0 ** math.floor(math.log10(least))
    return next(step * magnitude for step in (1, 2, 5, 10) if step * magnitude >= least * (1 - 1e-9))


def rates(series: Series, ended: float, width: float) -> tuple[list[float], list[float]]:
    """Turn packets into a curve: the times at which bins begin, and Mbit/s."""
    bins = [0.0] * (math.floor(ended / width) + 2)
    for time, size in series:
        bins[math.floor(time / width)] += size
    return [number * width for number in range(len(bins))], [size * 8e-6 / width for size in bins]
