"""Runs what is left of a study on an engine, within a budget, until all is done or it is asked to end.

A run is one job, and a job that fails is one failed run. Whatever ends the study, its runs have saved what they need to
go on, and the same study in the same folder goes on with them.
"""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from smallvit.bench.pace import Pace
from smallvit.device.config import DeviceUse
from smallvit.errors import SmallvitError, line_of
from smallvit.files import expanded
from smallvit.record import RunRecord
from smallvit.run_folder import RECORD, delete_checkpoints
from smallvit.stop import OUT_OF_TIME, InterruptedRunError, Stop
from smallvit.strict_json import from_json, parse
from smallvit.study.board import Board, Line
from smallvit.study.engines.engine import Engine
from smallvit.study.finished import Finished, OtherPicturesError
from smallvit.study.forecast import Forecast
from smallvit.study.process import POLL_SECONDS, Outcome
from smallvit.study.refusals import RETRY_SECONDS, Refusals
from smallvit.study.rows import Study
from smallvit.study.running import Running
from smallvit.study.show import View
from smallvit.study.tasks import Job, Task, by_rank, read_records, require_own, unfinished
from smallvit.study.waiting import Waiting


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
    goes_on: bool = True
    """Whether the same study goes on with them as it is."""
    exit_status: int = 0


def run_study(
    study: Study,
    folder: Path | str,
    engine: Engine,
    console: Console,
    *,
    use: DeviceUse | None = None,
    budget_seconds: float | None = None,
) -> Ending:
    """Run what is not yet in `folder`: a seed of every row at a time, or with a budget the most telling runs that fit.

    `use` is how runs use the machine. Raises `SmallvitError` before anything runs for a record in `folder` that is
    another run's, and `InterruptedRunError` at a second signal.
    """
    folder = expanded(Path(folder), "folder")
    records = [record for runs in read_records(study, folder).values() for _, record in runs]
    use = use or DeviceUse()
    use = replace(use, num_threads=use.num_threads or engine.threads)
    tasks = unfinished(study, folder, use)
    require_own(tasks, study)
    if tasks:
        tasks[0].config.data.require_beside("--out", folder)
    if budget_seconds is not None:
        tasks = by_rank(tasks)
    view = View(console, engine.slots(), budget_seconds)
    view.begin(study, len(tasks))
    return Execution(tasks, records, engine, view, budget_seconds).run()


