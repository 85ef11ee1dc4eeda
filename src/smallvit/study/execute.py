"""Runs what is left of a study on an engine, within a budget, until all is done or it is asked to end.

A run is one job, and a job that fails is one failed run. Whatever ends the study, its runs have saved what they need to
go on, and the same study in the same folder goes on with them.
"""

import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from smallvit.bench.pace import Pace
from smallvit.data.spec import SPECS
from smallvit.device.config import DeviceUse
from smallvit.errors import SmallvitError, line_of
from smallvit.record import RunRecord
from smallvit.run_folder import RECORD
from smallvit.stop import OUT_OF_TIME, Stop
from smallvit.strict_json import from_json, parse
from smallvit.study.board import Board, Line
from smallvit.study.engines.engine import Engine
from smallvit.study.forecast import Forecast, shape
from smallvit.study.job import Order
from smallvit.study.process import POLL_SECONDS, Handle, Outcome
from smallvit.study.rows import Study
from smallvit.study.show import View
from smallvit.study.tasks import Task, by_rank, read_records, unfinished

END_SECONDS = 5.0
"""Of a budget, kept for runs to save and processes to end."""
PATIENCE_SECONDS = 180.0
"""How long a run may take to save and end after it was asked to."""


@dataclass(kw_only=True)
class Ending:
    """How a study ended."""

    finished: int = 0
    failed: list[str] = field(default_factory=list)
    """A line each: which run, and why."""
    left: list[Task] = field(default_factory=list)
    """Runs that were not begun, or not to their end."""
    reason: str = ""
    """Why there are some left."""
    exit_status: int = 0


@dataclass(frozen=True, kw_only=True)
class _Running:
    task: Task
    does: Literal["run", "pace"]
    handle: Handle


def run_study(
    study: Study,
    folder: Path,
    engine: Engine,
    console: Console,
    *,
    root: Path | None = None,
    use: DeviceUse | None = None,
    budget_seconds: float | None = None,
) -> Ending:
    """Run what is not yet in `folder`: a seed of every row at a time, or with a budget the most telling runs that fit.

    `root` is where the data set lies, `use` how runs use the machine. Raises `SmallvitError` before anything runs
    for a record in `folder` that is another run's, and `InterruptedRunError` at a second signal.
    """
    forecast, records = Forecast(), read_records(study, folder)
    for record in (record for runs in records.values() for record in runs):
        forecast.learn_from(record)
    use = use or DeviceUse()
    use = replace(use, num_threads=use.num_threads or engine.threads)
    tasks = unfinished(study, folder, root=root, use=use)
    for task in tasks[:1]:
        task.config.data.require_beside("--out", folder)
    if budget_seconds is not None:
        tasks = by_rank(tasks)
    view = View(console, engine.slots(), budget_seconds)
    view.begin(study, len(tasks))
    return Execution(tasks, engine, forecast, view, budget_seconds).run()


