"""A study through submitit's local executor, whose jobs are preempted and queued again as Slurm's are."""

import importlib.util
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from smallvit import cli
from smallvit.errors import SmallvitError
from smallvit.record import RunRecord
from smallvit.study.engines.slurm import SlurmEngine, SlurmJob
from smallvit.study.execute import run_study
from smallvit.study.job import Order
from smallvit.study.process import Outcome
from smallvit.study.watch import checkpoint_step
from tiny_study import ONE_THREAD, HereEngine, long_study, owner_of, parent, seldom, told, wait_for

QUIET = Console(quiet=True)
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="submitit is not installed: it comes with the slurm extra"
)


@needs_submitit
def test_a_preempted_job_saves_and_goes_on_when_it_comes_again(
    tmp_path: Path, undisturbed: Callable[[str], Any]
) -> None:
    run = tmp_path / "runs" / "long" / "seed0"

    def preempt() -> None:
        process = wait_for(lambda: owner_of(run), "the run never saved")
        os.kill(parent(process), signal.SIGUSR2)

    scheduler = threading.Thread(target=preempt)
    scheduler.start()
    engine = SlurmEngine(tmp_path / "submitit", use_gpus=False, cluster="local")
    ending = run_study(replace(long_study(), seeds=(0,)), tmp_path / "runs", engine, QUIET, use=ONE_THREAD)
    scheduler.join()
    assert (ending.finished, ending.failed, ending.left) == (1, [], [])
    saved = re.search(r"saved after step (\d+) of 90", run.with_suffix(".log").read_text())
    assert saved is not None
    assert RunRecord.load(run / "record.json").resumed_at_steps == [int(saved[1])]
    assert told(run) == undisturbed("seed0")


@needs_submitit
def test_a_cancelled_study_leaves_what_the_next_one_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 1)  # of 15 for a result on a slow disk
    study, run = replace(long_study(), seeds=(0,)), tmp_path / "long" / "seed0"

    def end() -> None:
        wait_for(lambda: owner_of(run), "the run never saved")
        os.kill(os.getpid(), signal.SIGTERM)

    user = threading.Thread(target=end)
    user.start()
    engine = SlurmEngine(tmp_path / "submitit", use_gpus=False, cluster="local")
    ending = run_study(study, tmp_path, engine, QUIET, use=ONE_THREAD)
    user.join()
    assert (len(ending.left), ending.failed, ending.exit_status) == (1, [], 143)
    wait_for(lambda: not (run / ".owner.json").exists(), "the run did not end")
    step = checkpoint_step(run)
    assert run_study(seldom(study), tmp_path, HereEngine(), QUIET, use=ONE_THREAD).finished == 1
    assert RunRecord.load(run / "record.json").resumed_at_steps == [step]


def test_a_cancelled_job_that_was_only_queued_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves nothing, and submitit asks Slurm for its state every ten minutes."""
    looked: list[float] = []
    paths = SimpleNamespace(result_pickle=tmp_path / "none")
    queued = SimpleNamespace(done=lambda: looked.append(time.monotonic()), cancel=lambda check: None, paths=paths)
    job = SlurmJob(None, queued)
    assert job.poll() is None
    assert job.poll() is None
    assert len(looked) == 1  # each look asks a disk that others share
    monkeypatch.setattr("smallvit.study.engines.slurm.LOOK_SECONDS", 0.0)
    job.ask_to_end()
    assert job.poll() is None
    monkeypatch.setattr("smallvit.study.engines.slurm.CANCELLED_SECONDS", 0.0)
    assert job.poll() == Outcome(status=143, line="cancelled")


@needs_submitit
def test_what_is_asked_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the script that the cluster's sbatch is given."""
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\necho Submitted batch job 12\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    order = Order(do="run", config={}, folder=str(tmp_path / "row" / "seed1"), cwd=str(tmp_path))
    scripts: list[set[str]] = []
    for number, options in enumerate(({"partition": "fast", "account": "us", "minutes": 30, "threads": 6}, {})):
        folder = tmp_path / str(number)
        SlurmEngine(folder, use_gpus=not number, **options).start(order, tmp_path / "log")
        script = next(folder.glob("*_submission.sh"))
        scripts.append({line.removeprefix("#SBATCH --") for line in script.read_text().splitlines()})
    asked = {"job-name=run-row-seed1", "nodes=1", "ntasks-per-node=1", "signal=USR2@120"}
    first = {"partition=fast", "account=us", "time=30", "cpus-per-task=6", "gpus-per-node=1"}
    assert scripts[0] >= asked | first
    assert scripts[1] >= asked | {"time=240", "cpus-per-task=1", "gpus-per-node=0"}
    assert not [line for line in scripts[1] if line.startswith(("partition", "account"))]


@needs_submitit
def test_a_job_that_is_refused_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again every ten seconds, for hours."""
    for name, script in (("srun", "exit 0"), ("sbatch", "echo QOSMaxSubmitJobPerUserLimit >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    order = Order(do="run", config={}, folder=str(tmp_path / "row" / "seed1"), cwd=str(tmp_path))
    engine = SlurmEngine(tmp_path / "jobs", use_gpus=False)
    with pytest.raises(SmallvitError, match=r"a job cannot be submitted: .*QOSMaxSubmitJobPerUserLimit"):
        engine.start(order, tmp_path / "log")
    assert not list((tmp_path / "jobs").iterdir())
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 12\n")
    engine.start(order, tmp_path / "log")
    taken = set((tmp_path / "jobs").iterdir())
    assert {path.name for path in taken} >= {"12_submission.sh", "12_submitted.pkl"}
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SmallvitError):
        engine.start(order, tmp_path / "log")
    assert set((tmp_path / "jobs").iterdir()) == taken


def test_without_submitit_or_slurm_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", "paper", "--engine", "slurm"]
    monkeypatch.setattr("smallvit.study.engines.slurm.find_spec", lambda name: object())
    monkeypatch.setattr("smallvit.study.engines.slurm.shutil.which", lambda name: None)
    assert cli.main(words) == 2
    assert capsys.readouterr().err == (
        "smallvit: --engine slurm needs a machine of a Slurm cluster: there is no srun here\n"
    )
    assert cli.main([*words, "--slurm.minutes", "1"]) == 2
    assert "--slurm.minutes is 1: it must be a whole number, at least 5" in capsys.readouterr().err
    monkeypatch.setattr("smallvit.study.engines.slurm.find_spec", lambda name: None)
    assert cli.main(words) == 2
    assert capsys.readouterr().err == (
        "smallvit: --engine slurm needs submitit, which is not installed: "
        "pip install -c constraints.txt -e '.[slurm]' in the checkout\n"
    )
