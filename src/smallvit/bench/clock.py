"""Takes times: of one call, and of several contestants in turns, so that a busy machine slows them alike."""

import math
import random
import resource
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from smallvit.cores import proc
from smallvit.device.choose import timed

TURN_SECONDS = 0.2
"""A turn repeats a shorter call until about this long, so that neither the clock nor a wait for a GPU shows."""
MOST_CALLS = 200


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a call took, turn by turn."""

    calls_in_turn: int
    turns: tuple[float, ...]
    """Seconds of one call, the mean over each turn."""

    @property
    def seconds(self) -> float:
        """The median turn's seconds of a call."""
        return statistics.median(self.turns)


def take_turns(contestants: Mapping[str, Callable[[], object]], device: str, turns: int) -> dict[str, Timing]:
    """Time every contestant once in each of `turns` rounds, after one round that warms up and is not counted.

    Each round has an order of its own, the same in every process: what one leaves in the caches is not always the same
    other's to find.
    """
    warm = {name: timed(call, device) for name, call in contestants.items()}
    calls = {
        name: max(1, min(MOST_CALLS, math.ceil(TURN_SECONDS / max(warm[name], 1e-9) - 0.5))) for name in contestants
    }
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(turns):
        for name in random.Random(turn).sample(list(contestants), len(contestants)):
            taken[name].append(timed(contestants[name], device, calls[name]))
    return {name: Timing(calls_in_turn=calls[name], turns=tuple(taken[name])) for name in contestants}


class PeakMemory:
    """The most memory in use since it was made: allocated on a GPU, else what the process has grown by."""

    def __init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._before = _peak_resident_bytes()

    def read(self, device: str) -> int:
        """Return the bytes."""
        if device == "cuda":
            return torch.cuda.max_memory_allocated()
        return _peak_resident_bytes() - self._before


def _peak_resident_bytes() -> int:
    found = proc("self/status", "VmHWM")
    if found is not None:  # getrusage's peak may be that of the process that started this one
        return 1024 * int(found.split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
