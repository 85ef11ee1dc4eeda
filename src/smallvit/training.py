"""The way from a session's start, or its newest checkpoint, to its last epoch: steps, measurements, checkpoints.

A checkpoint is taken between two steps, and holds all that the rest of the run depends on. What a run gathers is saved
with it, so that an interrupted run ends with the record of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from smallvit.device.choose import synchronize
from smallvit.errors import SmallvitError
from smallvit.evaluate import Metrics, measure
from smallvit.files import write_json
from smallvit.lock import require_held
from smallvit.metrics import MetricsFile
from smallvit.progress import RunProgress
from smallvit.record import CurvePoint, versions
from smallvit.resume import Gathered, SavedState, draws_sha256
from smallvit.run_folder import CHECKPOINTS, METRICS, resume_command
from smallvit.session import Session
from smallvit.stop import OUT_OF_TIME, InterruptedRunError, Stop
from smallvit.strict_json import to_json
from smallvit.train.checkpoint import save_checkpoint
from smallvit.train.checkpoint_format import Checkpoint
from smallvit.train.graphs import PLAIN_CALLS
from smallvit.train.loop import NonFiniteError, StepState, fit
from smallvit.train.optimizer_state import load_optimizer_tensors, optimizer_tensors
from smallvit.train.schedule import SCHEDULES

LOG_EVERY_STEPS = 20
_BEST = "best"
"""Name of a checkpoint's group of tensors."""


