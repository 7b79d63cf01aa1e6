"""The figure: rate over time by network as captured on the radios, with what happened; SVG and PNG from one drawing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.cli._demo.crossing import BIN
from whimbrel.cli._demo.report import duration, fate, name, rates, sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from whimbrel.cli._demo.report import Happened, Moved, Report
    from whimbrel.testing import Sample

COLOURS = {"wwan0": "#e8871e", "wlan0": "#2878c8"}
_INK, _FAINT = "#2b2b2b", "#8a8a8a"
_LABELLED = 6
"""More events than these would cover each other with words; one label stands for all then."""
_ROWS, _ROW = 3, 0.28
"""Of labels: how many, and how high each is as part of the highest rate."""
_CHARACTER = 0.0078
"""How wide one is, as part of the figure's lane."""
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.hashsalt": "whimbrel",  # The same crossing gives the same file.
}


def draw(report: Report, stem: Path) -> tuple[Path, Path]:
    """Write ``stem.svg`` and ``stem.png``; return their paths.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
        OSError: they cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    svg, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png"))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 4.8), layout="constrained", facecolor="white")
        _draw(report, figure)
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=160)
    return svg, png


def _draw(report: Report, figure: Figure) -> None:
    crossing = report.crossing
    captured = crossing.captured
    count = len(crossing.lanes)
    lanes = figure.subplots(count, 1, sharex=True, squeeze=False, height_ratios=(2, 1)[:count])[:, 0]
    upper, last = lanes[0], lanes[-1]
    _lane(upper, {interface: each.migrating for interface, each in captured.items()}, report)
    if crossing.standing is not None:
        _lane(last, {interface: each.standing for interface, each in captured.items()}, report)
        how = f"Python's http.client over TCP ({crossing.congestion_control})"
        last.set_title(f"{how}: {fate(crossing.standing)}", loc="left", fontsize=10, fontweight="bold")
    _mark(report, list(lanes))
    plan = crossing.plan
    migrating = crossing.migrating
    # Beside the lower axis' name, where no title can reach it.
    figure.legend(*upper.get_legend_handles_labels(), loc="lower right", frameon=False, ncols=2, borderaxespad=0.1)
    upper.set_title(
        f"whimbrel, {plan.sockets} sockets: {fate(migrating)}{', hash equal' if report.sha256_equal else ''}",
        loc="left", fontsize=10, fontweight="bold", pad=10,
    )  # fmt: skip
    last.set_xlabel("seconds")
    last.set_xlim(0, crossing.ended - crossing.began)


def _lane(axes: Axes, by_interface: dict[str, list[Sample]], report: Report) -> None:
    """Rates on top of each other, cellular first: it is what the device begins with."""
    crossing = report.crossing
    base: list[float] | None = None
    for interface in sorted(by_interface, reverse=True):
        times, curve = rates(by_interface[interface], crossing.began, crossing.ended, BIN)
        base = base or [0.0] * len(curve)
        top = [below + own for below, own in zip(base, curve, strict=True)]
        axes.fill_between(
            times, base, top, step="post", color=COLOURS.get(interface, _FAINT), linewidth=0, label=name(interface)
        )
        base = top
    axes.set_ylim(0, max(10.0, 1.05 * max(base or [0.0])))
    axes.set_ylabel("Mbit/s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)


def _mark(report: Report, lanes: list[Axes]) -> None:
    """Lines where the networks changed, with words in the first lane's head."""
    upper = lanes[0]
    crossing = report.crossing
    labels = labels_of(report)
    faint = len(report.events) > len(labels)
    for happened in report.events:
        for axes in lanes:
            at = happened.event.time - crossing.began
            axes.axvline(at, color=_FAINT if faint else _INK, linewidth=0.4 if faint else 0.8, linestyle=(0, (3, 2)))
    rows = rows_of(labels, crossing.ended - crossing.began)
    _, top = upper.get_ylim()
    upper.set_ylim(0, top * (1.1 + _ROW * (max(rows, default=-1) + 1)))
    for (at, text), row in zip(labels, rows, strict=True):
        upper.annotate(
            text, (at, 1 - row * _ROW / (1.1 + _ROW * (max(rows) + 1))), xycoords=("data", "axes fraction"),
            xytext=(4, 0), textcoords="offset points", va="top", fontsize=8, linespacing=1.3,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip


def labels_of(report: Report) -> list[tuple[float, str]]:
    """Return what to write where, in order: seconds since the beginning, and two lines of text."""
    began = report.crossing.began
    labels: list[tuple[float, str]] = []
    for happened, moves in report.story():
        at = (happened.event.time if happened is not None else moves[0].at) - began
        what = "" if happened is None else sentence(happened.event)
        labels.append((at, f"{what}\n{_cost(happened, moves)}".strip()))
    if len(labels) > _LABELLED:
        longest = max(happened.gap for happened in report.events)
        return [(labels[0][0], f"{report.crossing.plan.scenario.about}\nlongest gap {duration(longest)}")]
    return labels


def rows_of(labels: list[tuple[float, str]], span: float) -> list[int]:
    """Give each label the first row where it covers none of those before, or else the one that is free the soonest."""
    rows, free = [], [-math.inf] * _ROWS
    for at, text in labels:
        row = next((row for row in range(_ROWS) if free[row] <= at), free.index(min(free)))
        free[row] = at + span * _CHARACTER * (max(map(len, text.split("\n"))) + 2)
        rows.append(row)
    return rows


def _cost(happened: Happened | None, moves: list[Moved]) -> str:
    if happened is not None and happened.resumption is not None:
        return f"resumed after {duration(happened.resumption)}"
    gap = moves[0].gap if moves else happened.gap if happened is not None else 0.0
    to = f"to {name(moves[0].target)}, " if moves else ""
    return f"{to}gap {duration(gap)}" if math.isfinite(gap) else "and that was all"
