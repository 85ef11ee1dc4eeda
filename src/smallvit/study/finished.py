"""The records of a study's finished runs: all of one test set, and what they tell of how long others take."""

import time
from collections.abc import Sequence
from pathlib import Path

from smallvit.errors import SmallvitError
from smallvit.record import RunRecord
from smallvit.study.forecast import Forecast

SEEN_SECONDS = 35.0
"""How long a disk in a network may keep a file that was written elsewhere from being seen."""


class OtherTestError(SmallvitError):
    """A run's test images are not those of the runs before."""


class Finished:
    """What is known by the finished runs; `records` are those that were there before.

    A GPU's runs tell how long others take only where a budget asks: to know its name opens it in this process.
    """

    def __init__(self, records: Sequence[RunRecord], forecast: Forecast, *, has_budget: bool) -> None:
        self._forecast, self._has_budget = forecast, has_budget
        self._tests: dict[int, str] = {}
        for record in records:
            self._test_of(record)
            self._learn_from(record)

    def read(self, path: Path, *, waits: bool) -> RunRecord:
        """Return the record of a run that has ended; `waits`: for a while, if it is not there yet.

        Raises `SmallvitError` if it cannot be read, and `OtherTestError`.
        """
        deadline = time.monotonic() + SEEN_SECONDS
        while waits and not path.exists() and time.monotonic() < deadline:
            time.sleep(1.0)
        record = RunRecord.load(path)
        if self._test_of(record) != record.test_sha256:
            raise OtherTestError("its test images are not those of the runs before: were the pictures changed since?")
        self._learn_from(record)
        return record

    def _test_of(self, record: RunRecord) -> str | None:
        """Return the digest of the test images, at the size that a run has them, of the first run that tells it."""
        if record.test_sha256 is None:
            return None
        return self._tests.setdefault(record.run_config().model.image_size, record.test_sha256)

    def _learn_from(self, record: RunRecord) -> None:
        if self._has_budget or record.choices.device == "cpu":
            self._forecast.learn_from(record)
