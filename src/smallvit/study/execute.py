"""Runs what is left of a study on an engine, within a budget, until all is done or it is asked to end.

A run is one job, and a job that fails is one failed run. Whatever ends the study, its runs have saved what they need to
go on, and the same study in the same folder goes on with them.
"""

import math
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from smallvit.bench.pace import Pace
from smallvit.device.config import DeviceUse
from smallvit.errors import SmallvitError, line_of
from smallvit.record import RunRecord
from smallvit.run_folder import RECORD, delete_checkpoints
from smallvit.stop import OUT_OF_TIME, InterruptedRunError, Stop
from smallvit.strict_json import from_json, parse
from smallvit.study.board import Board, Line
from smallvit.study.engines.engine import Engine
from smallvit.study.forecast import Forecast, shape
from smallvit.study.job import Order
from smallvit.study.process import POLL_SECONDS, Handle, Outcome
from smallvit.study.refusals import RETRY_SECONDS, Refusals
from smallvit.study.rows import Study
from smallvit.study.show import View
from smallvit.study.tasks import Task, by_rank, read_records, require_own, unfinished
from smallvit.study.waiting import Waiting

PATIENCE_SECONDS = 180.0
"""How long a run may take to save and end after it was asked to."""
SEEN_SECONDS = 35.0
"""How long a disk in a network may keep a file that was written elsewhere from being seen."""


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
    use: DeviceUse | None = None,
    budget_seconds: float | None = None,
) -> Ending:
    """Run what is not yet in `folder`: a seed of every row at a time, or with a budget the most telling runs that fit.

    `use` is how runs use the machine. Raises `SmallvitError` before anything runs for a record in `folder` that is
    another run's, and `InterruptedRunError` at a second signal.
    """
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
        self.engine, self.forecast, self.view = engine, Forecast(), view
        self.board = Board([Line(task) for task in tasks], self.forecast)
        self.ending = Ending()
        self._waiting = Waiting(tasks, self.forecast, budget_seconds)
        self._running: list[_Running] = []
        self._requeued = Counter[tuple[str, Path]]()
        self._refusals = Refusals()
        self._said_refused = False
        self._stop = Stop()
        self._ending_since = math.inf
        self._tests: dict[int, str] = {}
        for record in records:
            self._test_of(record)
            self._learn_from(record)

    def run(self) -> Ending:
        """Run the tasks in their order, and return how it ended; SIGINT, SIGTERM and the budget's end are waited for.

        Raises `InterruptedRunError` at a second signal, when the jobs have been killed.
        """
        with self._stop, self.view.showing(self.board):
            try:
                while True:
                    self._collect()
                    self._end_if_asked()
                    self._start_what_fits()
                    if not self._running and (self._stop.reason or not self._refusals.is_pending):
                        break
                    self.view.refresh()
                    time.sleep(POLL_SECONDS)
            except (InterruptedRunError, KeyboardInterrupt):
                for job in self._running:
                    job.handle.kill()
                raise
            except BaseException:  # no fault of theirs
                for job in self._running:
                    job.handle.ask_to_end()
                raise
        return self._ended()

    def _start_what_fits(self) -> None:
        if self._refusals.is_too_early():
            return
        while not self._stop.reason and len(self._running) < self.engine.slots():
            task, does = self._waiting.next({shape(job.task.config) for job in self._running if job.does == "pace"})
            if task is None:
                return
            order = Order(
                do=does,
                config=task.config.to_json(),
                folder=str(task.folder),
                cwd=str(Path.cwd()),
                until=self._waiting.until() if does == "run" else None,
            )
            self.view.begun(task)
            try:
                begun: Handle | Outcome = self.engine.start(order, task.log)
                self._refusals.taken()
            except InterruptedRunError:  # a second signal's
                raise
            except (OSError, SmallvitError) as error:  # its folder cannot be made, or no job submitted: others go on
                if self._stop.reason:  # a signal of the terminal ends what submits as well
                    return
                if isinstance(error, SmallvitError) and self._is_to_be_retried(error):
                    return
                begun = Outcome(status=1, line=line_of(error) or str(error))
            if does == "run":
                self._waiting.take(task)
            if isinstance(begun, Outcome):
                self._after(does, task, begun)
                continue
            self.board[task].state = "running" if does == "run" else "measuring"
            self._running.append(_Running(task=task, does=does, handle=begun))

    def _is_to_be_retried(self, refusal: SmallvitError) -> bool:
        """Return whether a job that was refused may be taken later, as under a scheduler's limit."""
        again = self._refusals.refused(others_run=bool(self._running))
        if again and not self._said_refused:
            self._said_refused = True
            self.view.say(f"{refusal}; it is tried again, now and whenever that happens, every {RETRY_SECONDS:.0f} s")
        return again

    def _end_if_asked(self) -> None:
        now = time.monotonic()
        if not self._stop.reason and self._waiting.is_spent:
            self._stop.reason, self._stop.exit_status = "the budget is spent", OUT_OF_TIME
        if self._stop.reason and self._ending_since == math.inf:
            self._ending_since = now
            if self._running:
                self.view.say(f"{self._stop.reason}: {len(self._running)} to save and end")
            for job in self._running:
                job.handle.ask_to_end()
        elif now > self._ending_since + PATIENCE_SECONDS:
            self._ending_since = now  # so that those which survive it are not killed ten times a second
            for job in self._running:
                job.handle.kill()

    def _collect(self) -> None:
        for job in list(self._running):
            outcome = job.handle.poll()
            if outcome is not None:
                self._running.remove(job)
                self._after(job.does, job.task, outcome)

    def _after(self, does: str, task: Task, outcome: Outcome) -> None:
        (self._after_run if does == "run" else self._after_pace)(task, outcome)

    def _after_run(self, task: Task, outcome: Outcome) -> None:
        line, path = self.board[task], task.folder / RECORD
        if outcome.status == 0:
            _wait_for(path)
        if outcome.status == 0 or path.exists():  # it may have been ended when all was done
            try:
                record = RunRecord.load(path)
                self._require_same_test(record)
            except InterruptedRunError:
                raise
            except SmallvitError as error:
                outcome = Outcome(status=1, line=str(error))
            else:
                delete_checkpoints(task.folder, ignore_errors=True)  # it may have been ended just before it did so
                outcome = replace(outcome, status=0)
                line.state, line.record = "done", record
                self._learn_from(record)
                self.ending.finished += 1
        if outcome.was_ended and (self._stop.reason or outcome.status == OUT_OF_TIME):
            line.state = "saved"
            if outcome.status == -signal.SIGTERM:
                line.state = "waiting"
                outcome = replace(outcome, line="ended before it began")
        elif self._is_to_be_begun_again("run", task, outcome):
            line.state = "waiting"
            self._waiting.put_back(task)
            return
        elif outcome.status:
            line.state = "failed"
            self.ending.failed.append(f"{task}: {outcome.line}")
        self.view.ended(line, outcome)

    def _is_to_be_begun_again(self, does: str, task: Task, outcome: Outcome) -> bool:
        """Return whether a job was ended elsewhere, by its scheduler say, and not too often."""
        again = outcome.was_ended and self._requeued[does, task.folder] < self.engine.requeues
        if again:
            self._requeued[does, task.folder] += 1
            self.view.say(f"{task}: {outcome.line}; it is begun again")
        return again

    def _require_same_test(self, record: RunRecord) -> None:
        """Raise `SmallvitError`, and let the study end, if a run's test images are not those of the runs before."""
        if self._test_of(record) != record.test_sha256:
            self._stop.reason = self._stop.reason or "the test images have changed"
            self._stop.exit_status = self._stop.exit_status or 1
            raise SmallvitError("its test images are not those of the runs before: were the pictures changed since?")

    def _test_of(self, record: RunRecord) -> str | None:
        """Return the digest of the test images, at the size that a run has them, of the first run that tells it."""
        if record.test_sha256 is None:
            return None
        return self._tests.setdefault(record.run_config().model.image_size, record.test_sha256)

    def _learn_from(self, record: RunRecord) -> None:
        if self._waiting.has_budget or record.choices.device == "cpu":  # to know a GPU's name opens it in this process
            self.forecast.learn_from(record)

    def _after_pace(self, task: Task, outcome: Outcome) -> None:
        self.board[task].state = "waiting"
        if outcome.status == 0:
            try:
                self.forecast.learn(task.config, from_json(Pace, parse(outcome.line), "pace"))
            except InterruptedRunError:
                raise
            except (ValueError, SmallvitError):
                outcome = Outcome(status=1, line=f"its last line is no pace: {outcome.line}")
        if (
            outcome.status
            and not (self._stop.reason and outcome.was_ended)
            and not self._is_to_be_begun_again("pace", task, outcome)
        ):
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
        self.view.left(ending.left)
        return ending


def _wait_for(path: Path) -> None:
    """Wait until a file is there, which may have been written on another machine; not for long."""
    deadline = time.monotonic() + SEEN_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(1.0)
