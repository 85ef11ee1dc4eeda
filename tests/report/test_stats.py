"""Wilson's interval against its equation and published values; seeds against scipy's tests and a worked design."""

import math
from statistics import NormalDist, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, norm, ttest_1samp, ttest_rel
from scipy.stats import f as variance_ratio
from scipy.stats import t as student_t

from smallvit.report.stats import (
    LEVEL,
    Z_95,
    SeedFit,
    Values,
    contrasts,
    differences,
    holm,
    seeds_needed,
    wilson_interval,
)

PENICILLIN: dict[str, list[float]] = {
    "A": [89, 84, 81, 87, 79],
    "B": [88, 77, 87, 92, 81],
    "C": [97, 92, 87, 89, 80],
    "D": [94, 79, 85, 84, 88],
}
"""Yields of four processes on five blends: Box, Hunter and Hunter (2005), table 4.4; residual mean square 18.83."""
PAIRS = st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 9999)), min_size=2, max_size=6)


def _by_seed(values: list[float]) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


def _design(groups: dict[str, list[float]]) -> dict[str, dict[int, float]]:
    return {row: _by_seed(values) for row, values in groups.items()}


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_lie_z_standard_errors_from_the_share(counts: tuple[int, int]) -> None:
    correct, count = counts
    share = correct / count
    low, high = wilson_interval(correct, count)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        assert (share - end) ** 2 == pytest.approx(Z_95**2 * end * (1 - end) / count, abs=1e-9)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(correct: int, count: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


@given(PAIRS)
def test_of_two_rows_the_difference_is_the_paired_t_test(pairs: list[tuple[int, int]]) -> None:
    a, b = [x / 100 for x, _ in pairs], [y / 100 for _, y in pairs]
    found = differences({"a": _by_seed(a), "b": _by_seed(b)}, "a")["b"]
    if len({y - x for x, y in pairs}) == 1:  # scipy says p = 0 or nan, of an interval without width
        assert [math.isnan(each) for each in (found.mean, found.low, found.high, found.p_holm)] == [False, *3 * [True]]
        assert not found.resolved
        return
    expected = ttest_rel(b, a)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-6)
    assert found.p_holm == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


def test_a_worked_design() -> None:
    """Its residual mean square is printed; the rest follows from it by hand."""
    fit = SeedFit(_design(PENICILLIN))
    assert (fit.freedom, fit.deviation**2) == (12, pytest.approx(226 / 12))
    found = differences(_design(PENICILLIN), "A")
    error = math.sqrt(226 / 12 * 2 / 5)
    raw = {row: 2 * student_t.sf(mean / error, 12) for row, mean in {"B": 1.0, "C": 5.0, "D": 2.0}.items()}
    assert {row: each.mean for row, each in found.items()} == pytest.approx({"B": 1.0, "C": 5.0, "D": 2.0})
    assert found["C"].high - found["C"].mean == pytest.approx(2.178813 * error, rel=1e-6)
    assert found["C"].p_holm == pytest.approx(3 * raw["C"])
    assert found["D"].p_holm == pytest.approx(min(1, 2 * raw["D"]))
    assert not found["C"].resolved


@given(
    st.dictionaries(
        st.sampled_from("abcde"), st.dictionaries(st.integers(0, 3), st.integers(0, 9999), min_size=1), min_size=2
    )
)
def test_of_rows_that_lack_seeds_it_is_the_least_squares_estimate(drawn: dict[str, dict[int, int]]) -> None:
    """Against the fall of the residual sum of squares when the row and the reference are made one (an F test)."""
    values = {row: {seed: v / 100 for seed, v in by.items()} for row, by in drawn.items()}
    reference, row = list(values)[:2]
    squares, freedom = _residual_squares(values, {})
    merged, merged_freedom = _residual_squares(values, {row: reference})
    fit = SeedFit(values)
    assert fit.freedom == freedom
    mean, error = fit.contrast({row: 1.0, reference: -1.0})
    if merged_freedom == freedom:  # no seeds link the two: to make them one costs nothing
        assert math.isnan(mean)
        return
    if freedom and squares > 1e-6:
        assert fit.deviation == pytest.approx(math.sqrt(squares / freedom))
        assert (mean / error) ** 2 == pytest.approx((merged - squares) / (squares / freedom), rel=1e-5, abs=1e-7)


