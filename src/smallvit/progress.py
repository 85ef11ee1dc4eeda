"""What a person sees of a run: on a terminal a live bar, elsewhere one line a measurement."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from smallvit.console import is_live, say
from smallvit.evaluate import Metrics
from smallvit.record import CurvePoint

ESTIMATE_AFTER_STEPS = 20


class RunProgress:
    """Shows loss, rate, images/s and the time left; says after 20 steps how long the whole run will take."""

    def __init__(
        self, console: Console, total_steps: int, batch_size: int, steps_done: int = 0, warm_steps: int = 1
    ) -> None:
        self.console = console
        self.total_steps = total_steps
        self.batch_size = batch_size
        self._start, self._warm = steps_done, steps_done + warm_steps
        """The latter: after the steps that take longer than what comes after them."""
        self._first_end = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
            disable=not is_live(console),
            transient=True,
        )
        self._task = self._bar.add_task("training", total=total_steps, completed=steps_done, numbers="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, steps_done: int) -> None:
        """Count a step, and after the first twenty say how long the run will take."""
        self._bar.update(self._task, completed=steps_done)
        if steps_done == self._warm:
            self._first_end = time.perf_counter()
        left = self.total_steps - self._start
        if steps_done == self._warm + ESTIMATE_AFTER_STEPS and left > 2 * ESTIMATE_AFTER_STEPS:
            per_step = (time.perf_counter() - self._first_end) / ESTIMATE_AFTER_STEPS
            speed = self.batch_size / per_step
            self.say(f"about {duration(per_step * left)} of training at {speed:,.0f} images/s")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        say(self.console, line)

    def numbers(self, loss: float, lr: float, images_per_second: float) -> None:
        """Show the newest loss, learning rate and speed beside the steps and the time left, for which a terminal of 60
        columns has room; the rate is shown on one of 80.
        """
        rate = f"  rate {lr:.1e}" if self.console.width >= 80 else ""
        speed = f"  {images_per_second:,.0f} images/s" if images_per_second else ""
        self._bar.update(self._task, numbers=f"loss {loss:.3f}{rate}{speed}")

    def point(self, point: CurvePoint, epochs: int) -> None:
        """Print one measurement as a line, which a terminal of 80 columns has room for."""
        parts = [f"epoch {point.epoch:>{len(str(epochs))}}/{epochs}", f"loss {_loss(point)}"]
        splits = (("val", point.val), ("test", point.test))
        parts += [f"{name} {100 * metrics.accuracy:.2f} %" for name, metrics in splits if metrics is not None]
        self.say("  ".join([*parts, duration(point.seconds)]))


def _loss(point: CurvePoint) -> str:
    return "unknown" if point.train_loss is None else f"{point.train_loss:.3f}"


def percent(metrics: Metrics) -> str:
    """Return the accuracy with its counts: `98.05 % (352 of 359)`."""
    return f"{100 * metrics.accuracy:.2f} % ({metrics.correct:,} of {metrics.count:,})"


def duration(seconds: float) -> str:
    """Return a time as a person writes it: `48 s`, `12 min`, `3 h 05 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
