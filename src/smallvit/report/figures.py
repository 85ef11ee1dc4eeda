"""Figures of a run as SVG text, to stand in a page: the learning curve and the confusion matrix.

Equal records give equal bytes. Shapes: C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from rich.cells import cell_len

from smallvit.record import CurvePoint, RunRecord
from smallvit.report.cells import length_of
from smallvit.report.html import shown_name
from smallvit.report.svg import GRID, INK, MUTED, TEST, VAL, svg_file, svg_of

_RIGHT_RGB, _WRONG_RGB = (0.16, 0.46, 0.90), (0.90, 0.40, 0.06)
"""Mid tones, seen on white and on black; how much of them is set by opacity."""
MOST_NUMBERED = 15
"""Classes up to which every cell of the confusion matrix carries its count."""
MOST_TICKS = 20
_LONGEST_TICK = 14


def learning_curve(record: RunRecord, losses: Sequence[tuple[float, float]]) -> str:
    """Return accuracy (val, and test where it was measured) and train loss by epoch.

    `losses` are those of steps, each with its step: the thin line of single batches.
    """
    return svg_of("curve", _curve_title(record), lambda: _draw_curve(record, losses))


def learning_curve_file(record: RunRecord, losses: Sequence[tuple[float, float]]) -> str:
    """Return the same as SVG that stands alone."""
    return svg_file(_curve_title(record), lambda: _draw_curve(record, losses))


def confusion_matrix(record: RunRecord) -> str:
    """Return the confusion matrix: true classes down, predicted classes across, shaded by the share of the true class.

    Every cell has its count up to `MOST_NUMBERED` classes; beyond, the shade has a scale and the names are thinned.
    """
    title = f"Confusion matrix of {len(record.class_names)} classes"
    counts, scale = np.array(record.test_confusion), record.run_config().scale
    return svg_of("confusion", title, lambda: draw_confusion(counts, record.class_names, scale))


def legend_below(figure: Figure, columns: int, handles: Sequence[Line2D] | None = None) -> None:
    """Put a legend below the axes, of their own lines if none are given, in as many of the columns as have room."""
    given = {} if handles is None else {"handles": handles}
    for count in range(columns, 0, -1):
        legend = figure.legend(loc="outside lower center", ncols=count, fontsize=10, **given)
        if count == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def label_scaled(figure: Figure, scale: float) -> None:
    """Write above a figure what share of the full length its runs took, if it is not the whole."""
    if scale != 1:
        figure.suptitle(f"Scaled: {length_of(scale)}", color=TEST, fontsize=10, fontweight="bold")


def curve_axes() -> tuple[Figure, Axes, Axes]:
    """Return a figure of learning curves: its axes of accuracy and, below, those of train loss."""
    figure = Figure(figsize=(5.4, 4.9), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    top.set_ylabel("accuracy, %")
    bottom.set_ylabel("train loss, nats")
    for axes in (top, bottom):
        axes.grid(axis="y")
    return figure, top, bottom


def bound_accuracies(axes: Axes) -> None:
    """End an axis of accuracies in per cent at 100, and begin it at 0 where all are 0, which else lie in its middle."""
    axes.set_ylim(top=min(100.0, axes.get_ylim()[1]))
    if axes.dataLim.y1 == 0:
        axes.set_ylim(bottom=0)


def set_images_seen(axes: Axes, most: int) -> float:
    """Let an x axis be that of training images seen, up to `most`, and return its unit."""
    unit, word = (1e6, "millions") if most >= 1e6 else (1e3, "thousands")
    axes.set_xlabel(f"training images seen, {word}")
    axes.set_xlim(0, 1.02 * most / unit)
    return unit


def short(label: str, most: int) -> str:
    """Return a row's label as a figure has room for it."""
    label = shown_name(label)
    return label if len(label) <= most else label[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _curve_title(record: RunRecord) -> str:
    epochs = record.run_config().length.epochs
    return f"Accuracy and train loss over {epochs} epoch{'s' if epochs > 1 else ''}"


def _draw_curve(record: RunRecord, losses: Sequence[tuple[float, float]]) -> Figure:
    figure, top, bottom = curve_axes()
    _accuracy_line(top, "val", [p for p in record.curve if p.val], VAL, "o")
    _accuracy_line(top, "test", [p for p in record.curve if p.test], TEST, "D")
    bound_accuracies(top)
    _legend_beside_the_last_points(top)
    config = record.run_config()
    last = record.curve[-1]
    per_epoch = last.images_seen / last.epoch / config.train.batch_size  # steps
    if losses:
        epochs = [(step + 1) / per_epoch for step, _ in losses]
        bottom.plot(epochs, [loss for _, loss in losses], color=MUTED, linewidth=0.6, label="single batches")
    ends, means = [0, *(p.epoch for p in record.curve)], [p.train_loss for p in record.curve]
    bottom.stairs(
        np.array(means, dtype=float), ends, baseline=None, color=INK, linewidth=1.4, label="mean of the interval"
    )
    passes = "" if config.length.passes_per_epoch == 1 else f" (of {config.length.passes_per_epoch} passes)"
    bottom.set_xlabel(f"epoch{passes}")
    bottom.set_xlim(0, config.length.epochs * 1.02)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.legend(loc="upper right")
    label_scaled(figure, config.scale)
    return figure


def _legend_beside_the_last_points(axes: Axes) -> None:
    """Put the legend below where the lines end or, where one ends low, above the axes."""
    low, high = axes.get_ylim()
    ends = [np.asarray(line.get_ydata())[-1] for line in axes.lines]
    if min(ends) > low + (high - low) / 3:
        axes.legend(loc="lower right")
    else:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _accuracy_line(axes: Axes, split: str, points: list[CurvePoint], colour: str, marker: str) -> None:
    if not points:
        return
    values = [100 * getattr(point, split).accuracy for point in points]
    label = f"{split}, {values[-1]:.2f} % at epoch {points[-1].epoch}"
    epochs = [point.epoch for point in points]
    axes.plot(epochs, values, f"{marker}-", color=colour, markersize=4.5, label=label, clip_on=False)


def draw_confusion(counts: np.ndarray, class_names: Sequence[str], scale: float) -> Figure:
    """Draw the confusion matrix of C x C counts; `scale` is that of the runs."""
    classes = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    numbered = classes <= MOST_NUMBERED
    right = np.eye(classes, dtype=bool)
    figure = Figure(figsize=(5.4, 5.4 if numbered else 6.2), layout="constrained")
    if numbered:
        axes = figure.subplots()
    else:
        above, axes = figure.subplots(2, 1, height_ratios=[1, 14])
        _scale(above)
        axes.spines[:].set_visible(True)
    # Opacity stops where the ink of the numbers still reads on white and on black.
    axes.imshow(_shades(share, right, 0.6 if numbered else 1.0), interpolation="none")
    stride = -(-classes // MOST_TICKS)
    names = [_tick(name) for name in class_names[::stride]]
    size = 10 if len(names) <= MOST_NUMBERED else 8
    upright = len(names) * max(map(cell_len, names)) > 40  # columns of letters that fit side by side
    # An upright name ends at the matrix in the reader's font as well, not only in the one that it is measured with.
    place: dict[str, Any] = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
    axes.set_xticks(range(0, classes, stride), names, fontsize=size, **(place if upright else {}))
    axes.set_yticks(range(0, classes, stride), names, fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if numbered:
        _number_cells(axes, counts)
    label_scaled(figure, scale)
    return figure


def _shades(share: np.ndarray, right: np.ndarray, strongest: float) -> np.ndarray:
    """Return RGBA cells; the square root of the share, so that one mistake in a hundred is still seen."""
    colour = np.where(right[..., None], _RIGHT_RGB, _WRONG_RGB)
    return np.concatenate([colour, strongest * np.sqrt(share)[..., None]], axis=-1)


def _number_cells(axes: Axes, counts: np.ndarray) -> None:
    classes = len(counts)
    digits = len(str(counts.max()))
    size = min(10.5, 260 / classes / max(digits, 2))
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size)
    lines = np.arange(-0.5, classes)
    axes.hlines(lines, -0.5, classes - 0.5, color=GRID, linewidth=0.6)
    axes.vlines(lines, -0.5, classes - 0.5, color=GRID, linewidth=0.6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _scale(axes: Axes) -> None:
    """Draw what the shades of a matrix mean."""
    axes.spines[:].set_visible(True)
    share = np.linspace(0, 1, 200)[None].repeat(2, axis=0) ** 2
    right = np.array([[True], [False]]).repeat(200, axis=1)
    axes.imshow(_shades(share, right, 1.0), interpolation="none", aspect="auto", extent=(0, 1, 1, -1))
    marks = [0, 1, 5, 20, 50, 100]
    axes.set_xticks([(mark / 100) ** 0.5 for mark in marks], [f"{mark} %" for mark in marks], fontsize=8)
    axes.set_yticks([-0.5, 0.5], ["right", "wrong"], fontsize=8)
    axes.tick_params(length=2, labeltop=True, top=True, labelbottom=False, bottom=False)
    axes.set_title("share of the true class's images", fontsize=9)


def _tick(name: str) -> str:
    name = shown_name(name)
    if len(name) <= _LONGEST_TICK:
        return name
    half = _LONGEST_TICK // 2  # names that begin alike end differently
    return f"{name[:half]}…{name[half + 1 - _LONGEST_TICK :]}"