def _residual_squares(values: Values, same: dict[str, str]) -> tuple[float, int]:
    rows = sorted({same.get(row, row) for row in values})
    seeds = sorted({seed for by in values.values() for seed in by})
    lines = [(same.get(row, row), seed, v) for row, by in values.items() for seed, v in by.items()]
    design = np.array([[row == r for r in rows] + [seed == s for s in seeds] for row, seed, _ in lines], dtype=float)
    y = np.array([v for *_, v in lines])
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    return float(((y - design @ solution) ** 2).sum()), len(y) - int(rank)


@given(st.lists(st.lists(st.integers(0, 9999), min_size=4, max_size=4), min_size=2, max_size=4))
def test_what_two_changes_are_more_than_their_sum_is_the_test_of_an_additive_model(drawn: list[list[int]]) -> None:
    """Against the rise of the residual sum of squares when the rows may only add up (an F test)."""
    rows = {"plain": (0, 0), "a": (1, 0), "b": (0, 1), "both": (1, 1)}
    values = {row: {seed: four[i] / 100 for seed, four in enumerate(drawn)} for i, row in enumerate(rows)}
    fit, weights = SeedFit(values), {"both": 1.0, "a": -1.0, "b": -1.0, "plain": 1.0}
    mean, error = fit.contrast(weights)
    both, a, b, plain = (np.mean(list(values[row].values())) for row in weights)
    assert mean == pytest.approx((both - plain) - ((a - plain) + (b - plain)), abs=1e-9)
    squares, freedom = _residual_squares(values, {})
    if squares < 1e-6:
        return
    seeds = range(len(drawn))
    design = np.array([[*rows[row], *(seed == s for s in seeds)] for row in rows for seed in seeds], dtype=float)
    y = np.array([values[row][seed] for row in rows for seed in seeds])
    additive = float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())
    assert (mean / error) ** 2 == pytest.approx((additive - squares) / (squares / freedom), rel=1e-5, abs=1e-7)
    found = contrasts(fit, {"excess": weights})["excess"]
    assert found.p_holm == pytest.approx(variance_ratio.sf((mean / error) ** 2, 1, freedom), rel=1e-5, abs=1e-9)


def test_one_seed_has_a_difference_but_no_interval() -> None:
    found = differences({"a": {0: 1.0, 1: 2.0}, "b": {0: 4.0}, "c": {0: 3.0, 1: 4.5}, "d": {}}, "a")
    assert found["b"].mean == pytest.approx(4.0 - (1.5 - 1.25 / 2))
    assert math.isnan(found["b"].low)
    assert math.isnan(found["b"].p_holm)
    assert not found["b"].resolved
    assert found["c"].p_holm == pytest.approx(ttest_rel([3.0, 4.5], [1.0, 2.0]).pvalue)  # corrected for itself alone
    assert "d" not in found
    assert differences({"a": {}, "b": {0: 2.0, 1: 3.0}}, "a") == {}
    alone = differences({"a": {0: 1.0}, "b": {0: 2.0}}, "a")["b"]
    assert (alone.mean, math.isnan(alone.low), math.isnan(alone.p_holm)) == (pytest.approx(1.0), True, True)


def test_rows_without_a_seed_in_common_have_no_difference() -> None:
    assert math.isnan(differences({"a": {0: 1.0, 1: 2.0}, "b": {2: 5.0, 3: 6.0}}, "a")["b"].mean)
    linked = differences({"a": {0: 1.0}, "b": {1: 5.0}, "c": {0: 2.0, 1: 4.0}}, "a")["b"]
    assert linked.mean == pytest.approx((5.0 - 4.0) + (2.0 - 1.0))


@given(st.lists(st.integers(0, 9999), min_size=2, max_size=6, unique=True))
def test_of_one_row_the_interval_of_the_mean_is_students(counts: list[int]) -> None:
    values = [count / 100 for count in counts]
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    half = SeedFit({"a": _by_seed(values)}).half_width("a")
    assert half == pytest.approx((interval.high - interval.low) / 2)


def test_the_deviation_within_rows_is_pooled_with_satterthwaites_freedom() -> None:
    """By hand: the within-row variance is (MS_seed + (r - 1) MS_residual) / r."""
    fit = SeedFit(_design(PENICILLIN))
    pooled = np.mean([stdev(values) ** 2 for values in PENICILLIN.values()])
    seed, residual = 264 / 4, 226 / 12
    assert pooled == pytest.approx((seed + 3 * residual) / 4)
    freedom = (seed + 3 * residual) ** 2 / (seed**2 / 4 + (3 * residual) ** 2 / 12)
    assert fit.half_width("A") == pytest.approx(student_t.ppf(0.975, freedom) * math.sqrt(pooled / 5))
    assert math.isnan(SeedFit({"a": {0: 1.0}, "b": {0: 2.0, 1: 3.0}}).half_width("a"))


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6)])
def test_seeds_needed_by_a_paired_test_are_cohens(effect: float, seeds: int) -> None:
    """Cohen's tables of the paired t test, also G*Power's: difference over the deviation of differences."""
    assert seeds_needed(effect, 1 / math.sqrt(2), 2) == seeds
    assert seeds_needed(-effect, 1 / math.sqrt(2), 2) == seeds


