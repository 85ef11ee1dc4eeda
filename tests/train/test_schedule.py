"""The schedule against torch's own."""

import math
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from smallvit.train.config import ScheduleName
from smallvit.train.schedule import SCHEDULES

NAMES = pytest.mark.parametrize("name", get_args(ScheduleName))


def torchs(name: str, warmup: int, total: int) -> list[float]:
    """torch's rates: a linear rise that reaches 1 at step warmup - 1, then a fall that would be at 0 at `total`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    steps = total + 1 - warmup
    fall: torch.optim.lr_scheduler.LRScheduler = {
        "cosine": lambda: CosineAnnealingLR(optimizer, T_max=steps),
        "linear": lambda: LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps),
    }[name]()
    schedule = fall
    if warmup > 1:
        rise = LinearLR(optimizer, start_factor=1 / warmup, end_factor=1.0, total_iters=warmup - 1)
        schedule = SequentialLR(optimizer, [rise, fall], milestones=[warmup - 1])
    rates: list[float] = []
    for _ in range(total):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR calls it that way itself
@pytest.mark.parametrize(("warmup", "total"), [(1, 30), (2, 9), (10, 100), (37, 50)])
@NAMES
def test_whole_warmups_equal_torchs_schedulers(name: ScheduleName, warmup: int, total: int) -> None:
    ours = [SCHEDULES[name](step, warmup_steps=float(warmup), total_steps=total) for step in range(total)]
    assert ours == pytest.approx(torchs(name, warmup, total), abs=1e-9)


@NAMES
@given(total=st.integers(1, 300), share=st.floats(0, 1))
def test_it_rises_then_falls_and_stays_above_0_and_at_most_1(name: ScheduleName, total: int, share: float) -> None:
    warmup = share * total
    factors = [SCHEDULES[name](step, warmup_steps=float(warmup), total_steps=total) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert top in (max(math.ceil(warmup) - 1, 0), max(math.ceil(warmup) - 2, 0))
    assert all(a < b for a, b in pairwise(factors[: top + 1]))
    assert all(a > b for a, b in pairwise(factors[top:]))


@pytest.mark.parametrize(("name", "first", "last"), [("cosine", 0.9999, 1e-5), ("linear", 0.99899, 1.0001e-3)])
def test_without_a_warmup_the_first_step_is_nearly_full_and_the_last_nearly_none(
    name: ScheduleName, first: float, last: float
) -> None:
    factors = [SCHEDULES[name](step, warmup_steps=0.0, total_steps=1000) for step in range(1000)]
    assert first < factors[0] < 1
    assert 0 < factors[-1] < last


@NAMES
def test_a_warmup_as_long_as_the_run_ends_at_the_highest_rate(name: ScheduleName) -> None:
    assert SCHEDULES[name](9, warmup_steps=10.0, total_steps=10) == 1
