"""Reads records for the reports: what a table or page relies on holds, or one line says what does not."""

from pathlib import Path

from smallvit.errors import SmallvitError
from smallvit.record import RunRecord
from smallvit.run_folder import RECORD


def read_record(path: Path) -> RunRecord:
    """Return the record of a run folder, or of a record file.

    Raises `SmallvitError` if there is none, or it was edited, or its parts do not fit each other.
    """
    if path.is_dir():
        if not (path / RECORD).exists():
            raise SmallvitError(f"{path} holds no finished run: expected {RECORD} in it")
        path /= RECORD
    record = RunRecord.load(path)
    classes, matrix = len(record.class_names), record.test_confusion
    if len(matrix) != classes or any(len(row) != classes for row in matrix):
        raise SmallvitError(f"{path}: test_confusion is not {classes} x {classes}, one row and column a class")
    return record