@pytest.mark.parametrize(("rows", "seeds"), [(2, 2), (4, 3)])
def test_the_deviation_to_plan_by_is_seldom_too_small(rows: int, seeds: int) -> None:
    random = np.random.default_rng(0)
    fits = [SeedFit({str(row): dict(enumerate(random.normal(size=seeds))) for row in range(rows)}) for _ in range(2000)]
    assert np.mean([fit.planning_deviation > 1 for fit in fits]) == pytest.approx(0.8, abs=0.03)
    assert math.isnan(SeedFit({"a": {0: 1.0}, "b": {0: 2.0}}).planning_deviation)


def test_seeds_needed_find_the_difference_as_often_as_they_promise() -> None:
    random, rows, deviation, wanted = np.random.default_rng(0), 4, 0.3, 0.5
    seeds = seeds_needed(wanted, deviation, rows)
    assert seeds is not None
    for count, found in ((seeds, True), (seeds - 1, False)):
        values = random.normal(scale=deviation, size=(2000, rows, count))
        values[:, 0] += wanted
        residuals = values - values.mean(1, keepdims=True) - values.mean(2, keepdims=True)
        residuals += values.mean((1, 2), keepdims=True)
        freedom = (rows - 1) * (count - 1)
        error = np.sqrt((residuals**2).sum((1, 2)) / freedom * 2 / count)
        t = (values[:, 0] - values[:, 1]).mean(1) / error
        share = float((abs(t) > student_t.isf(LEVEL / 2 / (rows - 1), freedom)).mean())
        assert (share > 0.8 - 0.027) if found else (share < 0.8 + 0.027)


def test_rounding_hides_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a design whose singular value of 0 comes out as some 1e-13."""
    values = {row: dict(enumerate(v)) for row, v in {"a": (70.0, 71.0), "b": (72.0, 73.5), "c": (69.0, 69.5)}.items()}
    fit, pinv = SeedFit(values), np.linalg.pinv
    noise = 1e-13 * np.random.default_rng(0).normal(size=(6, 5))
    monkeypatch.setattr(np.linalg, "pinv", lambda design, *args, **kwargs: pinv(design + noise, *args, **kwargs))
    rounded = SeedFit(values)
    assert (rounded.freedom, rounded.deviation) == (fit.freedom, pytest.approx(fit.deviation))
    assert rounded.contrast({"b": 1.0, "a": -1.0}) == pytest.approx(fit.contrast({"b": 1.0, "a": -1.0}))


def test_seeds_needed_of_what_cannot_be_told() -> None:
    assert seeds_needed(0.0, 0.3, 5) is None
    assert seeds_needed(0.5, math.nan, 5) is None
    assert seeds_needed(9.0, 0.0, 2) is None
    many = seeds_needed(0.001, 1.0, 5)
    quantile = NormalDist().inv_cdf(1 - 0.05 / 4 / 2)
    assert many == pytest.approx(2 * 1e6 * (quantile + NormalDist().inv_cdf(0.8)) ** 2, rel=1e-6)


def _power(ratio: float, seeds: int, num_rows: int) -> float:
    """Return how often Holm's first step finds a difference of `ratio` deviations: the mean over the deviation's
    distribution, taken at 4000 of its quantiles, and the normal distribution's tails.
    """
    freedom = (num_rows - 1) * (seeds - 1)
    spread = np.sqrt(chi2.ppf((np.arange(4000) + 0.5) / 4000, freedom) / freedom)
    critical, offset = student_t.isf(LEVEL / (num_rows - 1) / 2, freedom) * spread, ratio * math.sqrt(seeds / 2)
    return float((norm.sf(critical - offset) + norm.sf(critical + offset)).mean())


@pytest.mark.parametrize("num_rows", [2, 3, 14, 100])
def test_seeds_needed_are_the_fewest_with_the_power(num_rows: int) -> None:
    """Where scipy's lower tail was nan they were too few."""
    for ratio in np.arange(0.6, 20, 0.2):
        seeds = seeds_needed(ratio, 1.0, num_rows)
        assert seeds is not None
        assert _power(ratio, seeds, num_rows) > 0.799
        assert seeds == 2 or _power(ratio, seeds - 1, num_rows) < 0.801
    if num_rows == 2:  # with 2 seeds the power is 0.48
        assert seeds_needed(1.23, 0.15, num_rows) == 3