class Training:
    """Trains a session in its run folder; all ranks take the steps, and the main one writes."""

    def __init__(self, session: Session, folder: Path, stop: Stop, *, may_be_seen: Sequence[str] = ()) -> None:
        self.session, self.folder, self.world, self.stop = session, folder, session.world, stop
        self.may_be_seen = list(may_be_seen)
        """Splits of whose images the run that this one was forked off may have been trained on some."""
        self.optimizers = session.optimizers()
        self.gathered = Gathered(started=datetime.now(UTC).isoformat(timespec="seconds"))
        self.steps_done = 0
        self.total_steps = session.config.length.epochs * session.order.steps_per_epoch
        self.logits: dict[str, Tensor] = {}
        """Of val and test at the last point of the curve, as far as they were measured there."""
        self.best: dict[str, Tensor] = {}
        """The weights that were best on val, the first of several; none where they are not kept (`checkpoint.best`)."""
        self._losses: list[Tensor] = []
        self._lines = ""
        self._metrics: MetricsFile | None = None
        self._clock = self._saved_at = self._step_began = time.perf_counter()
        self._step_seconds = self._save_seconds = 0.0
        self._saw_step = False
        self._began_at: tuple[int, int] | None = None
        """Steps and points of the curve that a resumed run began with."""

    def go_on_from(self, checkpoint: Checkpoint, gathered: Gathered) -> None:
        """Take over what a checkpoint holds."""
        self.session.average.load(checkpoint.tensors)
        load_optimizer_tensors(self.optimizers, checkpoint.tensors["optimizer"])
        self._losses = list(checkpoint.tensors["progress"]["losses"])
        if self.session.config.checkpoint.best:  # it may have been left off since
            self.best = dict(checkpoint.tensors.get(_BEST, {}))
        self._lines = checkpoint.texts[METRICS]
        self.gathered, self.steps_done = gathered, checkpoint.step
        gathered.resumed_at_steps.append(checkpoint.step)
        self._began_at = self.steps_done, len(gathered.curve)

    def run(self, console: Console) -> None:
        """Take the steps that are left; what is gathered on the whole way is then in `gathered`."""
        batch_size, warm = self.session.config.train.batch_size, 1 + (PLAIN_CALLS if self.session.graphs else 0)
        metrics = closing(MetricsFile(self.folder / METRICS, self._lines)) if self.world.is_main else nullcontext()
        with (
            metrics as self._metrics,
            RunProgress(console, self.total_steps, batch_size, self.steps_done, warm) as self._progress,
        ):
            self._train()

    def _train(self) -> None:
        config = self.session.config
        self._restart_clock()
        if self.steps_done:
            self._measure_if_due()
        self._step_began = self._clock
        states = fit(
            self.session.learner(self.optimizers),
            self.session.batch,
            rate=self._rate,
            total_steps=self.total_steps,
            start_step=self.steps_done,
            max_skips=config.train.max_skips if config.train.on_nonfinite == "skip" else 0,
            skipped_in_a_row=self._skipped_in_a_row(),
            world=self.world,
            prefetch=self.session.prefetch,
        )
        try:
            with self.world.guarded(lambda: f"in step {self.steps_done}"):
                for state in states:
                    self._after_step(state)
        except NonFiniteError as error:
            self._save()
            raise self._explained(error) from None

    def _rate(self, step: int) -> float:
        config = self.session.config
        warmup = config.length.warmup_epochs * self.session.order.steps_per_epoch
        factor = SCHEDULES[config.optim.schedule](step, warmup_steps=warmup, total_steps=self.total_steps)
        return config.optim.scaled_lr(config.train.batch_size) * factor

    def _after_step(self, state: StepState) -> None:
        self.steps_done = state.step + 1
        now = time.perf_counter()
        compiled = self.session.choices.compile and not self._saw_step
        self._step_seconds = 0.0 if compiled else now - self._step_began  # no step after it takes as long
        self._saw_step = True
        if state.skipped:
            self.gathered.skipped_steps.append(state.step)
            self._progress.say(f"step {state.step} is left out: its loss or gradient is no finite number")
        else:
            self._losses.append(state.loss)
        ends_epoch = self.steps_done % self.session.order.steps_per_epoch == 0
        if state.step == 0 or self.steps_done % LOG_EVERY_STEPS == 0 or ends_epoch:
            self._log(state)
        self._progress.step(self.steps_done)
        if self.steps_done < self.total_steps:
            if self.world.any(self.stop.asked(2 * self._step_seconds + self._save_seconds)):
                self._save_and_end()
            elif time.perf_counter() - self._saved_at >= self.session.config.checkpoint.every_seconds:
                self._save()
        if ends_epoch:
            self._measure_if_due()
        self._step_began = time.perf_counter()

    def _log(self, state: StepState) -> None:
        synchronize(self.session.choices.device)
        gathered, loss = self.gathered, float(state.loss)
        self._take_time()
        if state.step == 0:
            gathered.first_step_seconds = gathered.train_seconds
        after_first = gathered.train_seconds - gathered.first_step_seconds
        speed = state.step * self.session.config.train.batch_size / (after_first or math.inf)
        if self._metrics is not None:
            numbers = {"loss": loss, "gradient_norm": state.gradient_norm}
            known = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
            row = {"step": state.step, **known, "lr": state.lr}
            self._metrics.write({**row, "seconds": gathered.train_seconds, "images_per_second": speed})
        self._progress.numbers(loss, state.lr, speed)

    def _measure_if_due(self) -> None:
        """Take the point of the curve that belongs to the steps done, if there is to be one that was not taken yet."""
        config, gathered = self.session.config, self.gathered
        epoch, rest = divmod(self.steps_done, self.session.order.steps_per_epoch)
        due = epoch % config.length.every_epochs == 0 or epoch == config.length.epochs
        taken = bool(gathered.curve) and gathered.curve[-1].epoch >= epoch
        if rest or not due or taken:
            return
        self._take_time()
        measured = self._measured(epoch)
        point = CurvePoint(
            epoch=epoch,
            images_seen=self.steps_done * config.train.batch_size,
            train_loss=float(torch.stack(self._losses).mean()) if self._losses else None,
            seconds=gathered.train_seconds,
            val=measured.get("val"),
            test=measured.get("test"),
        )
        self._losses.clear()
        best = max((p.val.correct for p in gathered.curve if p.val is not None), default=-1)
        if config.checkpoint.best and point.val is not None and point.val.correct > best:
            weights = self.session.average.measured.state_dict()
            self.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
        gathered.evaluate_seconds += self._restart_clock()
        gathered.curve.append(point)
        if self._metrics is not None:
            self._metrics.write(to_json(point))
        self._progress.point(point, config.length.epochs)

    def _measured(self, epoch: int) -> dict[str, Metrics]:
        config, session = self.session.config, self.session
        last = epoch == config.length.epochs
        splits = ["val"] if "val" in session.splits else []
        if config.evaluate.test_curve or last:
            splits.append("test")

        self.logits = {split: session.predict(split, self._check()) for split in splits}
        return {split: measure(logits, session.splits[split].labels) for split, logits in self.logits.items()}

    def _check(self) -> Callable[[], None]:
        """Return what to call before each pass of an evaluation, so that the run ends where it is asked to."""
        began = time.perf_counter()

        def check() -> None:
            nonlocal began
            before, began = began, time.perf_counter()
            if self.world.any(self.stop.asked(began - before + self._save_seconds)):  # this pass takes as long
                self.gathered.evaluate_seconds += self._restart_clock()
                self._save_and_end()

        return check

    def _save_and_end(self) -> None:
        self._save()
        # Perhaps only another rank was asked: the signal came to that one, or its time was over first.
        status = int(self.world.gather_rows(torch.tensor([self.stop.exit_status])).max())
        if status == OUT_OF_TIME and (self.steps_done, len(self.gathered.curve)) == self._began_at:
            raise InterruptedRunError(
                "out of time (--max-seconds) before anything new was done: one measurement takes longer, so give more; "
                f"nothing is lost; to go on: {resume_command(self.folder)}",
                1,
            )
        raise InterruptedRunError(
            f"{self.stop.reason or 'another rank was asked to end'}: "
            f"saved after step {self.steps_done:,} of {self.total_steps:,}; "
            f"to go on: {resume_command(self.folder)}",
            status,
        )

    def _save(self) -> None:
        if self._metrics is None:
            return
        require_held(self.folder)
        self._take_time()
        start, session = time.perf_counter(), self.session
        saved = SavedState(
            config=session.config.to_json(),
            versions=versions(),
            choices=session.choices,
            world_size=self.world.size,
            draws_sha256=draws_sha256(session, self.steps_done - 1) if self.steps_done else "",
            test_sha256=session.test_sha256,
            val_sha256=session.val_sha256,
            may_be_seen=self.may_be_seen,
            gathered=self.gathered,
        )
        checkpoint = Checkpoint(
            step=self.steps_done,
            tensors={
                **session.average.tensors(),
                **({_BEST: self.best} if self.best else {}),
                "optimizer": optimizer_tensors(self.optimizers),
                "progress": {"losses": torch.stack(self._losses) if self._losses else torch.empty(0)},
            },
            state=to_json(saved),
            texts={METRICS: self._metrics.lines()},
        )
        save_checkpoint(self.folder / CHECKPOINTS, checkpoint)
        self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - start
        self._restart_clock()

    def _explained(self, error: NonFiniteError) -> SmallvitError:
        """Keep what is needed to look into it, and say where."""
        path = self.folder / f"nonfinite-step-{error.step:08d}.json"
        found = {
            "step": error.step,
            "lr": error.lr,
            "loss": str(error.loss),
            "gradient_norm": str(error.gradient_norm),
            "batch_indices": self.session.order.batch(error.step).tolist(),
        }
        said = f"{error}; the weights are as before it"
        if self.world.is_main:
            with suppress(OSError):
                write_json(path, found)
                said += f"; the batch is in {path}"
        return SmallvitError(said)

    def _skipped_in_a_row(self) -> int:
        steps, count = self.gathered.skipped_steps, 0
        while count < len(steps) and steps[-1 - count] == self.steps_done - 1 - count:
            count += 1
        return count

    def _take_time(self) -> None:
        self.gathered.train_seconds += self._restart_clock()

    def _restart_clock(self) -> float:
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        return elapsed
