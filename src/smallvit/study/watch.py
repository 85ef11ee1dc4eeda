"""How far a run is, and what it notes, read from its folder and log; so it works wherever the run takes place."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smallvit.files import last_lines
from smallvit.run_folder import CHECKPOINTS, METRICS
from smallvit.train.checkpoint import listed

TAIL_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the last lines of metrics.jsonl say."""

    steps_done: int = 0
    images_per_second: float = 0.0
    accuracy: float | None = None
    """At the last measurement, 0 to 1."""
    measured_on: Literal["val", "test"] | None = None
    """Test where no val is held out."""


def read_progress(folder: Path) -> Progress:
    """Return how far the run in a folder is; nothing where it has not begun."""
    step: dict[str, Any] = {}
    point: dict[str, Any] = {}
    for line in reversed(last_lines(folder / METRICS, TAIL_BYTES)):
        with suppress(ValueError):  # the tail may begin within a line
            row = json.loads(line)
            if not step and "step" in row:
                step = row
            if not point and "val" in row:
                point = row
        if step and point:
            break
    measured_on = "val" if point.get("val") else "test" if point.get("test") else None
    measured = point[measured_on] if measured_on else None
    return Progress(
        steps_done=step["step"] + 1 if step else 0,
        images_per_second=step.get("images_per_second", 0.0),
        accuracy=measured["correct"] / measured["count"] if measured else None,
        measured_on=measured_on,
    )


def read_notes(log: Path, begin: int) -> list[str]:
    """Return the notes in a run's log from byte `begin` on; of a last line that may not be whole yet, none."""
    return [line for line in last_lines(log, TAIL_BYTES, begin)[:-1] if line.startswith("note: ")]


def checkpoint_step(folder: Path) -> int:
    """Return the steps done at the newest checkpoint of a run, 0 where there is none."""
    with suppress(OSError):  # of a folder that cannot be read, or that a run which ends deletes at this moment
        return max((step for step, _ in listed(folder / CHECKPOINTS)), default=0)
    return 0
