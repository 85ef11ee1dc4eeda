"""Figures with a line for each row of a study: their frame, and what is marked in them."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from smallvit.report.figures import label_scaled, legend_below, short
from smallvit.report.numbers import Numbers
from smallvit.report.svg import GRID, INK, VAL


def rows_figure(labels: Sequence[str]) -> tuple[Figure, Axes]:
    """Return axes with a line for each label, the first on top; a label stands above its line, however long it is."""
    figure = Figure(figsize=(5.4, 1.5 + 0.44 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for y, label in enumerate(labels):
        axes.axhline(y, color=GRID, linewidth=0.8, zorder=0)
        axes.text(0, y - 0.16, short(label, 58), transform=axes.get_yaxis_transform(), va="bottom", fontsize=10.5)
    axes.set_ylim(len(labels) - 0.5, -0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    return figure, axes


def mark_nothing(axes: Axes, count: int) -> None:
    """Draw the line of no difference, not through the labels."""
    axes.vlines([0.0] * count, [y - 0.14 for y in range(count)], [y + 0.4 for y in range(count)], INK, linewidth=0.9)


def interval(axes: Axes, y: int, mean: float, half: float, *, filled: bool = True) -> None:
    """Draw a mean on the line `y`, with a bar to both sides; none of nan."""
    if not math.isnan(half):
        axes.errorbar(mean, y, xerr=half, color=VAL, linewidth=1.6, capsize=3)
    axes.plot(mean, y, "o", color=VAL, markersize=5.5, markerfacecolor=VAL if filled else "none")


def finish(figure: Figure, numbers: Numbers, keys: list[Line2D]) -> Figure:
    """Return the figure with its keys and, where runs are scaled, with a word on that."""
    legend_below(figure, 2 if len(keys) > 1 else 1, keys)
    label_scaled(figure, numbers.section.scale)
    return figure


def key(label: str, marker: str, colour: str, **style: Any) -> Line2D:
    """Return a key of the legend."""
    settings: dict[str, Any] = {"markersize": 5.5, "linestyle": "none"} | style
    return Line2D([], [], marker=marker, color=colour, label=label, **settings)
