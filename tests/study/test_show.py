"""What a study shows: a table that fits the terminal, and lines where there is none."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from smallvit.study.board import Board, Line
from smallvit.study.forecast import Forecast
from smallvit.study.process import Outcome
from smallvit.study.rows import Row
from smallvit.study.show import View
from smallvit.study.studies import STUDIES
from smallvit.study.tasks import Task, unfinished
from smallvit.study.watch import TAIL_BYTES, read_progress


def metrics(folder: Path, *rows: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


STEP = {"step": 199, "loss": 2.0, "lr": 0.001, "seconds": 20.0, "images_per_second": 500.0}
POINT = {"epoch": 1, "val": {"correct": 3, "count": 8}, "test": None}


def test_progress_is_read_from_the_tail_of_the_metrics(tmp_path: Path) -> None:
    assert read_progress(tmp_path).steps_done == 0
    metrics(tmp_path, POINT, *[STEP | {"step": n} for n in range(3)])
    found = read_progress(tmp_path)
    assert (found.steps_done, found.images_per_second, found.accuracy) == (3, 500.0, 0.375)
    metrics(tmp_path, *[STEP] * (TAIL_BYTES // 40), POINT | {"val": None, "test": {"correct": 1, "count": 2}})
    assert read_progress(tmp_path).accuracy == 0.5
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9')  # being written
    assert read_progress(tmp_path).steps_done == 200


def shown(board: Board, width: int, height: int = 24, budget: float | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_interactive=True, color_system=None)
    view = View(console, slots=2, budget_seconds=budget)
    board.read()
    console.print(view.picture(board))
    text = console.file.getvalue()
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def board_of(tasks: list[Task]) -> Board:
    return Board([Line(task) for task in tasks], Forecast())


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_says_what_is_known(width: int, tmp_path: Path) -> None:
    tasks = unfinished(STUDIES["cls-tokens-small"](), tmp_path)
    board = board_of(tasks)
    assert shown(board, width)[-1].strip() == f"0 of {len(tasks)} done, time left not known yet"
    board[tasks[0]].state, board[tasks[1]].state, board[tasks[2]].state = "running", "running", "failed"
    metrics(tasks[0].folder, STEP, POINT)
    lines = shown(board, width, budget=1500.0)
    assert max(map(len, lines)) <= width
    (running,) = (line for line in lines if "37.50" in line)
    total = 12 * (45_000 // 256)  # of 256 images at 500 a second
    left = round((total - 200) * 256 / 500 / 60)
    assert running.split()[:7] == ["width", "96,", "1", "CLS", "token", "0", "running"]
    assert running.split()[-4:] == ["%", "37.50", str(left), "min"]
    assert f" {100 * 200 / total:.0f} % " in running
    assert any("starting" in line for line in lines)
    assert " val, % " in lines[0]
    assert lines[-1].strip().startswith("0 of 16 done, 1 failed, about ")
    assert "of the budget" in lines[-1]


def test_all_that_is_left_is_shared_by_those_at_once_and_takes_as_long_as_the_longest(tmp_path: Path) -> None:
    first, second, *_ = tasks = unfinished(STUDIES["cls-tokens-small"](), tmp_path)[:4]
    board = board_of(tasks)
    for task in (first, second):
        board[task].state = "running"
        metrics(task.folder, STEP)
    board.read()
    steps = 12 * (45_000 // 256)
    own = (steps - 200) * 256 / 500
    assert board[first].seconds_left == pytest.approx(own)
    waiting = [board._forecast.estimate(task) for task in tasks[2:]]
    assert None not in waiting
    whole = 2 * own + sum(waiting)
    assert board.seconds_left(1) == pytest.approx(whole)
    assert board.seconds_left(2) == pytest.approx(whole / 2)
    assert board.seconds_left(100) == pytest.approx(own)
    metrics(first.folder, STEP | {"step": steps - 1})  # its last evaluation goes on
    board.read()
    assert board.seconds_left(1) == pytest.approx(whole - own)


def test_of_many_runs_those_are_shown_that_tell_the_most(tmp_path: Path) -> None:
    tasks = unfinished(STUDIES["latents-small"](), tmp_path)
    assert len(tasks) > 80
    board = board_of(tasks)
    for task in tasks[:40]:
        board[task].state = "done"
    board[tasks[3]].state, board[tasks[50]].state = "failed", "running"
    lines = shown(board, 80, height=20)
    assert len(lines) <= 20
    rows = lines[2:-1]
    assert any(f"{tasks[50].row.label} " in line and "starting" in line for line in rows)
    assert any("failed" in line for line in rows)
    assert any(f" {tasks[39].row.label} " in f" {line} " for line in rows)
    assert any(f" {tasks[40].row.label} " in f" {line} " for line in rows)


def test_without_a_terminal_each_run_is_a_line_with_names_as_they_are(tmp_path: Path) -> None:
    study = STUDIES["cls-tokens-small"]()
    study = replace(study, rows=(Row(label="[/x] :smile:", config=study.rows[0].config),), seeds=(0,))
    board = board_of(unfinished(study, tmp_path))
    console = Console(file=io.StringIO(), width=40)
    view = View(console)
    (line,) = board
    with view.showing(board):
        view.refresh()
        line.state = "failed"
        view.ended(line, Outcome(status=1, line="[bold]no[/bold] room, and a line that is longer than the console"))
    assert console.file.getvalue() == (
        "1/1 [/x] :smile:, seed 0: [bold]no[/bold] room, and a line that is longer than the console\n"
    )


@pytest.mark.parametrize("interactive", [True, False])
def test_what_runs_note_is_said_once(interactive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallvit.study.show.REFRESH_SECONDS", 0.0)
    first, second, *_ = board = board_of(unfinished(STUDIES["cls-tokens-small"](), tmp_path))
    console = Console(
        file=io.StringIO(), width=200, force_terminal=True, force_interactive=interactive, color_system=None
    )
    view = View(console)
    first.task.log.parent.mkdir()
    first.task.log.write_text("note: of the last time\n")
    for line in (first, second):
        view.begun(line.task)
        line.state = "running"
    with view.showing(board):
        with first.task.log.open("a") as log:
            print("note: in the mirror\nnote: sho", end="", file=log, flush=True)
            view.refresh()
            print("rt\n10 of 20 steps\nnote: late\nno memory", file=log)
        second.task.log.parent.mkdir(exist_ok=True)
        second.task.log.write_text("note: short\nnote: in the mirror\nnote: of another\nplain on digits\n")
        view.refresh()
        first.state = "failed"
        view.ended(first, Outcome(status=1, line="no memory"))
    said = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", console.file.getvalue())
    noted = [line.strip() for line in said.splitlines() if "note" in line]
    names = [str(first.task)] * 3 + [str(second.task)]
    notes = ["in the mirror", "short", "late", "of another"]
    assert noted == [f"{name}: note: {note}" for name, note in zip(names, notes, strict=True)]
