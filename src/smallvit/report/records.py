"""Reads records for the reports: what a table or page relies on holds, or one line says what does not."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from smallvit.config import RunConfig
from smallvit.data.store import IN_TRAIN
from smallvit.errors import SmallvitError
from smallvit.held_out import MAY_BE_SEEN
from smallvit.record import RunRecord
from smallvit.run_folder import PREDICTIONS, RECORD, record_of


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    path: Path
    """Its folder, or its record file where that is all there is."""
    record: RunRecord

    @cached_property
    def config(self) -> RunConfig:
        """Its record's."""
        return self.record.run_config()

    @property
    def predictions(self) -> Path | None:
        """The file of its answers to the test images; None where only the record is there."""
        path = self.path / PREDICTIONS
        return path if path.exists() else None

    @cached_property
    def counts(self) -> list[int]:
        """Test images of each class."""
        return [sum(row) for row in self.record.test_confusion]


def too_good(record: RunRecord) -> list[str]:
    """Return the notes on a run's data that say why its accuracy may be more than it is worth."""
    return [note for note in record.dataset_notes if IN_TRAIN in note or note in MAY_BE_SEEN.values()]


def read_run(path: Path) -> Run:
    """Return the run of a run folder, or of a record file.

    Raises `SmallvitError` if there is none, or it was edited, or its parts do not fit each other.
    """
    record = record_of(path) if path.is_dir() else RunRecord.load(path)
    classes, matrix = len(record.class_names), record.test_confusion
    if len(matrix) != classes or any(len(row) != classes for row in matrix):
        raise SmallvitError(f"{path}: test_confusion is not {classes} x {classes}, one row and column a class")
    return Run(path=path.parent if path.name == RECORD else path, record=record)


def require_one_test_set(runs: Iterable[Run]) -> None:
    """Raise `SmallvitError` unless all runs were measured on the same test images, as far as records can tell."""
    told: dict[tuple[object, ...], Run] = {}
    for run in runs:  # those that tell the same are one: of a thousand runs there are half a million pairs
        record, config = run.record, run.config
        images = record.test_sha256, config.model.image_size, config.data
        told.setdefault((images, tuple(record.class_names), tuple(run.counts)), run)
    for one, other in combinations(told.values(), 2):  # any two: a record from before the digests hides nothing
        reason = _other_test_set(one, other)
        if reason:
            raise SmallvitError(f"{one.path} and {other.path} have different test sets: {reason}")


def _other_test_set(one: Run, other: Run) -> str:
    digests = {one.record.test_sha256, other.record.test_sha256}
    known = None not in digests and one.config.model.image_size == other.config.model.image_size
    # The same images and labels are the same, however the configs would draw them where a folder did not bring its own.
    same = known and len(digests) == 1 and one.config.data.dataset == other.config.data.dataset
    reason = "" if same else one.config.other_test(other.config)
    if reason:
        return reason
    if one.record.class_names != other.record.class_names:
        return "their classes differ"
    if one.counts != other.counts:
        return f"they have {sum(one.counts):,} and {sum(other.counts):,} images, or other counts of a class"
    if known and len(digests) > 1:
        return "the digests of their images and labels differ"
    return ""
