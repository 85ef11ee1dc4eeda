"""What is known at a moment of each run of a study, and how long all of them will take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from smallvit.bench.pace import num_images
from smallvit.record import RunRecord
from smallvit.study.forecast import Forecast
from smallvit.study.tasks import Task
from smallvit.study.watch import Progress, read_progress

State = Literal["waiting", "measuring", "running", "saved", "done", "failed"]


@dataclass
class Line:
    """A run of the study."""

    task: Task
    state: State = "waiting"
    progress: Progress = field(default_factory=Progress)
    record: RunRecord | None = None

    @property
    def share(self) -> float | None:
        """How much of its steps are done, 0 to 1; None where the number of steps is not known."""
        if self.record is not None:
            return 1.0
        total = self._num_steps()
        return None if total is None else min(1.0, self.progress.steps_done / total)

    @property
    def accuracy(self) -> float | None:
        """At the last measurement so far, 0 to 1."""
        if self.record is None:
            return self.progress.accuracy
        return (self.record.val or self.record.test).accuracy

    @property
    def measured_on(self) -> Literal["val", "test"] | None:
        """The split that `accuracy` is of, test where no val is held out; None as long as there is none."""
        if self.record is None:
            return self.progress.measured_on
        return "test" if self.record.val is None else "val"

    @property
    def seconds_left(self) -> float | None:
        """What its own speed so far says; None before that is known."""
        total, speed = self._num_steps(), self.progress.images_per_second
        if total is None or not speed:
            return None
        return max(0, total - self.progress.steps_done) * self.task.config.train.batch_size / speed

    def _num_steps(self) -> int | None:
        images = num_images(self.task.config)
        return None if images is None else max(1, self.task.config.num_steps(images[0]))


class Board:
    """The runs of a study, in their order."""

    def __init__(self, lines: Sequence[Line], forecast: Forecast) -> None:
        self._lines = {line.task.folder: line for line in lines}
        self._forecast = forecast

    def __getitem__(self, task: Task) -> Line:
        return self._lines[task.folder]

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def __len__(self) -> int:
        return len(self._lines)

    def read(self) -> None:
        """Read how far the running ones are."""
        for line in self:
            if line.state == "running":
                line.progress = read_progress(line.task.folder)
                if line.progress.images_per_second:
                    self._forecast.glimpse(line.task.config, line.progress.images_per_second)

    def seconds_left(self, slots: int) -> float | None:
        """Return how long all that is left will take with `slots` runs at once; None while that cannot be told."""
        going = [self._left_of(line) for line in self.of("running")]
        known = [*going, *(self._forecast.estimate(line.task) for line in self.of("waiting", "measuring"))]
        seconds = [each for each in known if each is not None]
        if len(seconds) < len(known):
            return None
        return max(sum(seconds) / max(1, slots), *seconds[: len(going)], 0.0)

    def _left_of(self, line: Line) -> float | None:
        own = line.seconds_left
        return self._forecast.estimate(line.task) if own is None else own

    def of(self, *states: State) -> list[Line]:
        """Return the runs in some states."""
        return [line for line in self if line.state in states]