def test_a_seed_that_no_other_row_has_buys_no_interval() -> None:
    """The fit meets it exactly, so the row still has a single seed to be told by."""
    others = {"plain": {0: 70.0, 1: 70.4, 2: 69.8}, "a": {0: 70.05, 1: 70.5, 2: 69.9}}
    one = differences({**others, "b": {0: 72.0}}, "plain")
    more = differences({**others, "b": {0: 72.0, 9: 70.0}}, "plain")
    assert more["b"].mean == pytest.approx(one["b"].mean)
    assert math.isnan(more["b"].low)
    assert not more["b"].resolved
    assert more["a"] == one["a"]
    shared = differences({**others, "b": {0: 72.0, 1: 72.5}}, "plain")
    assert shared["b"].resolved


def test_rows_that_do_not_scatter_have_means_without_width() -> None:
    fit = SeedFit({"a": {0: 70.0, 1: 70.0}, "b": {0: 71.0, 1: 71.0}})
    assert (fit.half_width("a"), fit.half_width("b")) == (0.0, 0.0)


def test_of_two_rows_the_wider_is_told_by_the_two_sided_f_test() -> None:
    """The textbook's p: twice that of the larger variance over the smaller."""
    wide, narrow = [70.0, 75.0, 68.0], [71.0, 70.5, 70.8]
    ratio = (stdev(wide) / stdev(narrow)) ** 2
    widest = SeedFit({"narrow": _by_seed(narrow), "wide": _by_seed(wide), "other seeds": {0: 9.0, 5: 90.0}}).widest
    assert widest is not None
    assert widest.row == "wide"
    assert widest.deviation == pytest.approx(stdev(wide))
    assert widest.p == pytest.approx(2 * variance_ratio.sf(ratio, 2, 2))


@pytest.mark.parametrize(("rows", "seeds", "step"), [(8, 2, 0.0), (5, 3, 100 / 360)])
def test_where_rows_scatter_alike_one_in_twenty_tables_says_else(rows: int, seeds: int, step: float) -> None:
    """Also of few test images, where seeds have equal numbers right."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        drawn = random.normal(scale=0.5, size=(rows, seeds))
        drawn = np.round(drawn / step) * step if step else drawn
        widest = SeedFit({str(row): _by_seed(list(values)) for row, values in enumerate(drawn)}).widest
        wrong += widest is not None and widest.p < LEVEL
    assert wrong / 1000 == pytest.approx(LEVEL, abs=0.025)


def test_a_seeds_effect_on_all_rows_makes_none_of_them_stand_out() -> None:
    """Nor one of other seeds, which has other effects in it."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(500):
        effects = random.normal(scale=3, size=6)
        seeds = {**{str(row): (0, 1) for row in range(12)}, "later": (2, 3, 4, 5)}
        values = {row: {seed: effects[seed] + random.normal() for seed in each} for row, each in seeds.items()}
        widest = SeedFit(values).widest
        wrong += widest is not None and widest.p < LEVEL
    assert wrong / 500 < LEVEL


@pytest.mark.parametrize(
    "values",
    [{}, {"a": {0: 70.0, 1: 71.0}}, {"a": {0: 70.0}, "b": {0: 71.0}}, {"a": {0: 70.0, 1: 72.0}, "b": {0: 7.0, 1: 7.0}}],
)
def test_where_no_other_row_scatters_none_is_the_widest(values: Values) -> None:
    widest = SeedFit(values).widest
    assert widest is None or widest.p == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_correction_rejects_what_his_procedure_rejects(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected: set[int] = set()
        for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[i] * (len(p_values) - rank) >= level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(corrected) if p < level} == rejected


def test_the_order_of_rows_changes_no_digit() -> None:
    """Sums in another order end in other digits, as they do with another number of threads."""
    generator = np.random.default_rng(0)
    values = {f"row {i}": _by_seed(list(generator.integers(6000, 8000, 2) / 100)) for i in range(40)}
    mirrored = dict(reversed(values.items()))
    found, again = differences(values, "row 0"), differences(mirrored, "row 0")
    assert [found[row] for row in values if row in found] == [again[row] for row in values if row in again]
