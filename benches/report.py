"""How figures that depend on a number are drawn: curves with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Failed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curve(axes: Axes, label: str, found: Mapping[float, Sequence[float]], **look: Any) -> None:
    """Draw medians by number, and the range around them."""
    numbers = sorted(number for number, values in found.items() if values)
    if not numbers:
        raise Failed(f"there is nothing to draw of {label}")
    middle = [statistics.median(found[number]) for number in numbers]
    (line,) = axes.plot(numbers, middle, marker="o", markersize=4, label=label, **look)
    least, most = ([pick(found[number]) for number in numbers] for pick in (min, max))
    axes.fill_between(numbers, least, most, color=line.get_color(), alpha=0.15, linewidth=0)


def save(figure: Figure, path: Path) -> None:
    """Write ``path.svg`` and ``path.png``; the same figures make the same files."""
    for ending in (".svg", ".png"):
        metadata = {"Date": None} if ending == ".svg" else {"Software": None}
        figure.savefig(path.with_suffix(ending), metadata=metadata, dpi=120)
