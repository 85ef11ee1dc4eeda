"""The figures of a study: its rows beside the paper's, their differences, learning curves, the confusion matrix.

`drawings` gives all of them, those of `study_united`, `study_scatters` and `study_costs` too, for a page or as files.
Each is labelled where runs are scaled.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from smallvit.report.collect import Section
from smallvit.report.figures import bound_accuracies, draw_confusion, label_scaled, legend_below, set_images_seen, short
from smallvit.report.numbers import Line, Numbers
from smallvit.report.records import Run
from smallvit.report.rows_figure import finish, interval, key, mark_nothing, rows_figure
from smallvit.report.study_costs import costs
from smallvit.report.study_scatters import scatters
from smallvit.report.study_united import united
from smallvit.report.svg import INK, MUTED, SERIES, TEST, VAL, Drawing

MOST_COLOURED = 7
"""Learning curves beside the reference's that a reader can tell apart."""
_THINNED = "; of many rows the reference, the best and the worst are named, the others are thin lines."
_STYLES = ("-", "--", "-.", ":")


def drawings(numbers: Numbers) -> Iterator[Drawing]:
    """Yield the figures that the records of a section, its reference's among them, have something to show in."""
    reference = numbers.section.study.reference
    yield Drawing(
        name="accuracy",
        title="Test accuracy of each row",
        caption="Filled: mean of the last epoch, with its 95 % interval over seeds where there are several, by the "
        "scatter of all rows; compare rows by their differences, since a seed shifts all alike. Small dots: single "
        f"seeds{_marks(numbers)}.",
        draw=lambda: _draw_accuracy(numbers),
    )
    differing = [line for line in numbers.lines if line.difference and not math.isnan(line.difference.mean)]
    if differing:
        hollow = f", each row's own; hollow: {_unresolved(differing)}" if numbers.any_tested else ""
        paired = any(line.published_difference is not None for line in differing)
        diamonds = _published_marks(numbers, "diamonds: the same of the published numbers") if paired else ""
        yield Drawing(
            name="differences",
            title=f"Differences from {reference}",
            caption=f"Differences from {reference} at the last epoch, paired by seed, with 95 % intervals where there "
            f"are several seeds{hollow}{diamonds}.",
            draw=lambda: _draw_differences(numbers, differing),
        )
    yield from united(numbers)
    yield from scatters(numbers)
    yield from costs(numbers)
    split = _curve_split(numbers.section)
    if split is not None:
        yield Drawing(
            name="curves",
            title="Learning curves",
            caption=f"Accuracy on {split} along the runs, the mean of a row's seeds"
            + (", only at the points that all seeds have." if len(numbers.lines) <= MOST_COLOURED + 1 else _THINNED),
            draw=lambda: _draw_curves(numbers, split),
        )
    runs = numbers.section.runs[reference]
    counts = np.sum([run.record.test_confusion for run in runs], axis=0)
    seeds = f"seed {runs[0].config.seed}" if len(runs) == 1 else f"the sum over {len(runs)} seeds"
    yield Drawing(
        name="confusion",
        title=f"Confusion matrix of {reference}",
        caption=f"Confusion matrix of {reference}, {seeds}: test images of each true class (row) by predicted class "
        "(column); blue is right, orange is wrong. The shade is the square root of the share of the row.",
        draw=lambda: draw_confusion(counts, runs[0].record.class_names, numbers.section.scale),
    )


def _marks(numbers: Numbers) -> str:
    best = "; ring: the best of the curve on test" if any(_best_on_test(line) for line in numbers.lines) else ""
    return best + _published_marks(numbers, "diamond: the published number")


def _published_marks(numbers: Numbers, marks: str) -> str:
    if _shows_published(numbers):
        return f"; {marks}"
    return ". The published numbers are of the full length: they stand in the table" if numbers.any_published else ""


def _best_on_test(line: Line) -> float | None:
    return line.best.mean if line.best is not None and line.best_of == "test" else None


def _shows_published(numbers: Numbers) -> bool:
    return numbers.section.scale == 1 and numbers.any_published


