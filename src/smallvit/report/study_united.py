"""The figures of rows that unite changes: beside the sum of what these do alone, and a change at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from smallvit.report.figures import short
from smallvit.report.numbers import Numbers
from smallvit.report.rows_figure import finish, interval, key, mark_nothing, rows_figure
from smallvit.report.stats import Difference
from smallvit.report.svg import MUTED, TEST, VAL, Drawing


@dataclass(frozen=True, kw_only=True)
class _Step:
    label: str
    """What the row has that the one before has not."""
    accuracy: float
    gain: Difference | None
    """Over the row before; None of the reference."""


def united(numbers: Numbers) -> Iterator[Drawing]:
    """Yield those of the figures that there are rows for."""
    reference = numbers.section.study.reference
    if numbers.together:
        yield Drawing(
            name="together",
            title="Changes together, and the sum of what they do alone",
            caption=f"Differences from {reference} of rows that unite the changes of others; rings: the sum of the "
            "others' differences, with the 95 % interval of how far the two are apart where there are several seeds. A "
            "row outside of it does not add up, before a correction for the number of rows.",
            draw=lambda: _draw_together(numbers),
        )
    steps = _steps(numbers)
    if len(steps) > 2:
        yield Drawing(
            name="stack",
            title="A change at a time",
            caption=f"From {reference} to the best row that unites changes, a change at a time where such rows were "
            "run: above each row the best of those that lack some of its changes. Bars: the 95 % interval of the gain "
            "over the row above, where there are several seeds. The way is chosen by the same test accuracies, so the "
            "gains are rather too great.",
            draw=lambda: _draw_steps(numbers, steps),
        )


def _steps(numbers: Numbers) -> list[_Step]:
    """Return the way from the reference to the best row that has parts, by rows that have all but one of them."""
    study = numbers.section.study
    run = {line.label: line for line in numbers.lines}
    parts = {row.label: {*row.parts} or {row.label} for row in study.rows if row.label in run}
    parts[study.reference] = set()
    pairs = {(pair.label, pair.against): pair.difference for pair in numbers.pairs}
    found: list[_Step] = []

    def accuracy(label: str) -> float:
        return run[label].last.mean

    label = max((row.label for row in study.rows if row.parts and row.label in run), key=accuracy, default=None)
    while label is not None and label != study.reference:
        before = [other for one, other in pairs if one == label and parts[other] < parts[label]]
        last = max(before, key=accuracy, default=study.reference)
        gain = run[label].difference if last == study.reference else pairs[label, last]
        named = " and ".join(row.label for row in study.rows if row.label in parts[label] - parts[last])
        found.append(_Step(label=f"and {named}", accuracy=run[label].last.mean, gain=gain))
        label = last
    if label is not None:
        found.append(_Step(label=label, accuracy=run[label].last.mean, gain=None))
    return found[::-1]


def _draw_together(numbers: Numbers) -> Figure:
    figure, axes = rows_figure([each.label for each in numbers.together])
    mark_nothing(axes, len(numbers.together))
    for y, each in enumerate(numbers.together):
        if each.excess.tested:  # of how far the two are apart, so the interval stands around one of them
            axes.errorbar(each.expected, y, xerr=each.excess.half, color=TEST, linewidth=1.4, capsize=3)
        axes.plot(each.expected, y, "o", color=TEST, markerfacecolor="none", markersize=9, markeredgewidth=1.4)
        axes.plot(each.gain, y, "o", color=VAL, markersize=5.5)
    axes.set_xlabel(f"difference from {short(numbers.section.study.reference, 34)}, points")
    barred = any(each.excess.tested for each in numbers.together)
    of_both = "; 95 % interval of gain less sum" if barred else ""
    ring = key(f"sum of its parts alone{of_both}", "o", TEST, markersize=9, markerfacecolor="none")
    return finish(figure, numbers, [key("together", "o", VAL), ring])


def _draw_steps(numbers: Numbers, steps: list[_Step]) -> Figure:
    figure, axes = rows_figure([step.label for step in steps])
    for y, (before, step) in enumerate(zip([steps[0], *steps], steps, strict=False)):
        axes.plot([before.accuracy, step.accuracy], [y, y], color=MUTED, linewidth=1)
        interval(axes, y, step.accuracy, step.gain.half if step.gain else math.nan)
    axes.set_xlabel("test accuracy, %")
    barred = any(step.gain is not None and step.gain.tested for step in steps)
    of_gains = "; 95 % interval of the gain over the row above" if barred else ""
    return finish(figure, numbers, [key(f"mean{of_gains}", "o", VAL)])
