"""Wilson's interval against its defining equation and published values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallvit.report.stats import Z_95, wilson_interval


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
