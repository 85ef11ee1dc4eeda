"""`smallvit` processes to which something happens: imports once what takes seconds (an optimiser imports torch._dynamo,
the end of a run scipy.optimize), and forks a command line for each order.

An order is a line of JSON on standard input, {"do": "start", ...} or {"do": "wait", ...}; the answer is one as well.
Moments are what happens, one after the other: [place, number, action, value]. A place is a call within a run. A "step"
has its own number, calls of the others are counted from when the moment before is over, and "*" is each of them. For
torchrun, `driver.py alone LIVES WORDS...` is one such command line, without a fork; a life is what its environment
holds, and the moments and faults that it then has.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from filelock import FileLock

import smallvit.run
import smallvit.stop
import smallvit.train.checkpoint
from smallvit.cli import main
from smallvit.data.config import DataConfig
from smallvit.data.store import load_dataset
from smallvit.session import Session

Moment = tuple[str, int | str, str, Any]


def fill(folder: str, left: int) -> None:
    """Leave so many bytes free on the disk of a folder."""
    disk = os.statvfs(folder)
    with (Path(folder) / "filler").open("wb") as file:
        file.write(bytes(max(0, disk.f_bavail * disk.f_frsize - left)))


def limit(size: int) -> None:
    """Let no file of this process grow beyond a size, as a quota would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def send(names: str) -> None:
    first, *others = names.split()
    os.kill(os.getpid(), signal.Signals[first])
    for name in others:
        send_again(name)


def send_again(name: str) -> None:
    """Send a signal that is no part of the one before."""
    smallvit.stop.ONE_SIGNAL_SECONDS = 0.05
    time.sleep(0.1)
    os.kill(os.getpid(), signal.Signals[name])


def wait_until_asked(_: None) -> None:
    """Wait until this process is asked to end."""
    while smallvit.stop.Stop._catching is None or not smallvit.stop.Stop._catching.reason:
        time.sleep(0.01)


def stop(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


ACTIONS: dict[str, Callable[[Any], None]] = {
    "signal": send,
    "signal again": send_again,
    "sleep": time.sleep,
    "limit": limit,
    "limit beyond": lambda value: limit(Path(value[0]).stat().st_size + value[1]),
    "fill": lambda value: fill(*value),
    "touch": lambda path: Path(path).touch(),
    "stop": stop,
    "wait until asked": wait_until_asked,
}


def arm(moments: list[Moment]) -> None:
    """Let the moments happen to this process."""
    ahead, always = [m for m in moments if m[1] != "*"], [m for m in moments if m[1] == "*"]
    passed = 0

    def reach(place: str, step: int | None = None) -> None:
        nonlocal passed
        for _, _, action, value in (moment for moment in always if moment[0] == place):
            ACTIONS[action](value)
        if not ahead or ahead[0][0] != place:
            return
        passed += 1
        if (passed if step is None else step) == ahead[0][1]:
            _, _, action, value = ahead.pop(0)
            passed = 0
            ACTIONS[action](value)

    batch, predict = Session.batch, Session.predict
    write, finish, release = smallvit.train.checkpoint._write, smallvit.run._finish, FileLock.release

    def batch_of(self: Session, step: int) -> Any:
        reach("step", step)
        return batch(self, step)

    def predict_of(self: Session, split: str, check: Callable[[], None] | None = None) -> Any:
        def checked() -> None:
            reach("pass")  # a forward pass of an evaluation
            if check is not None:
                check()

        return predict(self, split, checked)

    def write_to(path: Path, data: bytes) -> None:
        reach("write")  # a file of a checkpoint
        write(path, data)

    def finish_of(*arguments: Any) -> None:
        reach("finish")  # the last step was measured
        finish(*arguments)

    def release_of(self: FileLock, force: bool = False) -> None:
        reach("release")  # the lock of the run's folder, when all is done or has failed
        release(self, force)

    Session.batch, Session.predict, FileLock.release = batch_of, predict_of, release_of
    smallvit.train.checkpoint._write, smallvit.run._finish = write_to, finish_of


def not_a_number(what: str, steps: list[int]) -> None:
    """Make the loss, or one gradient beside a finite loss, no number in some steps."""
    batch, loss_function, now = Session.batch, Session.loss_function, -1

    def batch_of(self: Session, step: int) -> Any:
        nonlocal now
        now = step
        data = batch(self, step)
        return replace(data, images=data.images * torch.nan) if what == "loss" and step in steps else data

    def with_hook(self: Session) -> Any:
        if what == "gradient":
            weights = next(self.model.parameters())
            weights.register_hook(lambda gradient: gradient * torch.nan if now in steps else gradient)
        return loss_function(self)

    Session.batch, Session.loss_function = batch_of, with_hook


def inflict(moments: list[Moment], faults: dict[str, Any]) -> None:
    arm(moments)
    for name, value in faults.items():
        if name == "timeout":
            smallvit.run.TIMEOUT_SECONDS = value
        elif name == "one_signal":
            smallvit.stop.ONE_SIGNAL_SECONDS *= value
        elif name == "limit":
            limit(value)
        else:
            not_a_number(name, value)


def start(order: dict[str, Any]) -> int:
    """Fork a command line; what it prints goes to `out` and `err` in its working directory."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.chdir(order["cwd"])
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        inflict(order["moments"], order["faults"])
        status = main(order["words"])
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int, seconds: float) -> int | None:
    """Return how a child ended; None if it did not in time."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def serve() -> None:
    import scipy.optimize  # noqa: F401  # imported for the runs

    from kept_digits import keep_digits  # beside the tests, whose folder is the current one
    from no_page import draw_no_page

    os.fsync = os.fstat  # what a killed process has written is there, flushed or not
    keep_digits()
    load_dataset(DataConfig(dataset="digits"))  # at the size of the runs, which are forked off
    draw_no_page()
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        answer = start(order) if order["do"] == "start" else wait(order["pid"], order["seconds"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["alone"]:
        os.fsync = os.fstat
        for variables, moments, faults in json.loads(sys.argv[2]):
            if variables.items() <= os.environ.items():
                inflict(moments, faults)
        sys.exit(main(sys.argv[3:]))
    serve()
