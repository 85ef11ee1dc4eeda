"""Studies whose jobs are real processes: killed ones, and ones whose study is killed."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from smallvit.errors import UsageError
from smallvit.record import RunRecord
from smallvit.study.engines.local import VISIBLE, LocalEngine, gpus, least_used
from smallvit.study.execute import run_study
from smallvit.study.job import Order
from smallvit.study.process import Outcome, Process
from smallvit.study.watch import checkpoint_step
from tiny_study import (
    AS_WORDS,
    ONE_THREAD,
    PATIENCE,
    HereEngine,
    go_on_to_end,
    long_study,
    owner_of,
    seldom,
    started,
    stop,
    told,
    wait_for,
)

QUIET = Console(quiet=True)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_killed_run_is_a_failed_one_and_the_next_study_goes_on_with_it(tmp_path: Path) -> None:
    study, engine = replace(long_study(), seeds=(0,)), LocalEngine(1, use_gpus=False)
    folder = tmp_path / "long" / "seed0"

    def kill() -> None:
        os.kill(wait_for(lambda: owner_of(folder), "the first run never saved"), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    ending = run_study(study, tmp_path, engine, QUIET, use=ONE_THREAD)
    killer.join()
    log = tmp_path / "long" / "seed0.log"
    said = f"long row, seed 0: ended by SIGKILL, perhaps for want of memory; see {log}"
    assert (ending.failed, ending.finished, ending.left) == ([said], 0, [])
    saved = checkpoint_step(folder)
    assert saved > 0
    assert run_study(seldom(study), tmp_path, engine, QUIET, use=ONE_THREAD).finished == 1
    assert RunRecord.load(folder / "record.json").resumed_at_steps == [saved]


def test_a_study_that_is_ended_and_then_killed_goes_on_to_the_same_records(
    tmp_path: Path, undisturbed: Callable[[str], Any]
) -> None:
    runs = [tmp_path / "runs" / "long" / f"seed{seed}" for seed in (0, 1)]
    words = ["study", "long", "--out", "runs", "--jobs", "2", *AS_WORDS]
    with started(tmp_path, *words) as first:
        stopped = stop(runs, first)
        first.send_signal(signal.SIGTERM)
        for each in stopped:
            go_on_to_end(each)
        _, err = first.communicate(timeout=PATIENCE)
    assert (first.returncode, err) == (143, "smallvit: SIGTERM: 2 runs are left; the same command again goes on\n")

    steps = [checkpoint_step(run) for run in runs]
    assert all(0 < step < 90 for step in steps)
    with started(tmp_path, *words, "--seeds", "1") as second:
        wait_for(lambda: checkpoint_step(runs[0]) > steps[0], "no more saved", second)
        owner = owner_of(runs[0])
        second.kill()
    wait_for(lambda: not (owner and is_alive(owner)), "an orphan goes on")

    assert not any((run / "record.json").exists() for run in runs)
    assert run_study(seldom(long_study()), tmp_path / "runs", HereEngine(), QUIET, use=ONE_THREAD).finished == 2
    for run, times in zip(runs, (2, 1), strict=True):
        assert len(RunRecord.load(run / "record.json").resumed_at_steps) == times
        assert told(run) == undisturbed(run.name)


def test_an_order_that_cannot_be_done_ends_with_a_line_and_no_file_of_the_current_folder_is_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('somebody else has written this')")
    monkeypatch.chdir(tmp_path)
    order = Order(do="run", config={"schema": 3}, folder="there", cwd=str(tmp_path))
    found = Process(order, tmp_path / "logs" / "job.log").wait()
    assert (found.status, found.line) == (1, "config.recipe is missing")
    elsewhere = replace(order, cwd=str(tmp_path / "of another node"))
    found = Process(elsewhere, tmp_path / "logs" / "job.log").wait()
    assert (found.status, found.line) == (1, f"{elsewhere.cwd}: No such file or directory")


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "PYTHON_COLORS"])
def test_a_log_is_no_terminal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says of the study's own output."""
    python = tmp_path / "python"
    asks = "import os\nfrom rich.console import Console\nprint(Console().is_terminal, os.environ['PYTHON_COLORS'])\n"
    python.write_text(f"#!{sys.executable}\n{asks}")  # Python itself asks, since 3.13, first for PYTHON_COLORS
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setenv(name, "1")
    order = Order(do="run", config={}, folder="there", cwd=str(tmp_path))
    assert Process(order, tmp_path / "job.log").wait() == Outcome(status=0, line="False 0")


def test_the_gpus_of_a_machine_and_the_one_with_the_fewest_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert least_used(["0", "1"], []) == "0"
    assert least_used(["0", "1"], ["0"]) == "1"
    assert least_used(["0", "1"], ["1", "1", "0"]) == "0"
    assert least_used([], [None]) is None
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv(VISIBLE, "GPU-a,GPU-b")
    assert gpus() == ["GPU-a", "GPU-b"]
    assert LocalEngine().slots() == 2
    assert LocalEngine(use_gpus=False).slots() == 1
    with pytest.raises(UsageError, match="jobs is 0: it must be a whole number, at least 1"):
        LocalEngine(0)
    monkeypatch.delenv(VISIBLE)
    assert gpus() == ["0", "1"]


def test_each_job_has_a_gpu_to_itself_where_there_are_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Any] = []

    class NoProcess(Process):
        def __init__(self, order: Order, log: Path, environment: dict[str, str]) -> None:
            started.append(self)
            self.environment, self.ended = environment, None

        def poll(self) -> Outcome | None:
            return self.ended

    monkeypatch.setattr("smallvit.study.engines.local.Process", NoProcess)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv(VISIBLE, "GPU-a,GPU-b")
    engine, order = LocalEngine(), Order(do="run", config={}, folder="there", cwd=str(tmp_path))
    engine.start(order, tmp_path)
    engine.start(order, tmp_path)
    started[1].ended = Outcome(status=0, line="")
    engine.start(order, tmp_path)
    LocalEngine(use_gpus=False).start(order, tmp_path)
    assert [each.environment for each in started] == [{VISIBLE: "GPU-a"}, {VISIBLE: "GPU-b"}, {VISIBLE: "GPU-b"}, {}]


@pytest.mark.parametrize(("jobs", "threads"), [(None, None), (1, None), (2, 4), (3, 2), (16, 1)])
def test_jobs_share_the_cores(monkeypatch: pytest.MonkeyPatch, jobs: int | None, threads: int | None) -> None:
    monkeypatch.setattr("smallvit.study.engines.local.usable_cores", lambda: 8)
    assert LocalEngine(jobs, use_gpus=False).threads == threads
