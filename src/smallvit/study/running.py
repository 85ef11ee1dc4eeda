"""The jobs of a study that run on its engine: started, asked after, asked to end, and killed where they do not."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from smallvit.study.engines.engine import Engine
from smallvit.study.forecast import shape
from smallvit.study.job import Order
from smallvit.study.process import Handle, Outcome
from smallvit.study.tasks import Job

PATIENCE_SECONDS = 180.0
"""How long a run may take to save and end after it was asked to."""


class Running:
    """The jobs of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: list[tuple[Job, Handle]] = []
        self._requeued = Counter[tuple[str, Path]]()
        self._asked_at = math.inf

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def has_room(self) -> bool:
        """Whether the engine would run another job, now."""
        return len(self._jobs) < self._engine.slots()

    @property
    def measuring(self) -> set[str]:
        """The shapes whose pace is being measured."""
        return {shape(job.task.config) for job, _ in self._jobs if job.does == "pace"}

    def start(self, job: Job, until: float | None) -> None:
        """Start a job that is to end by `until`, in seconds of the Unix epoch.

        Raises `OSError` where its folder cannot be made, and `SmallvitError` where the engine refuses it.
        """
        task = job.task
        order = Order(
            do=job.does, config=task.config.to_json(), folder=str(task.folder), cwd=str(Path.cwd()), until=until
        )
        self._jobs.append((job, self._engine.start(order, task.log)))

    def ended(self) -> Iterator[tuple[Job, Outcome]]:
        """Take out the jobs that have ended, one after the other."""
        for each in list(self._jobs):
            job, handle = each
            outcome = handle.poll()
            if outcome is not None:
                self._jobs.remove(each)
                yield job, outcome

    def requeued(self, job: Job, outcome: Outcome) -> bool:
        """Return whether a job is begun again, as it was ended elsewhere, by a scheduler say, and not too often; if so,
        count it.
        """
        key = job.does, job.task.folder
        again = outcome.was_ended and self._requeued[key] < self._engine.requeues
        self._requeued[key] += again
        return again

    @property
    def were_asked_to_end(self) -> bool:
        """Whether all were."""
        return self._asked_at < math.inf

    def ask_to_end(self) -> None:
        """Ask all to save and end."""
        self._asked_at = time.monotonic()
        for _, handle in self._jobs:
            handle.ask_to_end()

    def kill_if_late(self) -> None:
        """Kill those that were asked to end too long ago."""
        now = time.monotonic()
        if now > self._asked_at + PATIENCE_SECONDS:
            self._asked_at = now  # so that those which survive it are not killed ten times a second
            self.kill()

    def kill(self) -> None:
        """End all at once."""
        for _, handle in self._jobs:
            handle.kill()
