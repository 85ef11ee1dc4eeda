"""What a person sees of a study: on a terminal a live table, elsewhere one line a run that ended; and runs' notes."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from smallvit.console import is_live, say
from smallvit.progress import duration, percent
from smallvit.study.board import Board, Line
from smallvit.study.process import Outcome
from smallvit.study.rows import Study
from smallvit.study.tasks import Task
from smallvit.study.watch import read_notes

REFRESH_SECONDS = 1.0
_STYLES = {"running": "bold", "measuring": "bold", "failed": "red", "saved": "yellow", "waiting": "dim"}
_WIDTH_BESIDE_LABELS = 4 + 9 + 12 + 7 + 12 + 5 * 2 + 2
"""Columns and the space between them and at the edges."""
_HEIGHT_BESIDE_ROWS = 5
"""Lines of the table's heading and of the summary."""


class View:
    """Shows a study on a console, as it goes."""

    def __init__(self, console: Console, slots: int = 1, budget_seconds: float | None = None) -> None:
        self.console = console
        self._slots, self._budget = slots, budget_seconds
        self._board: Board | None = None
        self._live = Live(console=console, auto_refresh=False) if is_live(console) else None
        self._shown = self._began = time.monotonic()
        self._log_begins: dict[Path, int] = {}
        """Of the runs that were begun."""
        self._noted: set[str] = set()

    def begin(self, study: Study, num_tasks: int) -> None:
        """Say what there is to do, and in what way it is less than the whole."""
        scale = study.rows[0].config.scale
        runs = len(study.rows) * len(study.seeds)
        self.say(f"{study.name}: {num_tasks} of {runs} runs to do, {min(self._slots, max(1, num_tasks))} at a time")
        if scale != 1:
            self.say(
                f"note: every run takes {100 * scale:g} % of its full length, and its numbers are those of a scaled run"
            )

    @contextmanager
    def showing(self, board: Board) -> Generator[None]:
        """Show the board until the end of the context."""
        self._board, self._began = board, time.monotonic()
        if self._live is None:
            yield
            return
        with self._live:
            yield
            self._draw()

    def begun(self, task: Task) -> None:
        """Keep where a run's part of its log begins; to be called before it is started."""
        self._log_begins[task.log] = 0
        with suppress(OSError):  # there is none yet
            self._log_begins[task.log] = task.log.stat().st_size

    def refresh(self) -> None:
        """Show how far the runs are, and their notes, if it is time to."""
        assert self._board is not None
        if time.monotonic() < self._shown + REFRESH_SECONDS:
            return
        for line in self._board.of("running"):
            self._note(line.task)
        if self._live is not None:
            self._draw()
        self._shown = time.monotonic()

    def ended(self, line: Line, outcome: Outcome) -> None:
        """Say how a run ended, in a line; of the live table's own lines, why one failed."""
        assert self._board is not None
        self._note(line.task)
        if self._live is not None and line.state != "failed":
            return
        over = len(self._board.of("done", "failed", "saved"))
        start = f"{over}/{len(self._board)} {line.task}: "
        if line.record is None:
            text = outcome.line
        else:
            record = line.record
            text = f"test {percent(record.test)}, {duration(record.train_seconds)} of training"
        self.say(f"{start}{text}")

    def left(self, tasks: Sequence[Task]) -> None:
        """Say which runs are left, row by row."""
        seeds: dict[str, list[str]] = {}
        for task in tasks:
            seeds.setdefault(task.row.label, []).append(str(task.seed))
        if seeds:
            self.say("left: " + "; ".join(f"{label} (seed {', '.join(each)})" for label, each in seeds.items()))

    def say(self, text: str) -> None:
        """Print a line."""
        say(self.console, text)

    def _note(self, task: Task) -> None:
        """Say the notes of a run that none before it had."""
        begins = self._log_begins.get(task.log)
        for note in [] if begins is None else read_notes(task.log, begins):
            if note not in self._noted:
                self._noted.add(note)
                self.say(f"{task}: {note}")

    def _draw(self) -> None:
        assert self._board is not None
        assert self._live is not None
        self._board.read()
        self._live.update(self.picture(self._board), refresh=True)

    def picture(self, board: Board) -> Group:
        """Return the table of the runs, as many as the console has room for, and what they come to."""
        room = max(1, self.console.height - _HEIGHT_BESIDE_ROWS)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        widest = max(8, self.console.width - _WIDTH_BESIDE_LABELS)
        table.add_column("row", no_wrap=True, overflow="ellipsis", max_width=widest)
        table.add_column("seed", justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True, width=9)
        table.add_column("progress", no_wrap=True, width=12)
        table.add_column(f"{_split(board)}, %", justify="right", no_wrap=True, width=7)
        table.add_column("time left", justify="right", no_wrap=True, width=12)
        for line in _most_telling(board, room):
            table.add_row(*_cells(line), style=_STYLES.get(line.state))
        return Group(table, Text(self._summary(board), no_wrap=True, overflow="ellipsis"))

    def _summary(self, board: Board) -> str:
        parts = [f"{len(board.of('done'))} of {len(board)} done"]
        parts += [f"{len(runs)} {state}" for state in ("failed", "saved") if (runs := board.of(state))]
        left = board.seconds_left(self._slots)
        if board.of("running", "measuring", "waiting"):
            parts.append("time left not known yet" if left is None else f"about {duration(left)} left")
        if self._budget is not None:
            parts.append(f"{duration(max(0.0, self._began + self._budget - time.monotonic()))} of the budget")
        return ", ".join(parts)


def _most_telling(board: Board, room: int) -> list[Line]:
    """Return the runs that are shown, in the study's order: those that run, then what failed, was done, and waits."""
    running, failed = board.of("running", "measuring"), board.of("failed", "saved")
    waiting, done = board.of("waiting"), board.of("done")
    ahead = waiting[: max(1, room // 3)]
    chosen = (running + failed + ahead + done[::-1] + waiting[len(ahead) :])[:room]
    return [line for line in board if line in chosen]


def _split(board: Board) -> str:
    """Return what accuracies are measured on along the way, or a word for both where that is not known or uneven."""
    names = {line.measured_on for line in board} - {None}
    return (len(names) == 1 and names.pop()) or "acc."


def _cells(line: Line) -> tuple[RenderableType, ...]:
    label = Text(line.task.row.label)
    left = line.seconds_left if line.state == "running" else None
    return (
        label,
        str(line.task.seed),
        "starting" if line.state == "running" and not line.progress.steps_done else line.state,
        _bar(line),
        "" if line.accuracy is None else f"{100 * line.accuracy:.2f}",
        "" if left is None else duration(left),
    )


def _bar(line: Line) -> Table | str:
    if line.state in ("waiting", "measuring") or line.share is None:
        return f"{line.progress.steps_done:,} steps" if line.progress.steps_done else ""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(ProgressBar(total=1.0, completed=line.share, width=6), f"{100 * line.share:3.0f} %")
    return grid
