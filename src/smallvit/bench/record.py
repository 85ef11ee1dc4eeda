"""What a measurement leaves behind: one JSON object that says what was measured, where, and how fast it was."""

import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import smallvit
from smallvit.bench.clock import Timing
from smallvit.device.choose import Choices, hardware
from smallvit.files import write_json
from smallvit.record import versions
from smallvit.strict_json import to_json

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one call is."""

    seconds: float
    """Of a call, by the median turn."""
    fastest_seconds: float
    """Of a call, by the fastest turn."""
    turns: int
    calls_in_turn: int
    images_per_second: float
    """By the median turn."""

    @classmethod
    def of(cls, timing: Timing, images: int) -> "Speed":
        """Return the speed of a call that treats so many images."""
        return cls(
            seconds=timing.seconds,
            fastest_seconds=min(timing.turns),
            turns=len(timing.turns),
            calls_in_turn=timing.calls_in_turn,
            images_per_second=images / timing.seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The rates of the machine, measured in the same turns."""

    gemm: str
    """The matrix product behind the peaks."""
    peak_flop_per_second: dict[str, float]
    """In each precision."""
    copy_bytes_per_second: float
    """Bytes read and written by a copy larger than the caches."""


@dataclass(frozen=True, kw_only=True)
class PeerResult:
    """Another package's model under the same step."""

    name: str
    version: str
    differs: str
    num_parameters: int
    first_step_seconds: float
    step: Speed


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """The step with one field of the config changed."""

    field: str
    value: int
    num_tokens: int
    batch_size: int
    num_macs: int
    left_out: str | None
    """Why it was not measured."""
    step: Speed | None
    first_step_seconds: float | None
    utilisation: float | None
    peak_memory_bytes: int | None
    """On a GPU; a process on a CPU does not give its memory back."""


@dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """One measurement of a recipe on a machine."""

    config: dict[str, Any]
    config_digest: str
    choices: Choices
    hardware: dict[str, str | int]
    versions: dict[str, str]
    commit: str | None
    """Of the checkout that ran, marked if tracked files differ from it; None outside one."""
    started: str
    """Coordinated universal time, ISO 8601."""
    load_before: float
    """Processes that were running in the minute before; a quiet machine has few."""
    num_parameters: int
    num_macs: int
    first_step_seconds: float
    """Of the first step: compilation, where there is one, and the first use of everything."""
    speeds: dict[str, Speed]
    """step: on a fixed batch; augmentation: drawing and applying it; pipeline: both, as a run has them, with its look
    at the loss; evaluation."""
    step_parts: dict[str, float]
    """Seconds of forward, backward and optimizer, each waited for: on a GPU more than the step in all. What is recorded
    as one CUDA graph is one part, forward and backward.
    """
    utilisation: dict[str, float]
    """Model-FLOP utilisation of step and pipeline: 3 x 2 x MACs x images/s over the peak of the precision in use."""
    machine: Machine
    floor_seconds: dict[str, float]
    """A step's arithmetic at the machine's peak, and its bytes at the copy's rate."""
    peak_memory_bytes: int
    """Of a training step: allocated on a GPU, else what the process grew by."""
    peers: list[PeerResult]
    sweep: list[SweepPoint]

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {"kind": "bench", "schema": SCHEMA, **to_json(self)}

    def save(self, path: Path) -> None:
        """Write the record whole or not at all."""
        write_json(path, self.to_json())


def circumstances() -> dict[str, Any]:
    """Return, before anything is measured, the fields of a record that say of what, when and where it is."""
    return {
        "commit": commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
        "hardware": hardware(),
        "versions": versions(),
    }


def commit() -> str | None:
    """Return the commit of the checkout that this package lies in, marked if its files differ; None outside one."""
    root = Path(smallvit.__file__).parents[2]
    if not (root / ".git").exists() or not (root / "src" / "smallvit").is_dir():
        return None
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        told = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return told.stdout.strip() or None
