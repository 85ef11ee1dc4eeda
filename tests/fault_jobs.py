"""The run that tests/faults does its faults to, the command lines that take it, and what they leave.

docs/reliability.md is the table of the faults. Most command lines are forked by faults/driver.py, which has torch
imported already, and can do something to them at an exact place; some are started as a user starts them.
"""

import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smallvit.train.checkpoint import load_newest

DRIVER = Path(__file__).with_name("faults") / "driver.py"
PATIENCE = 600.0
"""What waits for an event waits so long for it: a busy machine fails no test."""
STEPS = 18
TOY = (
    *("train", "quickstart", "--seed", "3", "--data.val-fraction", "0.7", "--augment.mixup-alpha", "1"),
    *("--model.patch-size", "16", "--model.embed-dim", "16", "--model.depth", "2", "--model.num-heads", "2"),
    *("--optim.optimizer", "adamw", "--optim.lr", "0.01", "--optim.warmup-epochs", "1.5", "--train.epochs", "3"),
    *("--evaluate.every-epochs", "2", "--evaluate.batch-size", "200", "--device.device", "cpu"),
    *("--device.precision", "float32", "--device.attention", "sdpa", "--device.num-threads", "1"),
    *("--checkpoint.every-seconds", "0"),
)
"""18 steps of 64, 9 of them warm-up; val, in 6 forward passes, after steps 12 and 18, and then test, in 2."""
Moment = tuple[str, int | str, str, Any]


class Job:
    """A command line that the driver forked."""

    def __init__(self, order: Callable[..., Any], cwd: Path, words: Sequence[str], moments: Any, faults: Any) -> None:
        self.cwd, self._order = cwd, order
        self.pid: int = order(do="start", cwd=str(cwd), words=list(words), moments=list(moments), faults=faults)
        self.status: int | None = None

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Return the exit status, of a killed one minus the signal; None if it did not end in time."""
        if self.status is None:
            self.status = self._order(do="wait", pid=self.pid, seconds=seconds)
        return self.status

    @property
    def out(self) -> str:
        return (self.cwd / "out").read_text()

    @property
    def err(self) -> str:
        return (self.cwd / "err").read_text()


Start = Callable[..., Job]
"""Starts a command line."""
Smallvit = Callable[..., Job]
"""Runs a command line to its end."""


def one_line(job: Job, status: int) -> str:
    """Return the one line of a command line that ended so, without the program's name."""
    assert job.status == status, job.err
    assert job.err.startswith("smallvit: "), job.err
    assert job.err.count("\n") == 1, job.err
    assert job.err.endswith("\n")
    return job.err[len("smallvit: ") : -1]


def command_to_go_on(line: str) -> list[str]:
    """Return the arguments of the command that a line ends with."""
    program, *words = shlex.split(line.split("to go on: ")[1])
    assert program == "smallvit"
    return words


def newest_step(run: Path) -> int:
    """Return the step of the newest checkpoint, 0 if there is none; whatever bears the name is whole."""
    checkpoint, passed_over = load_newest(run / "checkpoints")
    assert passed_over == []
    return 0 if checkpoint is None else checkpoint.step


def listed_step(run: Path) -> int:
    """Return the same while the run goes on."""
    return max((int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")), default=0)


def assert_unfinished_and_whole(run: Path) -> None:
    """Promised after every fault: nothing partial that looks whole, and whole lines only."""
    assert not (run / "record.json").exists()
    newest_step(run)
    text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
    assert text == "" or text.endswith("\n")
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(reached: Callable[[], Any], job: Job) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert job.wait(0) is None, job.err
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_until_stopped(job: Job) -> None:
    """Wait for a process that stops itself (SIGSTOP): what lets it go on would be lost before."""
    stat = Path(f"/proc/{job.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", job)
