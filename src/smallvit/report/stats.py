"""The statistics of counts that stand beside published numbers."""

import math

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(correct: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a share, 0 to 1, from `correct` of `count` >= 1 (Wilson, JASA 22, 1927).

    It covers the draw of the test images alone: not the seed, and not a choice made on them.
    """
    share, spread = correct / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    # At 0 and 1 the end is the share itself, which rounding may miss.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))
