"""The order of images: what each pass, epoch and step gets."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smallvit.data.loader import DeviceSplit, Order
from smallvit.data.split import Split

ORDERS = st.fixed_dictionaries(
    {
        "num_images": st.integers(1, 60),
        "batch_size": st.integers(1, 40),
        "passes_per_epoch": st.integers(1, 4),
        "seed": st.integers(0, 2**40),
    }
)
QUICK = settings(max_examples=50)


def order_of(given_fields: dict[str, int]) -> Order:
    order = Order(**given_fields)
    assume(order.steps_per_epoch > 0)
    return order


def epoch(order: Order, number: int) -> list[int]:
    steps = range(number * order.steps_per_epoch, (number + 1) * order.steps_per_epoch)
    return torch.cat([order.batch(step) for step in steps]).tolist()


@QUICK
@given(ORDERS, st.integers(0, 5))
def test_an_epoch_is_whole_reshuffled_passes_less_what_fills_no_batch(fields: dict[str, int], number: int) -> None:
    order = order_of(fields)
    n, total = order.num_images, order.num_images * order.passes_per_epoch
    seen = epoch(order, number)
    assert len(seen) == total - total % order.batch_size
    passes = [seen[start : start + n] for start in range(0, len(seen), n)]
    for one in passes:
        assert len(set(one)) == len(one)
        assert set(one) <= set(range(n))
        if len(one) == n:
            assert sorted(one) == list(range(n))


@QUICK
@given(ORDERS, st.data())
def test_a_batch_is_a_function_of_seed_and_step_whatever_was_asked_before(
    fields: dict[str, int], data: st.DataObject
) -> None:
    order = order_of(fields)
    steps = data.draw(st.lists(st.integers(0, 5 * order.steps_per_epoch), max_size=12))
    for step in steps:
        batch = order.batch(step)
        assert batch.dtype == torch.int64
        assert batch.tolist() == Order(**fields).batch(step).tolist()
        assert len(batch) == order.batch_size


def test_passes_epochs_and_seeds_are_shuffled_apart() -> None:
    def fresh(seed: int) -> Order:
        return Order(100, batch_size=100, passes_per_epoch=3, seed=seed)

    orders = {tuple(fresh(seed).batch(step).tolist()) for seed in (0, 1) for step in range(9)}
    assert len(orders) == 18


def test_the_first_images_are_uniform() -> None:
    firsts = [int(Order(4, batch_size=4, passes_per_epoch=1, seed=seed).batch(0)[0]) for seed in range(800)]
    assert np.bincount(firsts, minlength=4).tolist() == pytest.approx([200] * 4, abs=60)  # 5 standard deviations


@QUICK
@given(ORDERS, st.integers(1, 4), st.integers(1, 14))
def test_repeats_stand_in_a_row_and_leave_the_length_of_an_epoch(
    fields: dict[str, int], repeats: int, batch_size: int
) -> None:
    fields = {**fields, "batch_size": max(repeats, batch_size)}
    order = Order(**fields, repeats_in_batch=repeats)
    assume(order.steps_per_epoch > 0)
    assert order.steps_per_epoch == Order(**fields).steps_per_epoch
    for epoch in range(
        2
    ):  # where the batch is no multiple, an image goes on in the next one, but not in the next epoch
        first = epoch * order.steps_per_epoch
        images = torch.cat([order.batch(step) for step in range(first, first + order.steps_per_epoch)]).tolist()
        groups = [images[i : i + repeats] for i in range(0, len(images), repeats)]
        assert all(len(set(group)) == 1 for group in groups)
        distinct = [group[0] for group in groups]
        for start in range(0, len(distinct), order.num_images):
            one = distinct[start : start + order.num_images]
            assert len(set(one)) == len(one)


def test_a_split_on_the_device_is_a_copy() -> None:
    images = np.zeros((2, 3, 4, 4), dtype=np.uint8)
    split = DeviceSplit.of(Split(images=images, labels=np.array([1, 0])), "cpu")
    images += 1
    assert len(split) == 2
    assert split.images.dtype == torch.uint8
    assert int(split.images.sum()) == 0
    assert split.labels.tolist() == [1, 0]
