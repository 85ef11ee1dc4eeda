"""A process that saves checkpoints and dies: imports torch once and forks for each order on its standard input.

An order is a line of JSON, {"do": name, ...}; the answer is one as well, written when the child has ended. A child
told to die at its n-th file operation kills itself with SIGKILL before it or after it, or halfway in its n-th write.
"""

import contextlib
import functools
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from failing_calls import fail
from smallvit.errors import SmallvitError
from smallvit.train.checkpoint import Checkpoint, load_newest, remove_leftovers, save_checkpoint

OPERATIONS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")
report = os.write
"""Not one of the operations of a save."""


def example(step: int, size: int = 300) -> Checkpoint:
    """Return the checkpoint that belongs to a step."""
    generator = torch.Generator().manual_seed(step)
    draw = functools.partial(torch.rand, generator=generator)
    model = {"weight": draw(3, size), "bias": draw(3), "half": draw(size).bfloat16()}
    optimizer = {"0.0.step": torch.tensor(float(step)), "0.0.exp_avg": draw(3, size)}
    state = {"step": step, "losses": [step / 7, -0.0, 1e-300], "note": "läuft"}
    texts = {"metrics.jsonl": "".join(f'{{"step": {i}}}\n' for i in range(step % 1000))}
    return Checkpoint(step=step, tensors={"model": model, "optimizer": optimizer}, state=state, texts=texts)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(number: int, when: str) -> list[str]:
    """Arm the process; return the list to which the operations that were reached are added."""
    seen: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) != number:
                return real(*arguments, **options)
            if when == "halfway":
                arguments = (arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if when != "before":
                with contextlib.suppress(OSError):
                    real(*arguments, **options)
            return die()

        return operation

    for name in ("write",) if when == "halfway" else OPERATIONS:
        setattr(os, name, wrap(name, getattr(os, name)))
    return seen


def save(folder: Path, order: dict[str, Any]) -> Any:
    """Save one checkpoint, perhaps dying, or where the system does not let it."""
    if "max_bytes" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["max_bytes"], resource.RLIM_INFINITY))
    if "user" in order:
        os.setgroups([])
        os.setgid(order["user"])
        os.setuid(order["user"])
    if "umask" in order:
        os.umask(order["umask"])
    if "fail" in order:
        fail(*order["fail"])
    checkpoint = example(order["step"])
    seen = die_at(order.get("number", 0), order.get("when", ""))
    try:
        save_checkpoint(folder, checkpoint)
    except SmallvitError as error:
        return {"error": str(error), "seen": seen}
    return {"seen": seen}


def saves(folder: Path, pipe: int) -> None:
    """Go on from the newest checkpoint, as a run would, and save after every step, for ever; report each one."""
    report(pipe, b"ready\n")
    remove_leftovers(folder)
    newest, passed_over = load_newest(folder)
    assert not passed_over, passed_over
    step = newest.step if newest else 0
    while True:
        step += 1
        save_checkpoint(folder, example(step, 30_000))
        report(pipe, f"{step}\n".encode())


def in_child(work: Callable[[int], Any], kill: Callable[[int, IO[str]], str] | None = None) -> dict[str, Any]:
    """Do the work in a forked process, perhaps kill it, and return how it ended and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            answer = work(writing)
            report(writing, json.dumps(answer).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = kill(child, pipe) if kill else ""
        said += pipe.read()
    return {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "said": said}


def kill_at_random(child: int, pipe: IO[str]) -> str:
    """Let a child start, or make one or two saves, and kill it at some moment of what comes next."""
    said, moments = "", [time.monotonic()]
    for _ in range(random.randint(1, 3)):
        said += pipe.readline()
        moments.append(time.monotonic())
    time.sleep(random.uniform(0, max(0.02, moments[-1] - moments[-2])))
    os.kill(child, signal.SIGKILL)
    return said


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        folder = Path(order["folder"])
        if order["do"] == "save":
            answer = in_child(lambda _, folder=folder, order=order: save(folder, order))
        else:
            answer = in_child(lambda pipe, folder=folder: saves(folder, pipe), kill_at_random)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
