"""A job's process as it is seen by whoever ordered it: started, asked to end, killed, and what came of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from smallvit.files import last_lines
from smallvit.stop import OUT_OF_TIME
from smallvit.study.job import Order

POLL_SECONDS = 0.1
_LINE_BYTES = 4096
_NO_TERMINAL = {"TTY_COMPATIBLE": "0", "FORCE_COLOR": "", "PYTHON_COLORS": "0"}
"""The log is a file, whatever the environment says of the user's own output: to rich, and to Python's tracebacks."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended."""

    status: int
    """Exit status; of a killed process, minus the signal."""
    line: str
    """The last line that it printed, or the signal that ended it."""

    @property
    def was_ended(self) -> bool:
        """Whether it ended because it was asked to; before its first step there is nothing to save."""
        return self.status in (OUT_OF_TIME, 128 + signal.SIGTERM, -signal.SIGTERM)


@runtime_checkable
class Handle(Protocol):
    """A job that was started somewhere."""

    def poll(self) -> Outcome | None:
        """Return how it ended; None while it has not."""
        ...

    def ask_to_end(self) -> None:
        """Ask it to save and end."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Process:
    """A job's process on this machine. It ends soon after the one that made it, however that ends."""

    def __init__(self, order: Order, log: Path, environment: Mapping[str, str] | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("ab") as output:
            self._begins = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "smallvit.study.job"],  # -P: no json.py of the current folder
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_NO_TERMINAL, **(environment or {})},
                process_group=0,  # Ctrl-C is the study's, which passes it on; coming twice it would end the job at once
            )
        with suppress(BrokenPipeError):  # it is dead already, which poll will tell
            self._input.write(order.to_line().encode())

    def poll(self) -> Outcome | None:
        """Return how it ended; None while it has not."""
        status = self._process.poll()
        if status is None:
            return None
        self._input.close()
        last = next(reversed(last_lines(self._log, _LINE_BYTES, self._begins)), "")
        if status >= 0:
            return Outcome(status=status, line=last or f"ended with status {status}; see {self._log}")
        name = signal.Signals(-status).name
        hint = ", perhaps for want of memory" if status == -signal.SIGKILL else ""
        return Outcome(status=status, line=f"ended by {name}{hint}; see {self._log}")

    def wait(self) -> Outcome:
        """Return how it ended, when it has."""
        while (outcome := self.poll()) is None:
            time.sleep(POLL_SECONDS)
        return outcome

    def ask_to_end(self) -> None:
        """Ask it to save and end."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._input.close()

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin
