"""The statistics that stand beside published numbers: of counts, and of seeds.

Runs of several rows at the same seeds are a randomised block design: a value is its row's effect, plus its seed's, plus
a residual with one deviation for the whole table (Box, Hunter and Hunter, Statistics for Experimenters, chapter 4). Of
two or three seeds no row has enough to tell a deviation of its own. Rows may lack seeds. Shapes: n values, r rows,
s seeds.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TypeVar

import numpy as np
from scipy.stats import binomtest, chi2, nct, norm
from scipy.stats import f as fisher_f
from scipy.stats import t as student_t

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
LEVEL = 0.05
"""A difference whose corrected p value is smaller is called resolved."""
POWER = 0.8
_DIGITS = 9  # after the point, of what a fit gives: its last ones depend on the processor and on the number of threads
_NOTHING = 1e-9
"""Smaller than any difference of shares of counts, larger than rounding."""

Name = TypeVar("Name")
Values = Mapping[str, Mapping[int, float]]
"""A value for each row and seed that was run."""


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the Wilson score interval of a share, 0 to 1, from `correct` of `count` >= 1 (Wilson, JASA 22, 1927).

    It covers the draw of the test images alone: not the seed, and not a choice made on them.
    """
    low, high = binomtest(correct, count).proportion_ci(0.95, "wilson")
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a row differs from the reference, or rows from rows, at equal seeds, in the values' unit; nan is what cannot
    be told."""

    mean: float
    """nan where no seeds link the two rows."""
    low: float
    """Ends of the 95 % interval; nan, as p, where either row has no two seeds that others have, or nothing is left to
    tell a deviation, as where all seeds differ by the same."""
    high: float
    p_holm: float
    """Two-sided p value, by Holm's correction for all the rows that are compared."""

    @property
    def half(self) -> float:
        """Half of the 95 % interval."""
        return self.high - self.mean

    @property
    def tested(self) -> bool:
        """Whether the seeds tell how sure it is."""
        return not math.isnan(self.p_holm)

    @property
    def resolved(self) -> bool:
        """Whether the seeds tell it from none."""
        return self.p_holm < LEVEL


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """How the seeds of the row scatter that stands out most."""

    row: str
    deviation: float
    """In the values' unit."""
    p: float
    """That of the variance's ratio to the other rows', at most 1: Bonferroni's for all that are compared."""


