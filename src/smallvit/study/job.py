"""One job of a study, in a process of its own: `python -m smallvit.study.job`, with an order as its standard input.

Whatever happens to it, a crash or too little memory, happens to one run. Standard input stays open: its end is that of
the one who ordered, and a job that nobody waits for saves and ends. Standard output's last line says how it ended.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from smallvit.config import RunConfig
from smallvit.console import plain_console
from smallvit.errors import SmallvitError, line_of
from smallvit.stop import Stop
from smallvit.strict_json import from_json, parse, to_json

LOCK_PATIENCE_SECONDS = 90.0
"""How long a job waits for another to let go of the run folder, as one does whose study or node has just died."""
ORPHAN_SECONDS = 60.0
"""How long a job that nobody waits for may take to save and end."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a job is to do."""

    do: Literal["run", "pace"]
    """Train a run, or measure how fast it would be."""
    config: dict[str, Any]
    folder: str
    """Run folder."""
    cwd: str
    """Folder that relative paths start from."""
    until: float | None = None
    """Time by which to have saved and ended, in seconds of the Unix epoch."""

    def to_line(self) -> str:
        """Return the order as a line of JSON."""
        return json.dumps(to_json(self)) + "\n"


def run_job(config_json: dict[str, Any], folder: Path, until: float | None = None) -> None:
    """Train a run in its folder, or go on with it; one that is finished already is left as it is.

    Raises `SmallvitError` as `smallvit.run.run` does, and `InterruptedRunError` in time for `until`, as in an order.
    """
    patience_ends = time.monotonic() + LOCK_PATIENCE_SECONDS
    config = RunConfig.from_json(config_json)
    from smallvit.lock import LockedError
    from smallvit.record import RunRecord
    from smallvit.run import run
    from smallvit.run_folder import RECORD

    console = plain_console(unread=True)
    while True:
        record = folder / RECORD
        if record.exists() and RunRecord.load(record).config_digest == config.digest():
            return
        left = None if until is None else max(0.0, until - time.time())
        try:
            run(config, folder, console=console, max_seconds=left)
        except LockedError:
            if time.monotonic() > patience_ends or left == 0.0:
                raise
            time.sleep(0.5)
        else:
            return


def main() -> int:
    """Do the order, print what came of it as the last line, and return the exit status."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # a scheduler's warnings, meant for the one who ordered
        signal.signal(number, signal.SIG_IGN)
    order = from_json(Order, parse(sys.stdin.readline()), "order")
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    try:
        os.chdir(order.cwd)
        if order.do == "pace":
            from smallvit.bench.pace import measured_pace
            from smallvit.bench.workload import Workload

            print(json.dumps(asdict(measured_pace(Workload(RunConfig.from_json(order.config))))))
        else:
            run_job(order.config, Path(order.folder), order.until)
            print("finished")
    except SmallvitError as error:
        print(error)
        return error.exit_status
    except (OSError, RuntimeError, MemoryError) as error:
        line = line_of(error)
        if line is None:
            raise
        print(line)
        return 1
    return 0


def _end_with_standard_input() -> None:
    while os.read(0, 1):
        pass
    Stop.ask_once()  # the one who ordered may have been ended by what asks this process, too
    time.sleep(ORPHAN_SECONDS)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
