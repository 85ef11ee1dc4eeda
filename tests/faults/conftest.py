"""Command lines to which something happens, and what the run comes to when nothing does."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fault_jobs import DRIVER, TOY, Job, Moment, Smallvit, Start
from outcomes import outcome


@pytest.fixture(scope="session")
def order() -> Iterator[Callable[..., Any]]:
    """Give an order to the driver; return its answer."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "200"}
    tests = DRIVER.parents[1]
    with subprocess.Popen(
        [sys.executable, "-m", "faults.driver"],
        cwd=tests,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def give(**what: Any) -> Any:
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield give
        process.stdin.close()


@pytest.fixture
def start(order: Callable[..., Any], tmp_path: Path) -> Iterator[Start]:
    """Start a command line; whatever of it lives at the end is killed."""
    started: list[Job] = []

    def begin(words: Sequence[str], moments: Sequence[Moment] = (), *, cwd: Path = tmp_path, **faults: Any) -> Job:
        started.append(Job(order, cwd, words, moments, faults))
        return started[-1]

    yield begin
    for job in started:
        if job.status is None and job.wait(0) is None:
            os.kill(job.pid, signal.SIGKILL)
            job.wait()


@pytest.fixture
def smallvit(start: Start) -> Smallvit:
    """Run a command line to its end."""

    def run(words: Sequence[str], moments: Sequence[Moment] = (), **options: Any) -> Job:
        job = start(words, moments, **options)
        assert job.wait() is not None, "it did not end"
        return job

    return run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that a user starts, and nothing happens to."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(
        [sys.executable, "-m", "smallvit", *TOY, "--out", "run"],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (cwd / "run" / "index.html").exists()
    return cwd / "run"


@pytest.fixture(scope="session")
def undisturbed(whole_run: Path) -> dict[str, Any]:
    return outcome(whole_run)