class SeedFit:
    """Row and seed effects by least squares, and the deviation that they leave."""

    def __init__(self, values: Values) -> None:
        self.values = {row: dict(by_seed) for row, by_seed in values.items() if by_seed}
        rows = list(self.values)
        seeds = sorted({seed for by_seed in self.values.values() for seed in by_seed})
        cells = [(row, seed) for row in rows for seed in self.values[row]]
        self._columns = {name: i for i, name in enumerate([*rows, *seeds])}
        design = np.zeros((len(cells), len(self._columns)))  # n, r + s
        for i, cell in enumerate(cells):
            design[i, [self._columns[name] for name in cell]] = 1
        self._y = np.array([self.values[row][seed] for row, seed in cells])
        # The rows' columns add up to the seeds', which rounding must not hide.
        self._inverse = np.linalg.pinv(design, rcond=_NOTHING) if cells else design.T
        self._determined = self._inverse @ design  # leaves what the design determines as it is
        rank = round(float(np.trace(self._determined)))
        self.freedom = len(cells) - rank
        """Degrees of freedom of the deviation."""
        leverages = np.einsum("ij,ji->i", design, self._inverse)
        self._scattering = {row for (row, _), each in zip(cells, leverages, strict=True) if each < 1 - _NOTHING}
        residuals = self._y - design @ (self._inverse @ self._y)
        self._squares = float(residuals @ residuals) if self.freedom else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of the residuals; nan where nothing is left to tell it."""
        return round(math.sqrt(self._squares / self.freedom), _DIGITS) if self.freedom else math.nan

    @property
    def planning_deviation(self) -> float:
        """Upper limit of the deviation, one-sided at 80 %: what to plan seeds by, for of a few degrees of freedom the
        deviation itself is often several times too small (Browne, Statistics in Medicine 14, 1995).
        """
        if not self.freedom:
            return math.nan
        return self.deviation * math.sqrt(self.freedom / float(chi2.ppf(1 - POWER, self.freedom)))

    def scatters(self, row: str) -> bool:
        """Return whether a row has residuals: of one seed, or of one that others have and some that they have not, it
        has none, since the fit meets it exactly.
        """
        return row in self._scattering

    @property
    def widest(self) -> Scatter | None:
        """The row that most speaks against one deviation for all; None where no others tell of theirs.

        The largest of variances (Cochran, Annals of Eugenics 11, 1941), by its F test, of the rows with the seeds that
        most rows have. What a seed does to all rows is in each of these variances: so the test misses more, and finds
        no more that is not there. Among rows of other seeds it would.
        """
        seeds = Counter(frozenset(by_seed) for by_seed in self.values.values() if len(by_seed) > 1).most_common(1)
        alike = {row: [*by.values()] for row, by in self.values.items() if seeds and by.keys() == seeds[0][0]}
        variances = {row: float(np.var(each, ddof=1)) for row, each in alike.items()}
        found: list[Scatter] = []
        for row, own in variances.items():
            others = [each for other, each in variances.items() if other != row]
            if sum(others) > _NOTHING:
                freedom = len(alike[row]) - 1
                p = float(fisher_f.sf(own / fmean(others), freedom, freedom * len(others)))
                found.append(Scatter(row=row, deviation=math.sqrt(own), p=min(1.0, len(alike) * p)))
        return min(found, key=lambda each: each.p, default=None)

    def contrast(self, weights: Mapping[str, float]) -> tuple[float, float]:
        """Return the estimate of a sum of rows, with weights that add up to 0, and its standard error; nan where no
        seeds link them.
        """
        contrast = np.zeros(len(self._columns))
        for row, weight in weights.items():
            contrast[self._columns[row]] = weight
        if not np.allclose(self._determined @ contrast, contrast):
            return math.nan, math.nan
        shares = contrast @ self._inverse
        error = self.deviation * float(np.linalg.norm(shares))
        return round(float(shares @ self._y), _DIGITS), round(error, _DIGITS)

    def half_width(self, row: str) -> float:
        """Return half of the 95 % interval of the row's mean, over seeds; nan for one seed.

        It is approximate: in simulated tables it covered the truth in 93 to 95 % of cases where the seeds' effect is
        no larger than the residuals, and in 86 to 93 % where it is two or three times as large.
        """
        count = len(self.values[row])
        if count == 1:
            return math.nan
        deviation, freedom = self._within
        if not deviation > _NOTHING:
            return 0.0
        return round(half_interval(deviation / math.sqrt(count), freedom), _DIGITS)

    @cached_property
    def _within(self) -> tuple[float, float]:
        """Deviation between the seeds of a row, pooled over rows, and its degrees of freedom.

        Two sources: the seed's effect, which all rows share, and the residual. Hence fewer degrees of freedom than
        values less rows: those of Satterthwaite (Biometrics Bulletin 2, 1946).
        """
        total = sum((v - fmean(by.values())) ** 2 for by in self.values.values() for v in by.values())
        freedom = len(self._y) - len(self.values)
        parts = [(total - self._squares, freedom - self.freedom), (self._squares, self.freedom)]
        spread = sum(max(0.0, squares) ** 2 / each for squares, each in parts if each)
        return math.sqrt(total / freedom), total**2 / spread if spread else freedom


def differences(values: Values, reference: str) -> dict[str, Difference]:
    """Compare every row with the row `reference`, paired by seed; rows of no values are left out.

    A row without two seeds that others have, too, has a difference but no interval: the others' deviation would have to
    be taken for its own.
    """
    fit = SeedFit(values)
    if reference not in fit.values:
        return {}
    return contrasts(fit, {row: {row: 1.0, reference: -1.0} for row in fit.values if row != reference})


def contrasts(fit: SeedFit, weights: Mapping[Name, Mapping[str, float]]) -> dict[Name, Difference]:
    """Return the sum of rows that each of `weights` names, tested against none; of a row without residuals no interval.

    Holm's correction is for all of them.
    """
    found: dict[Name, tuple[float, float, float]] = {}
    for name, each in weights.items():
        mean, error = fit.contrast(each)
        if not all(fit.scatters(row) for row in each) or not error > _NOTHING:
            found[name] = mean, math.nan, math.nan
        else:
            p = 2 * float(student_t.sf(abs(mean) / error, fit.freedom))
            found[name] = mean, half_interval(error, fit.freedom), p
    tested = [row for row, (_, _, p) in found.items() if not math.isnan(p)]
    corrected = dict(zip(tested, holm([found[row][2] for row in tested]), strict=True))
    return {
        row: Difference(mean=mean, low=mean - half, high=mean + half, p_holm=corrected.get(row, math.nan))
        for row, (mean, half, _) in found.items()
    }


def seeds_needed(difference: float, deviation: float, num_rows: int) -> int | None:
    """Return how many seeds of each of `num_rows` rows would resolve a difference from the reference.

    That is, find it with a power of 80 % at the two-sided level of Holm's first step, 5 % over the rows that are
    compared, so whatever the others show, with residuals of `deviation`. None for no difference, and for a deviation
    that is not known or none.
    """
    if abs(difference) < _NOTHING or not deviation > _NOTHING:
        return None
    level = LEVEL / (num_rows - 1)
    ratio = abs(difference) / deviation / math.sqrt(2)
    # Student's t needs a few more than the normal distribution, which is where to begin.
    seeds = max(2, math.ceil((float(norm.isf(level / 2) + norm.ppf(POWER)) / ratio) ** 2))
    while _power(ratio * math.sqrt(seeds), (num_rows - 1) * (seeds - 1), level) < POWER:
        seeds += 1
    return seeds


def half_interval(error: float, freedom: int | float) -> float:
    """Return half of Student's 95 % interval of what has a standard error that so many degrees of freedom tell."""
    return float(student_t.ppf(0.975, freedom)) * error


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for testing all of them (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _power(offset: float, freedom: int, level: float) -> float:
    """Return how often Student's two-sided test finds what lies `offset` standard errors from none."""
    if offset > 30:  # beyond that the noncentral distribution is not computed well, and leaves no doubt
        return 1.0
    critical = float(student_t.isf(level / 2, freedom))
    # scipy's cdf of the lower tail is nan for many offsets; it is the upper one of the opposite offset.
    return float(nct.sf(critical, freedom, offset) + nct.sf(critical, freedom, -offset))
