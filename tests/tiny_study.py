"""A study of tiny runs, an engine that takes them in this process, and, as a script, a command line that knows it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from outcomes import outcome
from smallvit.augment.config import AugmentConfig
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.device.config import DeviceConfig, DeviceUse
from smallvit.errors import SmallvitError
from smallvit.lock import OWNER
from smallvit.model.config import ModelConfig
from smallvit.study.job import Order, run_job
from smallvit.study.process import Outcome
from smallvit.study.rows import Row, Study
from smallvit.study.studies import STUDIES
from smallvit.study.watch import checkpoint_step
from smallvit.train.config import CheckpointConfig, OptimConfig, TrainConfig

BASE = RunConfig(
    recipe="plain",
    data=DataConfig(dataset="digits"),
    augment=AugmentConfig(horizontal_flip=0.0),
    model=ModelConfig(patch_size=16, embed_dim=8, depth=1, num_heads=1),
    optim=OptimConfig(warmup_epochs=0.0),
    train=TrainConfig(epochs=1, passes_per_epoch=1, batch_size=200),
    device=DeviceConfig(device="cpu", precision="float32"),
)
PATIENCE = 600.0
"""What waits for an event waits so long for it: a busy machine fails no test."""
ONE_THREAD = DeviceUse(device="cpu", attention="bmm", num_threads=1)
AS_WORDS = ("--device.device", "cpu", "--device.attention", "bmm", "--device.num-threads", "1")
"""The same for a command line."""


def study(**changes: RunConfig) -> Study:
    configs = {"plain": BASE, "erase": replace(BASE, recipe="erase", augment=AugmentConfig(erase_probability=0.25))}
    rows = tuple(Row(label=f"{name} row", config=config) for name, config in (configs | changes).items())
    return Study(name="tiny", title="Tiny", setting="little", reference="plain row", rows=rows, seeds=(0, 1))


def long_study() -> Study:
    """Two runs of 90 steps that save after each of them."""
    config = replace(
        BASE,
        recipe="long",
        optim=OptimConfig(lr=0.01, warmup_epochs=1.0),
        train=TrainConfig(epochs=15, passes_per_epoch=1, batch_size=200),
        checkpoint=CheckpointConfig(every_seconds=0.0),
    )
    return replace(study(), reference="long row", rows=(Row(label="long row", config=config),))


def seldom(study: Study) -> Study:
    """Return the study with runs that save at their end alone: two thirds of the time, and the same digests."""
    checkpoint = CheckpointConfig(every_seconds=1e6)
    rows = tuple(replace(row, config=replace(row.config, checkpoint=checkpoint)) for row in study.rows)
    return replace(study, rows=rows)


def told(folder: Path) -> dict[str, Any]:
    """Return what a finished run left, bar the clocks and how often it saved."""
    found = outcome(folder)
    for config in (found["config"], found["record"]["config"]):
        config["checkpoint"]["every_seconds"] = 0.0
    return found


def wait_for(reached: Callable[[], Any], what: str, process: subprocess.Popen[str] | None = None) -> Any:
    """Return what is not false in the end; an error if it does not come, or a process that is to bring it has ended."""
    deadline = time.monotonic() + PATIENCE
    while not (found := reached()):
        assert time.monotonic() < deadline, what
        assert process is None or process.poll() is None, what
        time.sleep(0.005)
    return found


def owner_of(folder: Path) -> int | None:
    """Return the process that writes to a run folder, once it has saved something."""
    try:
        return json.loads((folder / OWNER).read_text())["pid"] if checkpoint_step(folder) else None
    except (OSError, ValueError):
        return None


def stop(folders: Sequence[Path], study: subprocess.Popen[str]) -> list[int]:
    """Stop the processes of a study's runs, each as soon as it has saved something, and return them."""
    stopped: dict[Path, int] = {}

    def all_are_stopped() -> bool:
        for folder in folders:
            if folder not in stopped and (owner := owner_of(folder)) is not None:
                os.kill(owner, signal.SIGSTOP)
                stopped[folder] = owner
        return len(stopped) == len(folders)

    wait_for(all_are_stopped, "the runs never saved", study)
    return list(stopped.values())


def go_on_to_end(pid: int) -> None:
    """Let a stopped process go on as soon as a SIGTERM waits for it."""

    def is_asked() -> bool:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return bool(int(status["ShdPnd"], 16) >> (signal.SIGTERM - 1) & 1)

    wait_for(is_asked, "nobody asked it to end")
    os.kill(pid, signal.SIGCONT)


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def started(cwd: Path, *words: str) -> Generator[subprocess.Popen[str]]:
    """Start a command line that knows the tiny studies; it is killed if it lives on at the end."""
    command = [sys.executable, __file__, *words]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class Here:
    """A job that is done in this process, when it is first asked after."""

    def __init__(self, do: Callable[[], Outcome]) -> None:
        self.do, self.asked = do, False

    def poll(self) -> Outcome | None:
        return Outcome(status=143, line="saved") if self.asked else self.do()

    def ask_to_end(self) -> None:
        self.asked = True

    def kill(self) -> None:
        self.asked = True


class HereEngine:
    """Takes one run at a time in this process, and answers with `outcomes` where it has one for the run folder's name.

    The order in which they came is kept.
    """

    threads = 1
    requeues = 0

    def __init__(self, answer: Callable[[Order], Outcome | None] = lambda order: None) -> None:
        self.answer, self.orders = answer, []

    def slots(self) -> int:
        return 1

    def start(self, order: Order, log: Path) -> Here:
        self.orders.append(order)
        return Here(lambda: self.answer(order) or self.really(order))

    def really(self, order: Order) -> Outcome:
        try:
            run_job(order.config, Path(order.folder), order.until)
        except SmallvitError as error:
            return Outcome(status=error.exit_status, line=str(error))
        return Outcome(status=0, line="finished")

    def close(self) -> None:
        pass


if __name__ == "__main__":
    from smallvit.cli import main

    STUDIES["tiny"], STUDIES["long"] = study, long_study
    sys.exit(main(sys.argv[1:]))
