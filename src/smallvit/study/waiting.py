"""The runs of a study that are to be begun, and which of them is next: within a budget the first that fits."""

import math
import time
from collections.abc import Collection, Sequence

from smallvit.data.spec import SPECS
from smallvit.progress import duration
from smallvit.study.forecast import Forecast, shape
from smallvit.study.tasks import Job, Task

END_SECONDS = 5.0
"""Of a budget, kept for runs to save and processes to end."""


class Waiting:
    """Runs in the order in which they are to be begun; a budget begins with this."""

    def __init__(self, tasks: Sequence[Task], forecast: Forecast, budget_seconds: float | None) -> None:
        self._tasks, self._forecast = list(tasks), forecast
        self._began = time.monotonic()
        self._deadline = math.inf if budget_seconds is None else self._began + budget_seconds

    @property
    def has_budget(self) -> bool:
        """Whether there is a time by which to end."""
        return self._deadline < math.inf

    @property
    def is_spent(self) -> bool:
        """Whether the budget is."""
        return time.monotonic() >= self._deadline

    def until(self) -> float | None:
        """Return the time by which a run that is begun now has to have ended, in seconds of the Unix epoch."""
        return time.time() + self._seconds_left() if self.has_budget else None

    def next(self, measuring: Collection[str]) -> Job | None:
        """Return the first run that fits, or its measurement if one has to know, unless its shape is in `measuring`."""
        if not self.has_budget:
            return Job(task=self._tasks[0], does="run") if self._tasks else None
        left = self._seconds_left()
        for task in self._tasks if left > 0 else []:
            seconds = self._forecast.seconds(task)
            if seconds is None and task.config.data.dataset not in SPECS:
                return Job(task=task, does="run")  # of a folder's images no pace is known before a run ended or saved
            if seconds is None and shape(task.config) not in measuring:
                return Job(task=task, does="pace")
            if seconds is not None and seconds <= left:
                return Job(task=task, does="run")
        return None

    def take(self, task: Task) -> None:
        """Take out a run that is begun."""
        self._tasks.remove(task)

    def put_back(self, task: Task) -> None:
        """Put a run that was begun before all others."""
        self._tasks.insert(0, task)

    def take_alike(self, task: Task) -> list[Task]:
        """Take out all runs of a run's shape, and return them."""
        alike = [each for each in self._tasks if shape(each.config) == shape(task.config)]
        self._tasks = [each for each in self._tasks if each not in alike]
        return alike

    def why_none_fits(self, left: Sequence[Task]) -> str:
        """Return in words that none of the runs that are left fits, and how long the shortest takes."""
        seconds = [each for task in left if (each := self._forecast.estimate(task)) is not None]
        spent = time.monotonic() - self._began  # to measure paces, say, which the next start does again
        needs = f", the shortest needs about {duration(min(seconds) + END_SECONDS + spent)}" if seconds else ""
        return f"no run that is left fits the budget{needs}"

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic() - END_SECONDS)
