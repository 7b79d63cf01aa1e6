"""How the command line's figures look, and what they share: colours, stacked rates, marks with words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#2b2b2b"
FAINT: Final = "#8a8a8a"
ORANGE: Final = "#e8871e"
BLUE: Final = "#2878c8"
STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "whimbrel",  # The same data gives the same file.
}
_ROWS, _ROW = 3, 0.28
"""Of labels: how many, and how high each is as part of the highest value."""
_CHARACTER = 0.0078
"""How wide one is, as part of the figure's lane."""


def save(figure: Figure, path: Path) -> None:
    """Write the figure, in the format of the path's ending.

    Raises:
        OSError: it cannot be written.
    """
    if path.suffix == ".svg":
        figure.savefig(path, metadata={"Date": None})
    else:
        figure.savefig(path, dpi=160)


def stack(axes: Axes, curves: Iterable[tuple[str, str, Sequence[float], Sequence[float]]], *, least: float) -> None:
    """Draw rates on top of each other: label, colour, times and Mbit/s of each. The axis goes to `least` at least."""
    base: list[float] | None = None
    for label, colour, times, curve in curves:
        base = base or [0.0] * len(curve)
        top = [below + own for below, own in zip(base, curve, strict=True)]
        axes.fill_between(times, base, top, step="post", color=colour, linewidth=0, label=label)
        base = top
    axes.set_ylim(0, max(least, 1.05 * max(base or [0.0])))
    axes.set_ylabel("Mbit/s")
    plain(axes)


def plain(axes: Axes) -> None:
    """Leave out what tells nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)


def mark(lanes: Sequence[Axes], times: Iterable[float], *, faint: bool = False) -> None:
    """Draw a line through all lanes where something happened."""
    for at in times:
        for axes in lanes:
            axes.axvline(at, color=FAINT if faint else INK, linewidth=0.4 if faint else 0.8, linestyle=(0, (3, 2)))


def label(axes: Axes, labels: list[tuple[float, str]], span: float) -> None:
    """Write words into the lane's head, which grows for them."""
    rows = rows_of(labels, span)
    _, top = axes.get_ylim()
    axes.set_ylim(0, top * (1.1 + _ROW * (max(rows, default=-1) + 1)))
    for (at, text), row in zip(labels, rows, strict=True):
        axes.annotate(
            text, (at, 1 - row * _ROW / (1.1 + _ROW * (max(rows) + 1))), xycoords=("data", "axes fraction"),
            xytext=(4, 0), textcoords="offset points", va="top", fontsize=8, linespacing=1.3,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip


def rows_of(labels: list[tuple[float, str]], span: float) -> list[int]:
    """Give each label the first row where it covers none of those before, or else the one that is free the soonest."""
    rows, free = [], [-math.inf] * _ROWS
    for at, text in labels:
        row = next((row for row in range(_ROWS) if free[row] <= at), free.index(min(free)))
        free[row] = at + span * _CHARACTER * (max(map(len, text.split("\n"))) + 2)
        rows.append(row)
    return rows
