"""A study on a real ray, started for it on this machine: a worker dies, the study is ended, and the records are those
of the local engine.
"""

import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from rich.console import Console

from smallvit import cli
from smallvit.errors import SmallvitError, UsageError
from smallvit.record import RunRecord
from smallvit.study.engines.ray import RayEngine
from smallvit.study.execute import run_study
from smallvit.study.watch import checkpoint_step
from tiny_study import (
    AS_WORDS,
    ONE_THREAD,
    PATIENCE,
    HereEngine,
    long_study,
    owner_of,
    parent,
    seldom,
    started,
    told,
    wait_for,
)

WORDS = ["study", "long", "--out", "runs", "--engine", "ray", "--jobs", "2", *AS_WORDS]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: it comes with the ray extra")
def test_a_worker_that_is_killed_and_a_study_that_is_ended_leave_the_records_of_a_local_one(
    tmp_path: Path, undisturbed: Callable[[str], Any]
) -> None:
    runs = [tmp_path / "runs" / "long" / f"seed{seed}" for seed in (0, 1)]

    with started(tmp_path, *WORDS) as study:
        process = wait_for(lambda: owner_of(runs[0]), "the run never saved", study)
        worker = parent(process)
        assert Path(f"/proc/{worker}/cmdline").read_bytes().startswith(b"ray::run runs/long/seed0")
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: owner_of(runs[0]) not in (None, process), "the run was not begun again", study)
        wait_for(lambda: any((run / "record.json").exists() for run in runs), "none was finished", study)
        study.send_signal(signal.SIGTERM)
        _, err = study.communicate(timeout=PATIENCE)
    assert study.returncode in (0, 143), err
    steps, left = checkpoint_step(runs[0]), [run for run in runs if not (run / "record.json").exists()]
    assert len(left) < 2

    rest = seldom(long_study())
    ending = run_study(rest, tmp_path / "runs", HereEngine(), Console(quiet=True), use=ONE_THREAD)
    assert ending.finished == len(left)
    resumed = RunRecord.load(runs[0] / "record.json").resumed_at_steps
    assert resumed
    assert runs[0] not in left or resumed[-1] == steps
    for run in runs:
        assert told(run) == undisturbed(run.name)


@pytest.mark.parametrize(
    ("address", "said", "status"),
    [
        ("127.0.0.1:1", "no ray answers at 127.0.0.1:1: Connection refused", 1),
        ("head..cluster:6379", "no ray answers at head..cluster:6379: encoding with 'idna' codec failed", 1),
        ("somewhere", "--address is 'somewhere': it must be HOST:PORT of the cluster's head, or auto", 2),
        ("ray://head:10001", "--address is 'ray://head:10001': it must be HOST:PORT", 2),
    ],
)
def test_an_address_where_no_ray_is(address: str, said: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: it comes with the ray extra")
    assert cli.main(["study", "paper", "--engine", "ray", "--address", address]) == status
    assert said in capsys.readouterr().err


def test_more_threads_than_there_are_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no worker would ever take the job."""
    ray = MagicMock(nodes=lambda: [{"Resources": {"CPU": 4.0}}])
    monkeypatch.setattr("smallvit.study.engines.ray.find_spec", lambda name: object())
    monkeypatch.setattr("smallvit.study.engines.ray._join", lambda address: ray)
    assert RayEngine(threads=4, use_gpus=False).threads == 4
    with pytest.raises(UsageError, match=r"^--device\.num-threads is 5: ray was started with 4 processors$"):
        RayEngine(threads=5, use_gpus=False)


def test_without_ray_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("smallvit.study.engines.ray.find_spec", lambda name: None)
    assert cli.main(["study", "paper", "--engine", "ray"]) == 2
    assert capsys.readouterr().err == (
        "smallvit: --engine ray needs ray, which is not installed: "
        "pip install -c constraints.txt -e '.[ray]' in the checkout\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "Version mismatch: The cluster was started with:\n    Ray: 1.2\n",
            "Version mismatch: The cluster was started with:",
        ),
        ("", "RuntimeError"),
    ],
)
def test_why_ray_cannot_be_started_is_said_in_a_line(words: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = MagicMock()
    ray.init.side_effect = RuntimeError(words)
    monkeypatch.setattr("smallvit.study.engines.ray.find_spec", lambda name: object())
    monkeypatch.setattr("smallvit.study.engines.ray.import_module", lambda name: ray)
    monkeypatch.setattr("smallvit.study.engines.ray._SETTINGS", {})
    with pytest.raises(SmallvitError) as raised:
        RayEngine()
    assert str(raised.value) == f"ray cannot be started on this machine: {said}"
