"""The records of a study's finished runs: all of one test set, and what they tell of how long others take."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from smallvit.errors import SmallvitError
from smallvit.record import RunRecord
from smallvit.study.forecast import Forecast

SEEN_SECONDS = 35.0
"""How long a disk in a network may keep a file that was written elsewhere from being seen."""


class OtherPicturesError(SmallvitError):
    """A run's images are not those of the runs before."""


class Finished:
    """What is known by the finished runs; `records` are those that were there before.

    A GPU's runs tell how long others take only where a budget asks: to know its name opens it in this process.
    """

    def __init__(self, records: Sequence[RunRecord], forecast: Forecast, *, has_budget: bool) -> None:
        self._forecast, self._has_budget = forecast, has_budget
        self._tests: dict[int, str] = {}
        self._num_train: dict[str, int] = {}
        for record in records:
            self._other_images(record)
            self._learn_from(record)

    def read(self, path: Path, *, waits: bool) -> RunRecord:
        """Return the record of a run that has ended; `waits`: for a while, if it is not there yet.

        Raises `SmallvitError` if it cannot be read, and `OtherPicturesError`.
        """
        deadline = time.monotonic() + SEEN_SECONDS
        while waits and not path.exists() and time.monotonic() < deadline:
            time.sleep(1.0)
        record = RunRecord.load(path)
        if other := self._other_images(record):
            raise OtherPicturesError(
                f"its {other} images are not those of the runs before: put the pictures back as they were and delete "
                f"{path.parent}, or, if they are unchanged (an earlier smallvit drew them otherwise), name another "
                "--out"
            )
        self._learn_from(record)
        return record

    def _other_images(self, record: RunRecord) -> str:
        """Return of which split a run has other images, as far as its record tells, than the first runs that tell it:
        of test at its image size, of train with another seed; nothing if it has the same.
        """
        config = record.run_config()
        size, sha256 = config.model.image_size, record.test_sha256
        if sha256 is not None and self._tests.setdefault(size, sha256) != sha256:
            return "test"
        of_row = replace(config, seed=0).digest()
        return "" if self._num_train.setdefault(of_row, record.num_train) == record.num_train else "train"

    def _learn_from(self, record: RunRecord) -> None:
        if self._has_budget or record.choices.device == "cpu":
            self._forecast.learn_from(record)
