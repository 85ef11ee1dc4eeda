"""Jobs of a Slurm cluster, submitted through submitit; the optional extra `slurm`.

A Slurm job waits for a process. Before its time limit, or when it is preempted, Slurm warns it: the process saves and
ends, and the job is queued again and goes on. All nodes have this package, and the folders of the study, of its data
and in which it is started, at the same path.
"""

import math
import re
import shutil
import signal
import time
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from smallvit.checks import require_whole
from smallvit.errors import SmallvitError, UsageError
from smallvit.study.job import Order
from smallvit.study.process import Outcome, Process

WARNING_SECONDS = 120
"""Slurm's warning comes that long before the limit: time to finish a step and to save."""
REQUEUES = 1000
ENDED_TIMES = 3
"""Times that a run which a SIGTERM ended, of a preemption with a grace time or of `scancel`, is submitted again."""
LOOK_SECONDS = 1.0
"""Between two looks for what a job left: each asks the cluster's disk several times."""
CANCELLED_SECONDS = 60.0
"""How long a cancelled job may take to leave something; one that was only queued leaves nothing."""
_AT_ONCE = 1000
_UNSENT = re.compile(r"[0-9a-f]{32}\.pkl|\.submission_file_[0-9a-f]{32}\.sh")
_CANCELLED = Outcome(status=128 + signal.SIGTERM, line="cancelled")


class SlurmEngine:
    """As many jobs at once as the scheduler lets run, or `jobs`; each with a GPU, if it is to use one.

    `folder` takes submitit's scripts and logs. `cluster` is submitit's name of an executor; its `local` needs no Slurm.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int | None = None,
        *,
        threads: int | None = None,
        use_gpus: bool = True,
        minutes: int = 240,
        partition: str | None = None,
        account: str | None = None,
        cluster: str = "slurm",
    ) -> None:
        if find_spec("submitit") is None:
            how = "pip install -c constraints.txt -e '.[slurm]' in the checkout"
            raise UsageError(f"--engine slurm needs submitit, which is not installed: {how}")
        require_whole("--slurm.minutes", minutes, 5)
        if cluster == "slurm" and shutil.which("srun") is None:
            raise UsageError("--engine slurm needs a machine of a Slurm cluster: there is no srun here")
        self._jobs, self.threads, self.requeues = jobs or _AT_ONCE, threads or 1, ENDED_TIMES
        self._submitit: Any = import_module("submitit")
        self._executor = self._submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=REQUEUES)
        self._executor.update_parameters(
            timeout_min=minutes, nodes=1, tasks_per_node=1, cpus_per_task=self.threads, gpus_per_node=int(use_gpus)
        )
        if cluster == "slurm":
            given = {"partition": partition, "account": account, "signal_delay_s": WARNING_SECONDS}
            known = {f"slurm_{name}": value for name, value in given.items() if value is not None}
            self._executor.update_parameters(**known)

    def slots(self) -> int:
        """Return how many jobs may be queued or run at once."""
        return self._jobs

    def start(self, order: Order, log: Path) -> "SlurmJob":
        """Submit a job."""
        parts = Path(order.folder).parts[-2:]
        self._executor.update_parameters(name="-".join((order.do, *parts)))
        before = self._unsent()
        try:
            return SlurmJob(self._submitit, self._executor.submit(SlurmTask(order, log.absolute())))
        except (
            OSError,
            self._submitit.core.utils.FailedJobError,
            self._submitit.core.utils.FailedSubmissionError,
        ) as e:
            for path in self._unsent() - before:
                path.unlink(missing_ok=True)
            lines = str(e).strip().splitlines() or ["sbatch does not say why"]
            raise SmallvitError(f"a job cannot be submitted: {lines[-1]}") from None

    def close(self) -> None:
        """Do nothing: there is nothing beside the jobs."""

    def _unsent(self) -> set[Path]:
        """Return what submitit has written for jobs that were not taken, or not yet; none where that cannot be told."""
        with suppress(OSError):
            paths = Path(self._executor.folder).iterdir()
            return {path for path in paths if _UNSENT.fullmatch(path.name) and not path.is_symlink()}
        return set()


class SlurmTask:
    """What a Slurm job does; submitit asks it to save where the job is to be queued again."""

    def __init__(self, order: Order, log: Path) -> None:
        self.order, self.log = order, log
        self._process: Process | None = None

    def __call__(self) -> Outcome:
        """Do the order in a process of its own, and return how that ended."""
        self._process = Process(self.order, self.log)
        try:
            return self._process.wait()
        except KeyboardInterrupt:  # the local executor's way to cancel
            return self._end(self._process)

    def checkpoint(self) -> Any:
        """Let the process save and end, and return what the job does when it comes again."""
        if self._process is not None:
            self._end(self._process)
        return import_module("submitit").helpers.DelayedSubmission(SlurmTask(self.order, self.log))

    def _end(self, process: Process) -> Outcome:
        process.ask_to_end()
        return process.wait()


class SlurmJob:
    """A job that Slurm was given."""

    def __init__(self, submitit: Any, job: Any) -> None:
        self._submitit, self._job = submitit, job
        self._cancelled, self._looked = math.inf, -math.inf

    def poll(self) -> Outcome | None:
        """Return how it ended; None while it has not."""
        now = time.monotonic()
        if now < self._looked + LOOK_SECONDS:
            return None
        self._looked = now
        if now > self._cancelled + CANCELLED_SECONDS and not self._job.paths.result_pickle.exists():
            return _CANCELLED  # submitit would ask Slurm in some minutes, and then wait for a result
        if not self._job.done():
            return None
        try:
            return self._job.result()
        except self._submitit.core.utils.UncompletedJobError as error:
            if self._cancelled < math.inf:
                return _CANCELLED
            lines = str(error).strip().splitlines() or ["no result"]
            return Outcome(status=1, line=f"Slurm job {self._job.job_id}: {lines[0]}; see {self._job.paths.stderr}")

    def ask_to_end(self) -> None:
        """Cancel it: Slurm sends SIGTERM to its processes, and SIGKILL some time later."""
        self._cancelled = min(self._cancelled, time.monotonic())
        self._job.cancel(check=False)

    def kill(self) -> None:
        """Cancel it."""
        self.ask_to_end()
