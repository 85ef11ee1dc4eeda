"""The statistics that stand beside published numbers: of counts, and of seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.stats import t as student_t

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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How the mean of a row's seeds differs from the reference's, in the values' unit."""

    mean: float
    low: float
    """Ends of the 95 % interval."""
    high: float
    p_holm: float
    """Two-sided p value, by Holm's correction for all the rows that are compared."""


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation within groups, pooled over them, and its degrees of freedom."""
    freedom = sum(len(group) - 1 for group in groups if group)
    squares = sum((value - fmean(group)) ** 2 for group in groups if group for value in group)
    return (math.sqrt(squares / freedom) if freedom else math.nan), freedom


def differences(groups: Mapping[str, Sequence[float]], reference: str) -> dict[str, Difference]:
    """Compare every group of values, one a seed, with the group `reference`; groups of nothing are left out.

    Student's t with one deviation pooled over all groups: of two or three seeds, none has enough to tell its own. That
    takes the spread between seeds to be alike in all groups. Empty if no group has two values.
    """
    deviation, freedom = pooled_deviation(list(groups.values()))
    base = groups[reference]
    others = {name: values for name, values in groups.items() if values and name != reference}
    if not base or not freedom:
        return {}
    found: dict[str, tuple[float, float, float]] = {}
    for name, values in others.items():
        mean, error = fmean(values) - fmean(base), deviation * math.sqrt(1 / len(values) + 1 / len(base))
        p = 2 * float(student_t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
        found[name] = mean, float(student_t.ppf(0.975, freedom)) * error, p
    corrected = holm([p for _, _, p in found.values()])
    return {
        name: Difference(mean=mean, low=mean - half, high=mean + half, p_holm=p)
        for (name, (mean, half, _)), p in zip(found.items(), corrected, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for testing all of them (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
