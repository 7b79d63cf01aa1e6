"""The figure: rate over time by network as captured on the radios, with what happened; SVG and PNG from one drawing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.cli._demo.crossing import BIN
from whimbrel.cli._demo.report import fate, name, rates, sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from whimbrel.cli._demo.report import Report
    from whimbrel.testing import Sample

COLOURS = {"wwan0": "#e8871e", "wlan0": "#2878c8"}
_INK, _FAINT = "#2b2b2b", "#8a8a8a"
_LABELLED = 6
"""More events than these would cover each other with words."""
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
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        _draw(report, upper, lower)
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=160)
    return svg, png


def _draw(report: Report, upper: Axes, lower: Axes) -> None:
    crossing = report.crossing
    captured = crossing.captured
    end = crossing.ended - crossing.began
    _lane(upper, {interface: each.migrating for interface, each in captured.items()}, report, headroom=1.4)
    _lane(lower, {interface: each.standing for interface, each in captured.items()}, report, headroom=1.1)
    _events(report, upper, lower)
    _moves(report, upper)
    plan = crossing.plan
    migrating = crossing.migrating
    upper.legend(loc="upper right", frameon=False, ncols=2, bbox_to_anchor=(1, 1.16), borderaxespad=0)
    upper.set_title(
        f"whimbrel, {plan.sockets} sockets: {fate(migrating)}{', hash equal' if report.sha256_equal else ''}",
        loc="left", fontsize=10, fontweight="bold", pad=22,
    )  # fmt: skip
    lower.set_title(
        f"Python's http.client over TCP: {fate(crossing.standing)}", loc="left", fontsize=10, fontweight="bold"
    )
    lower.set_xlabel("seconds")
    lower.set_xlim(0, end)


def _lane(axes: Axes, by_interface: dict[str, list[Sample]], report: Report, *, headroom: float) -> None:
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
    axes.set_ylim(0, max(10.0, headroom * max(base or [0.0])))
    axes.set_ylabel("Mbit/s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)


def _events(report: Report, upper: Axes, lower: Axes) -> None:
    crossing = report.crossing
    for number, event in enumerate(crossing.events):
        at = event.time - crossing.began
        for axes in (upper, lower):
            axes.axvline(at, color=_INK, linewidth=0.8, linestyle=(0, (3, 2)))
        if number < _LABELLED:
            upper.annotate(
                sentence(event), (at, 1), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points",
                ha="center", va="bottom", fontsize=8,
            )  # fmt: skip


def _moves(report: Report, upper: Axes) -> None:
    for move in report.moves[:_LABELLED]:
        gap = f"{move.gap * 1000:.0f} ms" if math.isfinite(move.gap) else "for good"
        upper.annotate(
            f"to {name(move.target)}\ngap {gap}", (move.at - report.crossing.began, 0.97),
            xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points", va="top", fontsize=8,
        )  # fmt: skip
