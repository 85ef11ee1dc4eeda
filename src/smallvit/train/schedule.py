"""The learning rate as a pure function of the step: a linear rise, and then a fall that would be at 0 after the last.

A schedule returns the factor of the highest rate at `step`, counted from 0, of `total_steps`. The first step of a
warm-up of several already moves (factor 1 / warmup_steps). The last step's factor is just above 0 after a long decay,
0.5 after a decay of a single step, and 1 where the warm-up is the whole run.
"""

import math
from collections.abc import Callable

from smallvit.train.config import ScheduleName

Schedule = Callable[..., float]


def warmup_cosine(step: int, *, warmup_steps: float, total_steps: int) -> float:
    """Return the factor of a fall by half a cosine (Loshchilov and Hutter, 2017)."""
    risen, fallen = _risen_and_fallen(step, warmup_steps, total_steps)
    return risen * 0.5 * (1 + math.cos(math.pi * fallen))


def warmup_linear(step: int, *, warmup_steps: float, total_steps: int) -> float:
    """Return the factor of a fall in a straight line (Defazio et al., 2023)."""
    risen, fallen = _risen_and_fallen(step, warmup_steps, total_steps)
    return risen * (1 - fallen)


def _risen_and_fallen(step: int, warmup_steps: float, total_steps: int) -> tuple[float, float]:
    """Return how much of the warm-up and of what follows it lies behind, 0 to 1 both."""
    if step + 1 < warmup_steps:
        return (step + 1) / warmup_steps, 0.0
    start = min(warmup_steps, total_steps)
    return 1.0, min((step + 1 - start) / (total_steps + 1 - start), 1.0)


SCHEDULES: dict[ScheduleName, Schedule] = {"cosine": warmup_cosine, "linear": warmup_linear}
