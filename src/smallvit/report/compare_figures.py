"""The learning curves of two sides in one figure, against the training images seen."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from smallvit.record import CurvePoint, RunRecord
from smallvit.report.cells import length_cell
from smallvit.report.compare_sides import Side, val_differs
from smallvit.report.figures import bound_accuracies, curve_axes, set_images_seen
from smallvit.report.svg import TEST, VAL, svg_of

COLOURS = {"A": VAL, "B": TEST}
"""The theme's two colours."""
_MARKERS = {"A": "o", "B": "D"}


def learning_curves(a: Side, b: Side) -> str:
    """Return accuracy on val (and on test, where it was read) and train loss of every run of both sides.

    Images seen mean the same for both, whatever they call an epoch. Val is left out where the sides hold out different
    images.
    """
    with_val = not val_differs(a.first, b.first)
    return svg_of("curves", "Accuracy and train loss of A and B", lambda: _draw(a, b, with_val=with_val))


def scaled(a: Side, b: Side) -> str:
    """Return what share of their full length the runs of the sides took; nothing if all took the whole."""
    parts = [f"{side.name} {length_cell(side.first.config.scale)}" for side in (a, b) if side.first.config.scale != 1]
    return f"scaled: {' and '.join(parts)} of the full length" if parts else ""


def _draw(a: Side, b: Side, *, with_val: bool) -> Figure:
    figure, top, bottom = curve_axes()
    unit = set_images_seen(bottom, max(run.record.curve[-1].images_seen for side in (a, b) for run in side.runs))
    for side in (a, b):
        for run in side.runs:
            _accuracies(top, side.name, run.record, unit, with_val=with_val)
            _losses(bottom, side.name, run.record, unit)
    bound_accuracies(top)
    top.legend(handles=list(_legend(a, b, with_val=with_val)), loc="best")
    figure.suptitle(scaled(a, b), color=TEST, fontsize=10, fontweight="bold")
    return figure


def _accuracies(axes: Axes, name: str, record: RunRecord, unit: float, *, with_val: bool) -> None:
    """Draw val as a line, and test as hollow marks: a single one where test was read once."""

    def line(split: str, points: list[CurvePoint], fill: str, style: str) -> None:
        seen = [point.images_seen / unit for point in points]
        values = [100 * getattr(point, split).accuracy for point in points]
        drawn = axes.plot(seen, values, style, color=COLOURS[name], linewidth=1.3, clip_on=False)
        for each in drawn:
            _mark(each, name, fill)

    if with_val:
        line("val", [point for point in record.curve if point.val], COLOURS[name], _dashes(name))
    line("test", [point for point in record.curve if point.test], "none", ":")


def _losses(axes: Axes, name: str, record: RunRecord, unit: float) -> None:
    ends = [0.0, *(point.images_seen / unit for point in record.curve)]
    means = np.array([point.train_loss for point in record.curve], dtype=float)
    axes.stairs(means, ends, baseline=None, color=COLOURS[name], linewidth=1.3, linestyle=_dashes(name))


def _dashes(name: str) -> Literal["-", "--"]:
    return "-" if name == "A" else "--"


def _mark(line: Line2D, name: str, fill: str) -> Line2D:
    line.set(marker=_MARKERS[name], markersize=4.5, markerfacecolor=fill)
    return line


def _legend(*sides: Side, with_val: bool) -> Iterator[Line2D]:
    for side in sides:
        name, colour = side.name, COLOURS[side.name]
        if with_val and any(point.val for run in side.runs for point in run.record.curve):
            yield _mark(Line2D([], [], color=colour, linestyle=_dashes(name), label=f"{name}, val"), name, colour)
        yield _mark(Line2D([], [], color=colour, linestyle=":", label=f"{name}, test"), name, "none")
