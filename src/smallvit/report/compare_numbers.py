"""Numbers of two sides next to each other: how good, how fast, how large, by class, by confusion.

Every change is B against A, so that swapping the two turns every sign. Several runs of a side count by their mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from smallvit.record import RunRecord
from smallvit.report.cells import NONE, PLUS_MINUS, signed
from smallvit.report.compare_sides import Side, val_differs
from smallvit.report.numbers import differ, machine
from smallvit.report.stats import wilson_interval

MOST_CONFUSIONS = 8
"""Confusions that are listed of those that grew, and of those that shrank."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One thing measured of every run of both sides."""

    title: str
    """Its name, and the unit of its values."""
    form: str
    """How a value is written."""
    a: tuple[float, ...]
    """In the unit, a value a run; empty where it was not measured."""
    b: tuple[float, ...]
    change_as: Literal["difference", "ratio"] = "difference"
    a_interval: tuple[float, float] | None = None
    """Wilson's 95 % interval of a share, where a side is one run."""
    b_interval: tuple[float, float] | None = None
    note: str = ""
    """Why the two are not to be compared."""

    @property
    def change(self) -> float | None:
        """B - A, or B / A, of the means; None where they cannot be compared, and for a factor of 0."""
        if not self.a or not self.b or self.note:
            return None
        a, b = fmean(self.a), fmean(self.b)
        if self.change_as == "difference":
            return b - a
        return b / a if a else None

    def written(self, values: Sequence[float]) -> str:
        """Return the values of a side as text, without the unit: the one value, or mean and deviation."""
        if not values:
            return NONE
        mean = format(fmean(values), self.form)
        spread = PLUS_MINUS + format(stdev(values), self.form) if len({*values}) > 1 else ""
        return mean + spread

    @property
    def written_change(self) -> str:
        """The change as text: a difference with its sign (of percentages, in points), or a factor."""
        if self.change is None:
            return NONE
        if self.change_as == "ratio":
            return f"\N{MULTIPLICATION SIGN} {format(self.change, '#.3g').removesuffix('.')}"
        return signed(self.change, self.form)


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """A class on the test split."""

    label: int
    name: str
    count: int
    """Its images."""
    a: float
    """Of them right, the mean of the runs."""
    b: float

    @property
    def change(self) -> float:
        """What share of the class is right in B and was not in A, in points."""
        return 100 * (self.b - self.a) / self.count


@dataclass(frozen=True, kw_only=True)
class ConfusionChange:
    """Test images of one class that were taken for another, the mean of the runs."""

    true: str
    predicted: str
    a: float
    b: float

    @property
    def change(self) -> float:
        """How many more they are in B."""
        return self.b - self.a


def quantities(a: Side, b: Side) -> list[Quantity]:
    """Return what a reader wants to know first: test, val, time, size."""
    no_val = "they held out different images" if val_differs(a.first, b.first) else ""
    moved = any(differ(machine(one.record), machine(other.record)) for one, other in zip(a.runs, b.runs, strict=True))
    no_time = "hardware, device or threads differ" if moved else ""

    def of(title: str, form: str, get: Callable[[RunRecord], float | None], **rest: Any) -> Quantity:
        values = [[get(run.record) for run in side.runs] for side in (a, b)]
        found = [() if None in row else tuple(float(value) for value in row if value is not None) for row in values]
        return Quantity(title=title, form=form, a=found[0], b=found[1], **rest)

    intervals = {"a_interval": _interval(a), "b_interval": _interval(b)}
    uneven = a.first.record.mean_class_accuracy() is not None
    return [
        of("test accuracy, %", ".2f", lambda r: 100 * r.test.accuracy, **intervals),
        *([of("mean of the classes, %", ".2f", _by_class)] if uneven else []),
        of("test NLL, nats", ".4f", lambda r: r.test.negative_log_likelihood),
        of("test ECE, %", ".2f", lambda r: 100 * r.test.calibration_error),
        of("val accuracy, %", ".2f", lambda r: 100 * r.val.accuracy if r.val else None, note=no_val),
        of("training, s", ",.1f", lambda r: r.train_seconds, change_as="ratio", note=no_time),
        of("training images/s", ",.0f", lambda r: r.images_per_second, change_as="ratio", note=no_time),
        of("images seen, thousands", ",.0f", lambda r: r.curve[-1].images_seen / 1e3, change_as="ratio"),
        of("MACs of an image, millions", ",.2f", lambda r: r.num_macs / 1e6, change_as="ratio"),
        of("parameters", ",.0f", lambda r: r.num_parameters, change_as="ratio"),
    ]


def class_changes(a: Side, b: Side) -> list[ClassChange]:
    """Return every class with test images, those that lost most first."""
    one, other, counts = _mean_confusion(a), _mean_confusion(b), a.first.counts
    rows = [
        ClassChange(label=i, name=name, count=counts[i], a=float(one[i, i]), b=float(other[i, i]))
        for i, name in enumerate(a.first.record.class_names)
        if counts[i]
    ]
    return sorted(rows, key=lambda row: row.change)


def confusion_changes(a: Side, b: Side) -> list[ConfusionChange]:
    """Return the confusions whose counts differ, those that grew most first."""
    one, other, names = _mean_confusion(a), _mean_confusion(b), a.first.record.class_names
    rows = [
        ConfusionChange(true=names[i], predicted=names[j], a=float(one[i, j]), b=float(other[i, j]))
        for i, j in np.argwhere(one != other).tolist()
        if i != j
    ]
    return sorted(rows, key=lambda row: -row.change)


def _by_class(record: RunRecord) -> float | None:
    mean = record.mean_class_accuracy()
    return None if mean is None else 100 * mean


def _interval(side: Side) -> tuple[float, float] | None:
    test = side.first.record.test
    return wilson_interval(test.correct, test.count) if len(side.runs) == 1 else None


def _mean_confusion(side: Side) -> np.ndarray:
    return np.mean([run.record.test_confusion for run in side.runs], axis=0)
