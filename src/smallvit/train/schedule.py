"""The learning rate as a pure function of the step."""

import math


def warmup_cosine(step: int, *, warmup_steps: float, total_steps: int) -> float:
    """Return the factor of the highest rate at `step`, counted from 0: a linear rise over `warmup_steps`, then half a
    cosine down to 0 at `total_steps`.

    The first step of a warm-up of several already moves (factor 1 / warmup_steps). The last step's factor is just above
    0 after a long decay, 0.5 after a decay of a single step, and 1 where the warm-up is the whole run.
    """
    if step + 1 < warmup_steps:
        return (step + 1) / warmup_steps
    start = min(warmup_steps, total_steps)
    progress = (step + 1 - start) / (total_steps + 1 - start)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
