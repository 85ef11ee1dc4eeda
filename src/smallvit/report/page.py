"""The page of one run: `write_page(folder)` reads its record, metrics and test predictions, and writes index.html.

The page is one file that refers to nothing outside itself; numbers are rounded to be read, and exact in `<data>`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from smallvit.data.spec import SPECS
from smallvit.errors import SmallvitError
from smallvit.files import expanded
from smallvit.record import CurvePoint, RunRecord
from smallvit.report.cells import large
from smallvit.report.command import changed_options, repeat_command
from smallvit.report.figures import MOST_NUMBERED, confusion_matrix, learning_curve
from smallvit.report.html import write_html
from smallvit.report.numbers import hardware
from smallvit.report.predictions import mistakes_of, read_predictions
from smallvit.report.records import read_run, too_good
from smallvit.report.stats import wilson_interval
from smallvit.run_folder import METRICS, PAGE, PREDICTIONS

MOST_PAIRS = 10
"""Confused pairs that are listed where the matrix is too large for numbers."""


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """A class on the test split."""

    name: str
    correct: int
    count: int
    taken_for: str | None
    """The most frequent wrong answer."""
    taken_for_count: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Test images of one class that were taken for another."""

    true: str
    predicted: str
    count: int


def write_page(folder: Path | str) -> Path:
    """Write `folder`/index.html from what the run left in `folder`, whole or not at all, and return its path.

    Raises `SmallvitError` if the record or the predictions are absent, cut short, edited, or of different runs.
    """
    folder = expanded(Path(folder), "folder")
    run = read_run(folder)
    record, config = run.record, run.config
    mistakes = mistakes_of(read_predictions(folder / PREDICTIONS, record), record.class_names)
    losses = read_losses(folder / METRICS)
    page = folder / PAGE
    write_html(
        page,
        "run.html.j2",
        record=record,
        config=config,
        credit=SPECS.get(config.data.dataset),
        config_json=json.dumps(record.config, indent=2),
        too_good=too_good(record),
        record_digest=record.to_json()["sha256"],
        command=repeat_command(config),
        changed=changed_options(config),
        interval=wilson_interval(record.test.correct, record.test.count),
        hardware=hardware(record),
        large=large,
        best_test=_best_on_test(record),
        test_points=sum(point.test is not None for point in record.curve),
        curve_svg=Markup(learning_curve(record, losses)),
        confusion_svg=Markup(confusion_matrix(record)),
        numbered=len(record.class_names) <= MOST_NUMBERED,
        pairs=_pairs(record)[:MOST_PAIRS],
        classes=_class_rows(record),
        mistakes=mistakes,
    )
    return page


def read_losses(path: Path) -> list[tuple[float, float]]:
    """Return the steps in metrics.jsonl with their losses; none if the file is absent, for the record holds the curve.

    A loss that was no finite number, null there, is nan.
    """
    if not path.exists():
        return []
    losses: list[tuple[float, float]] = []
    lines = 0
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "step" in row:
                losses.append((float(row["step"]), math.nan if row["loss"] is None else float(row["loss"])))
            lines += 1
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise SmallvitError(f"{path} line {lines + 1} is not a line of metrics: {error}") from None
    return losses


def _class_rows(record: RunRecord) -> list[ClassRow]:
    """Return the classes, the least accurate first; those without a test image last."""
    rows: list[ClassRow] = []
    for index, counts in enumerate(record.test_confusion):
        wrong = {other: count for other, count in enumerate(counts) if other != index and count}
        most = max(wrong, key=lambda other: wrong[other], default=None)
        rows.append(
            ClassRow(
                name=record.class_names[index],
                correct=counts[index],
                count=sum(counts),
                taken_for=None if most is None else record.class_names[most],
                taken_for_count=0 if most is None else wrong[most],
            )
        )
    return sorted(rows, key=lambda row: row.correct / row.count if row.count else 2.0)


def _pairs(record: RunRecord) -> list[Pair]:
    """Return the confused pairs, the most frequent first."""
    names = record.class_names
    pairs = [
        Pair(true=names[true], predicted=names[predicted], count=count)
        for true, counts in enumerate(record.test_confusion)
        for predicted, count in enumerate(counts)
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair.count)


def _best_on_test(record: RunRecord) -> CurvePoint | None:
    """Return the first of the curve's best points on test, if the run looked there more than once."""
    points = [point for point in record.curve if point.test is not None]
    return max(points, key=lambda p: p.test.accuracy if p.test else 0.0) if len(points) > 1 else None
