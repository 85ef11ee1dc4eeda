"""Several processes of one run, started by torchrun: together, ended, killed, and hanging."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fault_jobs import (
    DRIVER,
    PATIENCE,
    TOY,
    Smallvit,
    assert_unfinished_and_whole,
    command_to_go_on,
    listed_step,
    newest_step,
    one_line,
)
from smallvit.record import RunRecord

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
SECONDS = 4.0
"""How long a process waits for the other where that hangs."""


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `smallvit` in two processes, perhaps with moments in some of their lives."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(words: Sequence[str], lives: Any = None, *options: str) -> subprocess.Popen[bytes]:
        driven = [str(DRIVER), "alone", json.dumps(lives)]
        program = ["-m", "smallvit"] if lives is None else driven
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            job = subprocess.Popen(
                [*TORCHRUN, *options, *program, *words],
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=err,
            )
        started.append(job)
        return job

    yield begin
    for job in started:
        if job.poll() is None:
            job.terminate()
            job.wait()


def assert_close(run: Path, undisturbed: dict[str, Any]) -> None:
    """Sums over a batch round otherwise in two processes, and Adam makes that larger: close is what can be promised."""
    record = RunRecord.load(run / "record.json").to_json()
    alone = undisturbed["record"]
    assert record["config_digest"] == alone["config_digest"]
    assert record["choices"]["reason"] == alone["choices"]["reason"]
    for point, expected in zip(record["curve"], alone["curve"], strict=True):
        assert point["images_seen"] == expected["images_seen"]
        assert point["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-3)
        assert point["val"]["count"] == expected["val"]["count"]
        assert point["val"]["correct"] == pytest.approx(expected["val"]["correct"], abs=10)
    assert record["test"]["count"] == alone["test"]["count"] == 359
    assert record["test"]["correct"] == pytest.approx(alone["test"]["correct"], abs=4)


def test_two_processes_then_one_then_two(
    torchrun: Any, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    run, words = tmp_path / "run", [*TOY, "--out", "run"]
    job = torchrun(words, [[{}, [["step", 4, "wait until asked", None]], {}]])
    wait_for_step(run, 4, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(PATIENCE) != 0
    lines = [line for line in (tmp_path / "err").read_text().splitlines() if line.startswith("smallvit")]
    assert lines == ["smallvit: SIGTERM: saved after step 5 of 18; to go on: smallvit train --resume run"]
    assert newest_step(run) == 5
    job = smallvit(command_to_go_on(lines[0]), [("step", 11, "signal", "SIGTERM")])
    one_line(job, 143)
    assert "going on after step 5 of 18" in job.out
    assert "note: devices: 1, was 2: the same batches, but sums round otherwise" in job.out
    assert torchrun(command_to_go_on(lines[0])).wait(PATIENCE) == 0, (tmp_path / "err").read_text()
    said = (tmp_path / "out").read_text()
    assert "note: devices: 2, was 1: the same batches, but sums round otherwise" in said
    assert said.count("test accuracy") == 1
    assert said.count("page    run/index.html") == 1
    record = RunRecord.load(run / "record.json")
    assert (record.world_size, record.resumed_at_steps) == (2, [5, 12])
    assert_close(run, undisturbed)
    assert not [path for path in run.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def wait_for_step(run: Path, step: int, job: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while listed_step(run) < step:
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_process_is_started_again_and_a_hanging_one_ends_the_job_in_time(
    torchrun: Any, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Rank 1 is killed in step 7 of its first life, and stopped in step 12 of its second, which is the last allowed."""
    run, words = tmp_path / "run", [*TOY, "--out", "run"]
    first, second = ({"RANK": "1", "TORCHELASTIC_RESTART_COUNT": count} for count in "01")
    lives = [
        [first, [["step", 7, "signal", "SIGKILL"]], {}],
        [{"TORCHELASTIC_RESTART_COUNT": "1"}, [], {"timeout": SECONDS}],
        [second, [["step", 12, "stop", "stopped"]], {}],
    ]
    job = torchrun(words, lives, "--max-restarts=1")
    deadline = time.monotonic() + PATIENCE
    while "one of them hangs" not in (tmp_path / "err").read_text():
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stopped = tmp_path / "stopped"
    assert time.time() - stopped.stat().st_mtime < SECONDS + 10
    os.kill(int(stopped.read_text()), signal.SIGKILL)  # as torchrun itself does, 30 s later
    assert job.wait(PATIENCE) == 1
    err, out = (tmp_path / "err").read_text(), (tmp_path / "out").read_text()
    lines = [line for line in err.splitlines() if line.startswith("smallvit")]
    lost = "lost the connection to another rank at 127.0.0.1 (it died, or ended with an error of its own), in step 7"
    silent = f"got no answer from the other ranks within {SECONDS:g} s (one of them hangs), in step 12"
    assert lines == [f"smallvit: rank 0 {lost}", f"smallvit: rank 0 {silent}"]
    assert "going on after step 7 of 18" in out
    assert newest_step(run) == 12
    assert_unfinished_and_whole(run)
    assert smallvit(words).status == 0
    assert RunRecord.load(run / "record.json").resumed_at_steps == [7, 12]
    assert_close(run, undisturbed)
