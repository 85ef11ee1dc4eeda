"""The figures of a study that set accuracy against what it costs: arithmetic, seconds."""

from collections.abc import Iterator, Sequence
from itertools import product

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from smallvit.report.figures import label_scaled, short
from smallvit.report.numbers import Numbers
from smallvit.report.study_scatters import INTERVALS, span
from smallvit.report.svg import MUTED, VAL, Drawing

MOST_NUMBERED = 20
"""Points of accuracy against cost whose numbers a reader can tell apart."""
_THINNED = " Of so many rows only the reference and those that no other beats at the same cost or less are named."


def costs(numbers: Numbers) -> Iterator[Drawing]:
    """Yield accuracy against arithmetic and against seconds, where the rows differ in them."""
    thinned = _THINNED if len(numbers.lines) > MOST_NUMBERED else ""
    if len({line.num_macs for line in numbers.lines}) > 1:
        yield Drawing(
            name="flops",
            title="Test accuracy by arithmetic",
            caption=f"Test accuracy at the last epoch{INTERVALS}, by the floating-point operations of an image's "
            "forward pass: two for each multiply-accumulate. Training takes about three times that an image."
            f"{thinned}",
            draw=lambda: _draw_cost(
                numbers,
                [2e-6 * line.num_macs for line in numbers.lines],
                "forward pass of an image, MFLOPs (2 x MACs)",
            ),
        )
    seconds = [line.seconds.mean for line in numbers.lines]
    if len(seconds) > 1:
        size, unit = next((s, u) for s, u in ((3600, "h"), (60, "min"), (1, "s")) if max(seconds) >= 2 * s or s == 1)
        yield Drawing(
            name="seconds",
            title="Test accuracy by training time",
            caption=f"Test accuracy at the last epoch{INTERVALS}, by the training time of a run, the mean of its "
            f"seeds, on {'; '.join(numbers.hardware)}. Other work on the machine counts as well.{thinned}",
            draw=lambda: _draw_cost(numbers, [each / size for each in seconds], f"training time of a run, {unit}"),
        )


def _draw_cost(numbers: Numbers, x: Sequence[float], axis: str) -> Figure:
    """Draw points, those that have a name with a number, and under them the rows that the numbers stand for."""
    y = [line.last.mean for line in numbers.lines]
    named = _named_points(numbers, x, y)
    labels = [short(numbers.lines[i].label, 58) for i in named]
    columns = 1 if max(map(len, labels)) > 30 else 2 if max(map(len, labels)) > 16 else 3
    depth = -(-len(labels) // columns)
    figure = Figure(figsize=(5.4, 4.0 + 0.21 * depth), layout="constrained")
    axes, names = figure.subplots(2, 1, height_ratios=[3.8, 0.21 * depth])
    others = [i for i in range(len(x)) if i not in named]
    halves = [line.last.half for line in numbers.lines]  # nan, of one seed, draws no bar
    for places, colour, size in ((others, MUTED, 4), (named, VAL, 5)):
        if not places:
            continue
        along, means, bars = ([values[i] for i in places] for values in (x, y, halves))
        axes.errorbar(along, means, yerr=bars, fmt="o", color=colour, markersize=size, elinewidth=0.9, alpha=0.8)
    axes.set_xlabel(axis)
    axes.set_ylabel("test accuracy, %")
    axes.margins(0.08)
    span(axes)
    axes.grid()
    names.set_axis_off()
    for index, label in enumerate(labels):
        place = (index // depth / columns, 1 - (index % depth + 0.5) / depth)
        text = f"{index + 1}. {label}"
        names.text(*place, text, transform=names.transAxes, va="center", fontsize=9.5)
    label_scaled(figure, numbers.section.scale)
    points = list(zip(x, y, strict=True))
    _number_points(figure, axes, [points[i] for i in named], [points[i] for i in others])
    return figure


def _named_points(numbers: Numbers, x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Return the places of the rows to name: all, or of many the reference and those that none beats at their cost."""
    every = range(len(x))
    if len(x) <= MOST_NUMBERED:
        return list(every)
    reference = numbers.section.study.reference
    return [
        i for i in every if numbers.lines[i].label == reference or not any(x[j] <= x[i] and y[j] > y[i] for j in every)
    ]


def _number_points(
    figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]
) -> None:
    """Write each point's number beside it, where neither another point, numbered or not, nor another number is."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # numbers are placed by it
    pixels = figure.dpi / 72
    places = axes.transData.transform([*points, *others])
    taken = [Bbox.from_bounds(px - 3 * pixels, py - 3 * pixels, 6 * pixels, 6 * pixels) for px, py in places]
    offsets = sorted(product(range(-56, 57, 7), range(-42, 43, 7)), key=lambda o: (o[0] ** 2 + o[1] ** 2, -o[0]))
    for number, (px, py) in enumerate(places[: len(points)], 1):
        half, height = 3.0 * len(str(number)) * pixels, 5.0 * pixels
        for dx, dy in offsets:
            cx, cy = px + dx * pixels, py + dy * pixels
            box = Bbox.from_bounds(cx - half, cy - height, 2 * half, 2 * height)
            if not any(box.overlaps(other) for other in taken) and axes.bbox.contains(cx, cy):
                break
        else:
            dx, dy = 0, 0
            box = Bbox.from_bounds(px, py, 0, 0)
        taken.append(box)
        far = abs(dx) + abs(dy) > 14
        axes.annotate(
            str(number),
            points[number - 1],
            (dx, dy),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9.5,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5} if far else None,
        )
