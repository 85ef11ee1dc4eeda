"""Two runs on the same test images, image by image: McNemar's test, and pictures of what changed.

Shapes: n test images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Bool, Int64
from scipy.stats import binom, binomtest
from torch import Tensor

from smallvit.data.source import ALTERED
from smallvit.data.spec import SPECS
from smallvit.errors import SmallvitError
from smallvit.report.compare_sides import Side
from smallvit.report.predictions import Mistake, Predictions, mistakes_of, read_predictions
from smallvit.report.records import Run
from smallvit.report.stats import Z_95, holm

ALTERED_TEST = f"test {ALTERED}"
"""Words of the note that a data set's source makes of test images that are not the published ones."""


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """How often each of two runs was right on the same images, and whether one was so more often."""

    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    p: float
    """Two-sided mid-p of the binomial test of the images that only one has right (McNemar, Psychometrika 12, 1947;
    Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13, 2013): with the exact one the interval, which is
    as narrow as it says, would often leave out 0 where p is above 5 %."""
    low: float
    """Ends of the 95 % interval of accuracy B - A, -1 to 1 (Agresti and Min, Statistics in Medicine 24, 2005)."""
    high: float


@dataclass(frozen=True, kw_only=True)
class Changed(Mistake):
    """A mistake of one run that the other has right."""

    right_confidence: float
    """The other run's probability of the true class."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What the answers of two runs to the same images tell."""

    mcnemar: McNemar
    class_p: dict[int, float]
    """McNemar's p within each class that has images, by Holm's correction for all of them."""
    gained: list[Changed]
    """Of the wrong answers of which A was surest: those that B has right."""
    lost: list[Changed]
    """Of the wrong answers of which B was surest: those that A has right."""
    kept: tuple[int, int]
    """Wrong answers whose pictures A and B kept."""


def pair(a: Side, b: Side) -> Pairs | str:
    """Return what the images tell of two single runs, or, in words, why their answers cannot be paired.

    Raises `SmallvitError` if a file of predictions is damaged, or the two were made on different pictures.
    """
    if len(a.runs) > 1:
        return "with several seeds the differences are compared seed by seed instead"
    one, other = a.first, b.first
    for side in (a, b):
        if side.first.predictions is None:
            return f"{side.name} is a record alone, without the answer to each image (test.safetensors in a run folder)"
    mine, theirs = _read(one), _read(other)
    reason = _other_rows(one, other, same_files=mine.files is not None and mine.files == theirs.files)
    if reason:
        return reason
    _require_the_same_pictures(mine, theirs, one, other)
    names, labels = one.record.class_names, mine.labels
    right_a, right_b = (each.logits.argmax(-1) == labels for each in (mine, theirs))
    return Pairs(
        mcnemar=mcnemar(right_a, right_b),
        class_p=_class_p(right_a, right_b, labels),
        gained=list(_changed(mine, theirs, names)),
        lost=list(_changed(theirs, mine, names)),
        kept=(len(mine.mistakes), len(theirs.mistakes)),
    )


def mcnemar(right_a: Bool[Tensor, " n"], right_b: Bool[Tensor, " n"]) -> McNemar:
    """Compare which of the same n >= 1 images two runs have right."""
    count = len(right_a)
    both, only_a, only_b = (int(each.sum()) for each in (right_a & right_b, right_a & ~right_b, ~right_a & right_b))
    # Half an image is added to each of the four counts, so that none of them is nothing.
    centre = (only_b - only_a) / (count + 2)
    half = Z_95 * sqrt((only_a + only_b + 1) - (only_b - only_a) ** 2 / (count + 2)) / (count + 2)
    return McNemar(
        both_right=both,
        only_a=only_a,
        only_b=only_b,
        both_wrong=count - both - only_a - only_b,
        p=_mid_p(only_a, only_b),
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
    )


def _mid_p(only_a: int, only_b: int) -> float:
    """Return the two-sided mid-p: the exact one less half of the probability of the found counts on each side."""
    either = only_a + only_b
    if only_a == only_b:
        return 1.0
    return float(binomtest(only_a, either).pvalue - binom.pmf(only_a, either, 0.5))


def _class_p(right_a: Bool[Tensor, " n"], right_b: Bool[Tensor, " n"], labels: Int64[Tensor, " n"]) -> dict[int, float]:
    found: dict[int, float] = {}
    for label in labels.unique().tolist():
        mine, theirs = right_a[labels == label], right_b[labels == label]
        found[label] = _mid_p(int((mine & ~theirs).sum()), int((~mine & theirs).sum()))
    return dict(zip(found, holm(list(found.values())), strict=True))


def _other_rows(one: Run, other: Run, *, same_files: bool) -> str:
    """Return why a row of the test split need not be the same image in both runs, if it need not.

    Earlier versions ordered the images of a folder, which had no names then, by their pixels at the run's size.
    """
    spec = SPECS.get(one.config.data.dataset)
    sizes = [run.config.model.image_size for run in (one, other)]
    if (spec is None or spec.test_size == 0) and sizes[0] != sizes[1] and not same_files:
        return f"the images are {sizes[0]} and {sizes[1]} pixels high, which may order them otherwise"
    altered = [any(ALTERED_TEST in note for note in run.record.dataset_notes) for run in (one, other)]
    if altered[0] != altered[1]:
        return f"{'A' if altered[0] else 'B'} has other pixels than those of the official test images"
    return ""


def _read(run: Run) -> Predictions:
    assert run.predictions is not None
    return read_predictions(run.predictions, run.record)


def _require_the_same_pictures(mine: Predictions, theirs: Predictions, one: Run, other: Run) -> None:
    if mine.pictures.shape[1:] != theirs.pictures.shape[1:]:  # of different sizes: the order of rows is the release's
        return
    places = {row: place for place, row in enumerate(mine.mistakes.tolist())}
    for place, row in enumerate(theirs.mistakes.tolist()):
        if row in places and not torch.equal(mine.pictures[places[row]], theirs.pictures[place]):
            raise SmallvitError(f"{one.path} and {other.path} have different test sets: row {row} is another picture")


def _changed(wrong: Predictions, right: Predictions, names: Sequence[str]) -> Iterator[Changed]:
    """Yield the kept mistakes of one run that the other has right, the surest first."""
    for mistake in mistakes_of(wrong, names):
        row, label = mistake.index, int(wrong.labels[mistake.index])
        other = right.probabilities(row)
        if int(other.argmax()) == label:
            yield Changed(**vars(mistake), right_confidence=float(other[label]))
