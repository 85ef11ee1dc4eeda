"""Wilson's interval against its equation and published values; differences of seeds against scipy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from smallvit.report.stats import Z_95, differences, holm, pooled_deviation, wilson_interval

VALUES = st.lists(st.floats(0, 100), min_size=2, max_size=6)


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


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(VALUES, VALUES)
def test_of_two_rows_the_difference_is_students_t_test(a: list[float], b: list[float]) -> None:
    if pooled_deviation([a, b])[0] < 1e-6:
        return
    found = differences({"a": a, "b": b}, "a")["b"]
    expected = ttest_ind(b, a)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-6)
    assert found.p_holm == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


def test_the_deviation_is_pooled_over_rows_and_rows_of_nothing_do_not_count() -> None:
    assert pooled_deviation([[1.0, 3.0], [10.0, 12.0, 14.0], [5.0], []]) == (pytest.approx((10 / 3) ** 0.5), 3)
    assert differences({"a": [1.0], "b": [2.0]}, "a") == {}
    assert differences({"a": [], "b": [2.0, 3.0]}, "a") == {}
    assert differences({"a": [1.0, 2.0], "b": [], "c": [9.0]}, "a").keys() == {"c"}


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
