"""A second writer, and requests that do not fit what is there: refused in one line, and nothing is changed."""

import os
import re
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fault_jobs import (
    TOY,
    Job,
    Smallvit,
    Start,
    contents,
    listed_step,
    newest_step,
    one_line,
    wait_for,
    wait_until_stopped,
)
from outcomes import outcome


def test_a_second_writer_is_refused_and_a_dead_ones_run_taken_over(
    start: Start, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Both as users start them."""
    words, second = [*TOY, "--out", "run"], tmp_path / "second"
    second.mkdir()
    first = start(words, [("step", 9, "sleep", 600)])
    wait_for(lambda: listed_step(tmp_path / "run") == 9, first)
    job = start([*TOY, "--out", "../run"], cwd=second)
    job.wait()
    line = one_line(job, 1)
    who = rf"process {first.pid} on {re.escape(socket.gethostname())}, since \S+"
    assert re.fullmatch(rf"\.\./run is being written to by {who}: wait for it, or end it first", line)
    assert first.wait(0) is None
    assert newest_step(tmp_path / "run") == 9
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    job = start(words)
    assert job.wait() == 0
    assert re.search(rf"^note: run was last written to by {who}, which died$", job.out, re.M)
    assert "going on after step 9 of 18" in job.out
    assert outcome(tmp_path / "run") == undisturbed


def test_a_run_whose_folder_was_made_anew_while_it_was_stopped_writes_nothing_there(
    start: Start, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    run, second = tmp_path / "run", tmp_path / "second"
    second.mkdir()
    first = start([*TOY, "--seed", "4", "--out", "run"], [("step", 9, "stop", "stopped")])
    wait_until_stopped(first)
    shutil.rmtree(run)
    job = start([*TOY, "--out", "../run"], [("step", 4, "stop", "stopped")], cwd=second)
    wait_until_stopped(job)
    before = contents(run)
    os.kill(first.pid, signal.SIGCONT)
    first.wait()
    line = one_line(first, 1)
    assert line.startswith(f"run is no longer the folder that this run began in (process {job.pid} on ")
    assert contents(run) == before
    os.kill(job.pid, signal.SIGCONT)
    assert job.wait() == 0
    assert outcome(run) == undisturbed


def test_a_run_whose_folder_was_moved_while_it_was_stopped_goes_on_at_its_new_place(
    start: Start, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    first = start([*TOY, "--out", "run"], [("step", 9, "stop", "stopped")])
    wait_until_stopped(first)
    (tmp_path / "run").rename(tmp_path / "moved")
    os.kill(first.pid, signal.SIGCONT)
    first.wait()
    assert one_line(first, 1).startswith("run is no longer the folder that this run began in (it was deleted or moved)")
    assert not (tmp_path / "run").exists()
    assert smallvit(["train", "--resume", "moved"]).status == 0
    assert outcome(tmp_path / "moved") == undisturbed


@pytest.fixture(scope="module")
def interrupted(order: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    assert Job(order, folder, [*TOY, "--out", "half"], [("step", 8, "signal", "SIGTERM")], {}).wait() == 143
    return folder


@pytest.fixture
def half(interrupted: Path, tmp_path: Path) -> Path:
    """The folder of a run that was interrupted after 9 steps."""
    return shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True) / "half"


def test_what_does_not_fit_an_unfinished_run_is_refused_and_changes_nothing(half: Path, smallvit: Smallvit) -> None:
    def refused(*words: str) -> str:
        before = contents(half.parent)
        line = one_line(smallvit(words), 2)
        after = contents(half.parent)
        for folder in (before, after):
            for name in ("out", "err"):
                del folder[half.parent / name]
        assert after == before
        return line

    other = (
        "name another folder with --out, start from its weights with --fork half, or leave options out after --resume"
    )
    assert refused(*TOY, "--out", "half", "--seed", "4") == f"half holds another run (seed is 3, not 4): {other}"
    line = refused("train", "--resume", "half", "--train.epochs", "9")
    assert line == f"half holds another run (train.epochs is 3, not 9): {other}"
    line = refused("train", "quickstart", "--out", "half")
    assert "half holds another run (seed is 3, not 0; data.val_fraction is 0.7, not 0.1; " in line
    path = half / "config.json"
    whole = path.read_text()
    path.write_text(whole.replace('"lr": 0.01', '"lr": 0.02'))
    assert refused("train", "--resume", "half") == f"half holds another run (optim.lr is 0.01, not 0.02): {other}"
    path.write_text(whole)
    both = "--resume goes on in its own folder, from its own weights: leave out --out and --fork"
    assert refused("train", "--resume", "half", "--out", "else") == both
    assert refused("train", "--resume", "half", "--fork", "half") == both
    missing = "--resume is {!r}: it must be the folder of a run, with its config.json"
    (half.parent / "empty").mkdir()
    for name in ("empty", "nowhere"):
        assert refused("train", "--resume", name) == missing.format(name)
    assert refused(*TOY, "--fork", "nowhere") == "--fork is 'nowhere': it must be a run folder"
    line = refused(*TOY, "--fork", "empty", "--out", "forked")
    assert line == "empty holds neither model.safetensors nor a whole checkpoint to start from"
    line = refused(*TOY, "--out", "half", "--max-seconds", "-1")
    assert line.startswith("--max-seconds is -1.0: it must be a number, at least 0")


def test_a_finished_run_and_a_damaged_config_are_refused(
    half: Path, smallvit: Smallvit, undisturbed: dict[str, Any]
) -> None:
    path = half / "config.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    before = contents(half)
    for words in (("train", "--resume", "half"), (*TOY, "--out", "half")):
        assert one_line(smallvit(words), 1).startswith("half/config.json is not a readable config: ")
        assert contents(half) == before
    path.write_text(whole)
    job = smallvit(("train", "--resume", "half"))
    assert (job.status, job.err) == (0, "")
    assert outcome(half) == undisturbed
    before = contents(half)
    for words in (("train", "--resume", "half"), (*TOY, "--out", "half")):
        line = one_line(smallvit(words), 2)
        where = "for its page: smallvit report half"
        assert line == (
            f"half already holds a finished run ({where}): for another, name another folder with --out, or delete it"
        )
        assert contents(half) == before
