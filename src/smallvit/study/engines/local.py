"""Jobs on this machine, each a process; with several GPUs each job has one."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from smallvit.checks import require_whole
from smallvit.cores import usable_cores
from smallvit.study.job import Order
from smallvit.study.process import Process

VISIBLE = "CUDA_VISIBLE_DEVICES"


class LocalEngine:
    """Up to `jobs` processes at once; by default one a GPU, and one where there is none.

    Several share the processor's threads, and the GPUs.
    """

    def __init__(self, jobs: int | None = None, *, use_gpus: bool = True) -> None:
        self._gpus = gpus() if use_gpus else []
        if jobs is None:
            jobs = max(1, len(self._gpus))
        require_whole("jobs", jobs, 1)
        self._jobs = jobs
        self.threads = None if jobs == 1 else max(1, usable_cores() // jobs)
        self.requeues = 0  # a user may end one of his runs
        self._running: list[tuple[str | None, Process]] = []

    def slots(self) -> int:
        """Return how many jobs run at once."""
        return self._jobs

    def start(self, order: Order, log: Path) -> Process:
        """Start a job, on the GPU that has the fewest."""
        self._running = [(gpu, process) for gpu, process in self._running if process.poll() is None]
        gpu = least_used(self._gpus, [gpu for gpu, _ in self._running])
        process = Process(order, log, {} if gpu is None else {VISIBLE: gpu})
        self._running.append((gpu, process))
        return process

    def close(self) -> None:
        """Do nothing: there is nothing beside the jobs."""


def gpus() -> list[str]:
    """Return the names by which a process may be given one of the GPUs that this one sees."""
    named = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    return (named or [str(index) for index in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


def least_used(gpus: Sequence[str], used: Sequence[str | None]) -> str | None:
    """Return the GPU that has the fewest jobs, the first of several; None where there is none to choose."""
    counts = Counter(used)
    return min(gpus, key=lambda gpu: counts[gpu], default=None)
