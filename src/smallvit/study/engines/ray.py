"""Jobs on a ray cluster, or on a ray that is started for them on this machine; the optional extra `ray`.

A job is a ray task that waits for a process. A process that dies takes no worker along. A worker or node that dies ends
its process, which saves, and the task is retried: the run goes on from its newest checkpoint. All nodes have this
package, and the folders of the study, of its data and in which it is started, at the same path.
"""

import logging
import os
import signal
import socket
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from smallvit.checks import require
from smallvit.errors import SmallvitError, UsageError
from smallvit.study.job import Order
from smallvit.study.process import Outcome, Process

RETRIES = 3
"""Times that a job is begun again after its worker or node died."""
CONNECT_SECONDS = 10.0
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(RETRIES)}
"""Nothing is sent home; and a run that no node has the memory for fails, instead of beginning again for ever."""


class RayEngine:
    """As many jobs at once as the cluster has GPUs, or without GPUs processors, but no more than `jobs`.

    A job has a GPU, if there are any, and `threads` processors: by default an equal share of all for each of `jobs`, or
    of the GPUs, or else one.
    """

    def __init__(
        self, address: str | None = None, jobs: int | None = None, *, threads: int | None = None, use_gpus: bool = True
    ) -> None:
        if find_spec("ray") is None:
            how = "pip install -c constraints.txt -e '.[ray]' in the checkout"
            raise UsageError(f"--engine ray needs ray, which is not installed: {how}")
        if address is not None:
            _require_answer(address)
        self._ray: Any = _join(address)
        self._use_gpus, self._jobs = use_gpus, jobs
        largest = max(int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes())
        if threads is None:
            share = jobs or (self._count("GPU") if use_gpus else 0) or self._count("CPU")
            threads = max(1, min(largest, self._count("CPU") // max(1, share)))
        elif address is None and threads > largest:  # a cluster that is joined may grow
            self.close()
            raise UsageError(f"--device.num-threads is {threads}: ray was started with {largest} processors")
        self.threads, self.requeues = threads, RETRIES
        self._task = self._ray.remote(max_retries=RETRIES)(run_process)

    def slots(self) -> int:
        """Return how many jobs the cluster, as it is now, runs at once."""
        room = max(1, self._count("CPU") // self.threads)
        if self._use_gpus and self._count("GPU"):
            room = min(room, self._count("GPU"))
        return room if self._jobs is None else min(room, self._jobs)

    def start(self, order: Order, log: Path) -> "RayJob":
        """Start a job, as soon as the cluster has what it needs."""
        gpu = 1 if self._use_gpus and self._count("GPU") else 0
        task = self._task.options(num_cpus=self.threads, num_gpus=gpu, name=f"{order.do} {order.folder}")
        return RayJob(self._ray, task.remote(order, str(log.absolute())))

    def close(self) -> None:
        """Leave the cluster, or end the one that was started."""
        self._ray.shutdown()

    def _count(self, resource: str) -> int:
        return int(self._ray.cluster_resources().get(resource, 0))


class RayJob:
    """A job that ray was given."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def poll(self) -> Outcome | None:
        """Return how it ended; None while it has not."""
        ended, _ = self._ray.wait([self._reference], timeout=0)
        if not ended:
            return None
        try:
            return self._ray.get(self._reference)
        except self._ray.exceptions.TaskCancelledError:
            return Outcome(status=128 + signal.SIGTERM, line="cancelled")
        except self._ray.exceptions.RayError as error:
            raised = isinstance(error, self._ray.exceptions.RayTaskError)  # a traceback, and then the error
            return Outcome(status=1, line=f"ray: {_lines(error)[-1 if raised else 0]}")

    def ask_to_end(self) -> None:
        """Ask it to save and end."""
        self._ray.cancel(self._reference)

    def kill(self) -> None:
        """End its worker, and so its process."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.cancel(self._reference, force=True)


def run_process(order: Order, log: str) -> Outcome:
    """Do an order in a process of a worker, and return how it ended; a cancelled task's process saves and ends."""
    process = Process(order, Path(log))
    try:
        return process.wait()
    except BaseException:  # KeyboardInterrupt when cancelled, SystemExit when the worker is to end
        process.ask_to_end()
        return process.wait()


def _join(address: str | None) -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    ray: Any = import_module("ray")
    alone: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **alone)
    except Exception as error:
        where = "be started on this machine" if address is None else f"be joined at {address}"
        raise SmallvitError(f"ray cannot {where}: {_lines(error)[0]}") from None
    return ray


def _lines(error: Exception) -> list[str]:
    """Return the lines of what an error says; its type where it says nothing."""
    return str(error).strip().splitlines() or [type(error).__name__]


def _require_answer(address: str) -> None:
    """Raise unless somebody answers at an address; ray itself would ask on for many minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    ok = bool(host) and "/" not in host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    require(ok, "--address", address, "it must be HOST:PORT of the cluster's head, or auto")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:  # of a host with a part of no letters, or of too many
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise SmallvitError(f"no ray answers at {address}: {why}") from None