class Execution:
    """The runs of a study, waiting, running and done."""

    def __init__(
        self,
        tasks: Sequence[Task],
        engine: Engine,
        forecast: Forecast,
        view: View,
        budget_seconds: float | None = None,
    ) -> None:
        self.engine, self.forecast, self.view = engine, forecast, view
        self.board = Board([Line(task) for task in tasks], forecast)
        self.ending = Ending()
        self._waiting = list(tasks)
        self._running: list[_Running] = []
        self._deadline = math.inf if budget_seconds is None else time.monotonic() + budget_seconds
        self._ending_since = math.inf

    def run(self) -> Ending:
        """Run the tasks in their order, and return how it ended; SIGINT, SIGTERM and the budget's end are waited for.

        Raises `InterruptedRunError` at a second signal, when the jobs have been killed.
        """
        with Stop() as stop, self.view.showing(self.board):
            try:
                while True:
                    self._collect(stop)
                    self._end_if_asked(stop)
                    self._start_what_fits(stop)
                    if not self._running:
                        break
                    self.view.refresh()
                    time.sleep(POLL_SECONDS)
            finally:
                for job in self._running:
                    job.handle.kill()
        return self._ended(stop)

    def _start_what_fits(self, stop: Stop) -> None:
        while not stop.reason and len(self._running) < self.engine.slots():
            task, does = self._next()
            if task is None:
                return
            bounded = does == "run" and self._deadline < math.inf
            order = Order(
                do=does,
                config=task.config.to_json(),
                folder=str(task.folder),
                cwd=str(Path.cwd()),
                until=time.time() + self._seconds_left() if bounded else None,
            )
            if does == "run":
                self._waiting.remove(task)
            self.board[task].state = "running" if does == "run" else "measuring"
            try:
                handle = self.engine.start(order, task.log)
            except (OSError, SmallvitError) as error:  # its folder cannot be made, or no job submitted: others go on
                self._after(does, task, Outcome(status=1, line=line_of(error) or str(error)), stop)
                continue
            self._running.append(_Running(task=task, does=does, handle=handle))

    def _next(self) -> tuple[Task | None, Literal["run", "pace"]]:
        """Return the first run that fits, or is to be measured to know."""
        if self._deadline == math.inf:
            return (self._waiting[0] if self._waiting else None), "run"
        left = self._seconds_left()
        measuring = {shape(job.task.config) for job in self._running if job.does == "pace"}
        for task in self._waiting if left > 0 else []:
            seconds = self.forecast.seconds(task)
            if seconds is None and task.config.data.dataset not in SPECS:
                return task, "run"  # of a folder's images no pace is known before a run has ended or saved
            if seconds is None and shape(task.config) not in measuring:
                return task, "pace"
            if seconds is not None and seconds <= left:
                return task, "run"
        return None, "run"

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic() - END_SECONDS)

    def _end_if_asked(self, stop: Stop) -> None:
        now = time.monotonic()
        if not stop.reason and now >= self._deadline:
            stop.reason, stop.exit_status = "the budget is spent", OUT_OF_TIME
        if stop.reason and self._ending_since == math.inf:
            self._ending_since = now
            if self._running:
                self.view.say(f"{stop.reason}: {len(self._running)} to save and end")
            for job in self._running:
                job.handle.ask_to_end()
        elif now > self._ending_since + PATIENCE_SECONDS:
            self._ending_since = now  # so that those which survive it are not killed ten times a second
            for job in self._running:
                job.handle.kill()

    def _collect(self, stop: Stop) -> None:
        for job in list(self._running):
            outcome = job.handle.poll()
            if outcome is not None:
                self._running.remove(job)
                self._after(job.does, job.task, outcome, stop)

    def _after(self, does: str, task: Task, outcome: Outcome, stop: Stop) -> None:
        (self._after_run if does == "run" else self._after_pace)(task, outcome, bool(stop.reason))

    def _after_run(self, task: Task, outcome: Outcome, stopping: bool) -> None:
        line = self.board[task]
        if outcome.status == 0 or (task.folder / RECORD).exists():  # it may have been ended when all was done
            try:
                record = RunRecord.load(task.folder / RECORD)
            except SmallvitError as error:
                outcome = Outcome(status=1, line=str(error))
            else:
                outcome = replace(outcome, status=0)
                line.state, line.record = "done", record
                self.forecast.learn_from(record)
                self.ending.finished += 1
        if outcome.was_ended and (stopping or outcome.status == OUT_OF_TIME):
            line.state = "saved"
            if outcome.status == -signal.SIGTERM:
                outcome = replace(outcome, line="ended before it began")
        elif outcome.status:
            line.state = "failed"
            self.ending.failed.append(f"{task}: {outcome.line}")
        self.view.ended(line, outcome)

    def _after_pace(self, task: Task, outcome: Outcome, stopping: bool) -> None:
        self.board[task].state = "waiting"
        if outcome.status == 0:
            try:
                self.forecast.learn(task.config, from_json(Pace, parse(outcome.line), "pace"))
            except (ValueError, SmallvitError):
                outcome = Outcome(status=1, line=f"its last line is no pace: {outcome.line}")
        if outcome.status and not (stopping and outcome.was_ended):
            alike = [each for each in self._waiting if shape(each.config) == shape(task.config)]
            for each in alike:
                self._waiting.remove(each)
                self.board[each].state = "failed"
                self.ending.failed.append(f"{each}: its pace cannot be measured: {outcome.line}")
                self.view.ended(self.board[each], outcome)

    def _ended(self, stop: Stop) -> Ending:
        ending = self.ending
        ending.left = [line.task for line in self.board if line.state in ("saved", "waiting")]
        if ending.left:
            ending.reason, ending.exit_status = stop.reason or "the budget is spent", stop.exit_status or OUT_OF_TIME
        self.view.left(ending.left)
        return ending
