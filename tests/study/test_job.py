"""A job: one that is done is left alone, one that another holds is waited for, one that is out of time saves."""

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smallvit.bench.pace import Pace
from smallvit.data.store import load_dataset
from smallvit.device.config import DeviceConfig
from smallvit.lock import LockedError, LostFolderError, run_lock
from smallvit.stop import InterruptedRunError, Stop
from smallvit.study import job
from smallvit.study.job import Order, run_job
from smallvit.study.watch import checkpoint_step
from tiny_study import BASE, ONE_THREAD, long_study, seldom, told

CONFIG = replace(BASE, device=DeviceConfig(**vars(ONE_THREAD), precision="float32")).to_json()


def test_a_finished_run_is_left_as_it_is_and_another_is_refused(tmp_path: Path) -> None:
    run_job(CONFIG, tmp_path / "run")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    run_job(CONFIG, tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == files
    with pytest.raises(Exception, match="already holds a finished run"):
        run_job(CONFIG | {"seed": 1}, tmp_path / "run")


def test_a_job_waits_for_one_that_is_just_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with run_lock(tmp_path):
            held.set()
            enough.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    monkeypatch.setattr(job, "LOCK_PATIENCE_SECONDS", 0.0)
    with pytest.raises(LockedError, match="is being written to by process"):
        run_job(CONFIG, tmp_path)
    monkeypatch.setattr(job, "LOCK_PATIENCE_SECONDS", 60.0)
    threading.Timer(0.3, enough.set).start()
    run_job(CONFIG, tmp_path)
    other.join()
    assert (tmp_path / "record.json").exists()


def test_a_job_whose_folder_is_gone_ends_and_begins_none_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(*args: Any, **options: Any) -> Any:
        (tmp_path / "run").rename(tmp_path / "moved")
        return load_dataset(*args, **options)

    monkeypatch.setattr("smallvit.run.load_dataset", prepared)
    with pytest.raises(LostFolderError, match="it was deleted or moved"):
        run_job(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_job_that_is_out_of_time_saves_and_goes_on(tmp_path: Path, undisturbed: Callable[[str], Any]) -> None:
    device = DeviceConfig(**vars(ONE_THREAD), precision="float32")
    config, rest = (replace(s.rows[0].at(0), device=device).to_json() for s in (long_study(), seldom(long_study())))
    with pytest.raises(InterruptedRunError, match="out of time") as raised:
        run_job(config, tmp_path / "seed0", until=time.time() + 0.5)
    assert raised.value.exit_status == 75
    assert 0 < checkpoint_step(tmp_path / "seed0") < 90
    run_job(rest, tmp_path / "seed0")
    assert told(tmp_path / "seed0") == undisturbed("seed0")


def test_the_last_line_of_a_job_that_measures_a_pace_is_the_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = Order(do="pace", config=CONFIG, folder=str(tmp_path / "run"), cwd=str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO(order.to_line()))
    monkeypatch.setattr(job, "_end_with_standard_input", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    assert job.main() == 0
    pace = Pace(**json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert 0 < pace.step_seconds < 10
    assert pace.num_test == 359
    assert not (tmp_path / "run").exists()


def test_an_interrupt_that_is_ignored_stays_so_and_a_schedulers_signal_does_not() -> None:
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.reason == "SIGTERM"
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_a_handler_that_python_did_not_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a program that has Python in it: `getsignal` says None of it, and `signal` could not put it back."""
    before = signal.getsignal(signal.SIGTERM)
    asked = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else asked(number))
    with Stop():
        assert asked(signal.SIGTERM) is before
        assert asked(signal.SIGINT) not in (signal.default_int_handler, signal.SIG_DFL)
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    with Stop():
        pass
    assert Stop._catching is None


def test_to_ask_once_is_no_second_signal() -> None:
    with Stop() as outer:
        with Stop() as stop:
            Stop.ask_once()
            Stop.ask_once()
            assert (stop.reason, stop.exit_status) == ("SIGTERM", 143)
        assert outer.reason == ""
        Stop.ask_once()
        assert outer.reason == "SIGTERM"
