"""The figure: rate over time by network as captured on the radios, with what happened; SVG and PNG from one drawing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.cli._demo.crossing import BIN
from whimbrel.cli._demo.report import WAYS, bins, duration, fate, name, rates, sentence
from whimbrel.cli._figures import BLUE, FAINT, ORANGE, STYLE, label, mark, save, stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from whimbrel.cli._demo.lane import Client
    from whimbrel.cli._demo.messages import Direction
    from whimbrel.cli._demo.report import Happened, Moved, Report
    from whimbrel.testing import Sample

COLOURS = {"wwan0": ORANGE, "wlan0": BLUE}
_LABELLED = 6
"""More events than these would cover each other with words; one label stands for all then."""


def draw(report: Report, stem: Path) -> tuple[Path, Path]:
    """Write ``stem.svg`` and ``stem.png``; return their paths.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
        OSError: they cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    svg, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png"))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.8), layout="constrained", facecolor="white")
        _draw(report, figure)
        save(figure, svg)
        save(figure, png)
    return svg, png


def _draw(report: Report, figure: Figure) -> None:
    crossing = report.crossing
    curves = list(_curves(report))
    heights = [2 if client is crossing.migrating else 1 for client, *_ in curves]
    figure.set_size_inches(9, 2.0 + 0.935 * sum(heights))
    lanes = list(figure.subplots(len(curves), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    upper, last = lanes[0], lanes[-1]
    for axes, (client, direction, by_interface) in zip(lanes, curves, strict=True):
        _lane(axes, by_interface, report)
        lead = 10 if axes is upper else 6
        axes.set_title(_title(report, client, direction), loc="left", fontsize=10, fontweight="bold", pad=lead)
    _mark(report, lanes)
    # Beside the lower axis' name, where no title can reach it.
    figure.legend(*upper.get_legend_handles_labels(), loc="lower right", frameon=False, ncols=2, borderaxespad=0.1)
    last.set_xlabel("seconds")
    last.set_xlim(0, crossing.ended - crossing.began)


def _curves(report: Report) -> Iterator[tuple[Client, Direction, dict[str, list[Sample]]]]:
    """Go through what is drawn: bytes by network, downloads as captured, uploads as their receiver had them."""
    crossing = report.crossing
    for client in crossing.clients:
        for direction, transfer in client.transfers.items():
            if direction == "up" or not crossing.captured:
                yield client, direction, {name_: bins(each, BIN) for name_, each in transfer.carried.items()}
                continue
            ours = client is crossing.migrating
            captured = crossing.captured.items()
            yield client, direction, {name_: each.migrating if ours else each.standing for name_, each in captured}


def _title(report: Report, client: Client, direction: Direction) -> str:
    crossing = report.crossing
    way = "" if crossing.plan.direction == "down" else f", {WAYS[direction]}"
    text = f"{fate(client.transfers[direction])}"
    if client is not crossing.migrating:
        control = f" ({crossing.congestion_control})" if crossing.congestion_control else ""
        return f"Python's http.client over TCP{control}{way}: {text}"
    equal = ", hash equal" if report.equal(direction) else ""
    return f"whimbrel, {crossing.plan.sockets} sockets{way}: {text}{equal}"


def _lane(axes: Axes, by_interface: dict[str, list[Sample]], report: Report) -> None:
    """Rates on top of each other, cellular first: it is what the device begins with."""
    crossing = report.crossing
    curves = []
    for interface in sorted(by_interface, reverse=True):
        times, curve = rates(by_interface[interface], crossing.began, crossing.ended, BIN)
        curves.append((name(interface), COLOURS.get(interface, FAINT), times, curve))
    stack(axes, curves, least=10.0)


def _mark(report: Report, lanes: list[Axes]) -> None:
    """Lines where the networks changed, with words in the first lane's head."""
    crossing = report.crossing
    labels = labels_of(report)
    times = [happened.event.time - crossing.began for happened in report.events]
    mark(lanes, times, faint=len(times) > len(labels))
    label(lanes[0], labels, crossing.ended - crossing.began)


def labels_of(report: Report) -> list[tuple[float, str]]:
    """Return what to write where, in order: seconds since the beginning, and two lines of text."""
    began = report.crossing.began
    labels: list[tuple[float, str]] = []
    for happened, moves in report.story():
        at = (happened.event.time if happened is not None else moves[0].at) - began
        what = "" if happened is None else sentence(happened.event)
        labels.append((at, f"{what}\n{_cost(happened, moves)}".strip()))
    if len(labels) > _LABELLED:
        changes: list[Happened | Moved] = [*report.events, *report.moves]
        longest = max(gap.seconds for change in changes for gap in change.gaps.values())
        scenario = report.crossing.plan.scenario
        about = f"{len(report.moves)} moves" if scenario is None else scenario.about
        return [(labels[0][0], f"{about}\nlongest gap {duration(longest)}")]
    return labels


def _cost(happened: Happened | None, moves: list[Moved]) -> str:
    if happened is not None and happened.resumptions is not None:
        return f"resumed after {_each(happened.resumptions)}"
    gaps = moves[0].gaps if moves else happened.gaps if happened is not None else {}
    to = f"to {name(moves[0].target)}, " if moves else ""
    lengths = {direction: gap.seconds for direction, gap in gaps.items()}
    return f"{to}gap {_each(lengths)}" if all(map(math.isfinite, lengths.values())) else "and that was all"


def _each(seconds: dict[Direction, float]) -> str:
    if len(seconds) == 1:
        return "".join(map(duration, seconds.values()))
    return ", ".join(f"{direction} {duration(each)}" for direction, each in seconds.items())