def _draw_accuracy(numbers: Numbers) -> Figure:
    figure, axes = rows_figure([line.label for line in numbers.lines])
    for y, line in enumerate(numbers.lines):
        axes.plot(line.last.values, [y] * len(line.seeds), "o", color=MUTED, markersize=2.5, alpha=0.8)
        interval(axes, y, line.last.mean, line.last.half)
        best = _best_on_test(line)
        if best is not None:
            axes.plot(best, y, "o", color=VAL, markerfacecolor="none", markersize=9, markeredgewidth=1.2)
        if line.published and _shows_published(numbers):
            axes.plot(line.published.accuracy, y, "D", color=TEST, markersize=5.5)
    axes.set_xlabel("test accuracy, %")
    if any(len(line.seeds) > 1 for line in numbers.lines):
        keys = [key("last epoch, mean and 95 % interval", "o", VAL), key("single seeds", "o", MUTED, markersize=2.5)]
    else:
        keys = [key("last epoch, one seed", "o", VAL)]
    if any(_best_on_test(line) is not None for line in numbers.lines):
        keys.append(key("best of curve on test", "o", VAL, markersize=9, markerfacecolor="none"))
    if _shows_published(numbers):
        keys.append(key("published", "D", TEST))
    return finish(figure, numbers, keys)


def _draw_differences(numbers: Numbers, lines: Sequence[Line]) -> Figure:
    figure, axes = rows_figure([line.label for line in lines])
    mark_nothing(axes, len(lines))
    published = False
    for y, line in enumerate(lines):
        if line.difference:
            interval(axes, y, line.difference.mean, line.difference.half, filled=line.difference.resolved)
        if line.published_difference is not None and _shows_published(numbers):
            axes.plot(line.published_difference, y, "D", color=TEST, markersize=5.5)
            published = True
    axes.set_xlabel(f"difference from {short(numbers.section.study.reference, 34)}, points")
    keys = [key("resolved, with 95 % interval", "o", VAL)] if numbers.any_tested else []
    keys.append(key(_unresolved(lines) if numbers.any_tested else "ours, not tested", "o", VAL, markerfacecolor="none"))
    if published:
        keys.append(key("published", "D", TEST))
    return finish(figure, numbers, keys)


def _unresolved(lines: Sequence[Line]) -> str:
    all_tested = all(line.difference and line.difference.tested for line in lines)
    return "not resolved" if all_tested else "not resolved, or not tested"


def _curve_split(section: Section) -> str | None:
    """Return what all runs measured along the way: test, if all looked at it, else val, if all held it out."""
    curves = [run.record.curve for runs in section.done.values() for run in runs]
    for split in ("test", "val"):
        if all(len([point for point in curve if getattr(point, split)]) > 1 for curve in curves):
            return split
    return None


def _draw_curves(numbers: Numbers, split: str) -> Figure:
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = figure.subplots()
    reference = numbers.section.study.reference
    unit = set_images_seen(axes, max(line.images_seen for line in numbers.lines))
    others = [line.label for line in numbers.lines if line.label != reference]
    by_accuracy = sorted(others, key=lambda label: numbers.line(label).last.mean)
    named = others if len(others) <= MOST_COLOURED else [by_accuracy[-1], by_accuracy[0]]
    for label in [*others, reference]:
        seen, means = _mean_curve(numbers.section.runs[label], split)
        x = [images / unit for images in seen]
        if label == reference:
            axes.plot(x, means, "o-", color=INK, linewidth=2, markersize=3.5, label=short(label, 58))
        elif label in named:
            colour, style = SERIES[named.index(label)], _STYLES[named.index(label) % len(_STYLES)]
            axes.plot(x, means, color=colour, linestyle=style, linewidth=1.5, label=short(label, 58))
        else:
            axes.plot(x, means, color=MUTED, linewidth=0.6, alpha=0.6)
    bound_accuracies(axes)
    axes.set_ylabel(f"{split} accuracy, %")
    axes.grid(axis="y")
    keys = axes.get_legend_handles_labels()[1]
    columns = 2 if all(len(key) <= 30 for key in keys) else 1
    figure.set_figheight(4.2 + 0.2 * math.ceil(len(keys) / columns))
    legend_below(figure, columns)
    label_scaled(figure, numbers.section.scale)
    return figure


def _mean_curve(runs: Sequence[Run], split: str) -> tuple[list[int], list[float]]:
    """Return images seen and mean accuracy in percent, at the points that all the runs measured."""
    curves = [
        {point.images_seen: 100 * getattr(point, split).accuracy for point in run.record.curve if getattr(point, split)}
        for run in runs
    ]
    seen = sorted(set(curves[0]).intersection(*curves[1:]))
    return seen, [fmean(curve[images] for curve in curves) for images in seen]