class Execution:
    """The runs of a study, waiting, running and done; `records` are those that are done already."""

    def __init__(
        self,
        tasks: Sequence[Task],
        records: Sequence[RunRecord],
        engine: Engine,
        view: View,
        budget_seconds: float | None,
    ) -> None:
        self.view, self.forecast = view, Forecast()
        self.board = Board([Line(task) for task in tasks], self.forecast)
        self.ending = Ending()
        self._waiting = Waiting(tasks, self.forecast, budget_seconds)
        self._running = Running(engine)
        self._finished = Finished(records, self.forecast, has_budget=self._waiting.has_budget)
        self._refusals = Refusals()
        self._said_refused = False
        self._stop = Stop()

    def run(self) -> Ending:
        """Run the tasks in their order, and return how it ended; SIGINT, SIGTERM and the budget's end are waited for.

        Raises `InterruptedRunError` at a second signal, when the jobs have been killed.
        """
        with self._stop, self.view.showing(self.board):
            try:
                while True:
                    for job, outcome in self._running.ended():
                        self._after(job, outcome)
                    self._end_if_asked()
                    self._start_what_fits()
                    if not self._running and (self._stop.reason or not self._refusals.is_pending):
                        break
                    self.view.refresh()
                    time.sleep(POLL_SECONDS)
            except (InterruptedRunError, KeyboardInterrupt):
                self._running.kill()
                raise
            except BaseException:  # no fault of theirs
                self._running.ask_to_end()
                raise
        return self._ended()

    def _start_what_fits(self) -> None:
        if self._refusals.is_too_early():
            return
        while not self._stop.reason and self._running.has_room:
            job = self._waiting.next(self._running.measuring)
            if job is None:
                return
            self.view.begun(job.task)
            failed = None
            try:
                self._running.start(job, self._waiting.until() if job.does == "run" else None)
            except InterruptedRunError:  # a second signal's
                raise
            except (OSError, SmallvitError) as error:  # its folder cannot be made, or no job submitted: others go on
                if self._stop.reason or self._is_to_be_retried(error):  # a signal of the terminal ends sbatch as well
                    return
                failed = Outcome(status=1, line=line_of(error) or str(error))
            else:
                self._refusals.taken()
                self.board[job.task].state = "running" if job.does == "run" else "measuring"
            if job.does == "run":
                self._waiting.take(job.task)
            if failed is not None:
                self._after(job, failed)

    def _is_to_be_retried(self, error: OSError | SmallvitError) -> bool:
        """Return whether a job that was not started was refused, and may be taken later, as under a limit of jobs."""
        again = isinstance(error, SmallvitError) and self._refusals.refused(others_run=bool(self._running))
        if again and not self._said_refused:
            self._said_refused = True
            self.view.say(f"{error}; it is tried again, now and whenever that happens, every {RETRY_SECONDS:.0f} s")
        return again

    def _end_if_asked(self) -> None:
        if not self._stop.reason and self._waiting.is_spent:
            self._stop.reason, self._stop.exit_status = "the budget is spent", OUT_OF_TIME
        if self._running.were_asked_to_end:
            self._running.kill_if_late()
        elif self._stop.reason:
            if self._running:
                self.view.say(f"{self._stop.reason}: {len(self._running)} to save and end")
            self._running.ask_to_end()

    def _after(self, job: Job, outcome: Outcome) -> None:
        (self._after_run if job.does == "run" else self._after_pace)(job, outcome)

    def _after_run(self, job: Job, outcome: Outcome) -> None:
        task, line = job.task, self.board[job.task]
        path = task.folder / RECORD
        if outcome.status == 0 or path.exists():  # it may have been ended when all was done
            try:
                line.record = self._finished.read(path, waits=outcome.status == 0)
            except InterruptedRunError:
                raise
            except SmallvitError as error:
                if isinstance(error, OtherPicturesError) and not self._stop.reason:
                    self._stop.reason, self._stop.exit_status = "the pictures have changed", 1
                    self.ending.goes_on = False
                outcome = Outcome(status=1, line=str(error))
            else:
                delete_checkpoints(task.folder, ignore_errors=True)  # it may have been ended just before it did so
                line.state, outcome = "done", replace(outcome, status=0)
                self.ending.finished += 1
        if outcome.was_ended and (self._stop.reason or outcome.status == OUT_OF_TIME):
            line.state = "saved"
            if outcome.status == -signal.SIGTERM:
                line.state = "waiting"
                outcome = replace(outcome, line="ended before it began")
        elif self._is_begun_again(job, outcome):
            line.state = "waiting"
            self._waiting.put_back(task)
            return
        elif outcome.status:
            line.state = "failed"
            self.ending.failed.append(f"{task}: {outcome.line}")
        self.view.ended(line, outcome)

    def _is_begun_again(self, job: Job, outcome: Outcome) -> bool:
        again = self._running.requeued(job, outcome)
        if again:
            self.view.say(f"{job.task}: {outcome.line}; it is begun again")
        return again

    def _after_pace(self, job: Job, outcome: Outcome) -> None:
        task = job.task
        self.board[task].state = "waiting"
        if outcome.status == 0:
            try:
                self.forecast.learn(task.config, from_json(Pace, parse(outcome.line), "pace"))
            except InterruptedRunError:
                raise
            except (ValueError, SmallvitError):
                outcome = Outcome(status=1, line=f"its last line is no pace: {outcome.line}")
        was_asked = self._stop.reason and outcome.was_ended
        if outcome.status and not was_asked and not self._is_begun_again(job, outcome):
            for each in self._waiting.take_alike(task):
                self.board[each].state = "failed"
                self.ending.failed.append(f"{each}: its pace cannot be measured: {outcome.line}")
                self.view.ended(self.board[each], outcome)

    def _ended(self) -> Ending:
        ending = self.ending
        ending.left = [line.task for line in self.board if line.state in ("saved", "waiting")]
        if ending.left:
            ending.reason = self._stop.reason or "the budget is spent"
            ending.exit_status = self._stop.exit_status or OUT_OF_TIME
        if ending.exit_status == OUT_OF_TIME and ending.failed:
            ending.exit_status = 1
        elif ending.exit_status == OUT_OF_TIME and not ending.finished and not self.board.of("saved"):
            ending.reason, ending.exit_status = self._waiting.why_none_fits(ending.left), 1
            ending.goes_on = False
        self.view.left(ending.left)
        return ending
