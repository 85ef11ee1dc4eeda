"""Alternating flip: every image the other way round each time, half of them first."""

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvit import rng
from smallvit.augment.alternate import alternated
from smallvit.augment.config import AugmentConfig
from smallvit.augment.pipeline import sample_augment
from smallvit.config import RunConfig
from smallvit.data.loader import Order
from smallvit.step_batch import step_draws

CONFIG = RunConfig(augment=AugmentConfig(flip="alternating", mixup_alpha=1.0))


def flips(indices: torch.Tensor, showings: torch.Tensor, seed: int = 0) -> torch.Tensor:
    draws = sample_augment(CONFIG.augment, rng.generator(seed, "augment", 0), len(indices), (8, 8))
    found = alternated(draws, seed, indices, showings).flip_crop
    assert found is not None
    return found.flip


@settings(max_examples=40)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(1, 4), st.sampled_from([1, 2, 3]), st.integers(0, 2**40))
def test_each_time_an_image_is_shown_it_is_the_other_way_round(
    num_images: int, batch_size: int, passes: int, repeats: int, seed: int
) -> None:
    fields: dict[str, Any] = {"batch_size": max(batch_size, repeats), "passes_per_epoch": passes, "seed": seed}
    order = Order(num_images, repeats_in_batch=repeats, **fields)
    seen: dict[int, list[tuple[int, bool]]] = {}
    for step in range(4 * order.steps_per_epoch):
        indices, showings = order.batch(step), order.showings(step)
        for image, showing, flip in zip(
            indices.tolist(), showings.tolist(), flips(indices, showings, seed).tolist(), strict=True
        ):
            seen.setdefault(image, []).append((showing, flip))
    for shown in seen.values():
        counts = [count for count, _ in shown]
        assert counts == sorted(set(counts)), "no showing is counted twice"
        assert len({(count + flip) % 2 for count, flip in shown}) == 1
    whole = order.batch_size % repeats == 0  # else a batch cuts the showings of its last image
    if whole and order.steps_per_epoch * order.batch_size == num_images * passes:
        showings = math.ceil(passes / repeats) * repeats  # in an epoch, of the images that its last pass shows
        assert {count for shown in seen.values() for count, _ in shown} == set(range(4 * showings))
        if passes % repeats == 0:
            assert all(len(shown) == 4 * passes for shown in seen.values())


def test_half_of_the_images_are_mirrored_first_and_the_seed_says_which() -> None:
    indices = torch.arange(10_000)
    first, second = flips(indices, torch.zeros_like(indices)), flips(indices, torch.ones_like(indices))
    assert torch.equal(first, ~second)
    assert abs(int(first.sum()) - 5_000) < 5 * 50
    # Neighbours, and the same images under another seed, agree as often as coins do.
    assert abs(int((first[1:] == first[:-1]).sum()) - 5_000) < 5 * 50
    other = flips(indices, torch.zeros_like(indices), seed=1)
    assert abs(int((first == other).sum()) - 5_000) < 5 * 50


def test_an_images_flip_does_not_depend_on_its_batch() -> None:
    indices, showings = torch.tensor([7, 3, 123_456]), torch.tensor([0, 1, 2])
    together = flips(indices, showings)
    apart = torch.cat([flips(indices[i : i + 1], showings[i : i + 1]) for i in range(3)])
    assert torch.equal(together, apart)


def test_every_other_draw_is_as_with_drawn_flips() -> None:
    indices = torch.arange(64)
    drawn = RunConfig(augment=AugmentConfig(mixup_alpha=1.0))
    ours, theirs = (step_draws(config, 3, indices, indices * 0) for config in (CONFIG, drawn))
    pairs = list(zip(ours.tensors(), theirs.tensors(), strict=True))
    different = [i for i, (one, other) in enumerate(pairs) if not torch.equal(one, other)]
    assert len(different) == 1
    assert pairs[different[0]][0].dtype == torch.bool


def test_a_slice_of_the_draws_keeps_its_images_flips() -> None:
    indices = torch.arange(100, 140)
    whole = step_draws(CONFIG, 0, indices, indices * 0)
    part = whole[slice(10, 20)]
    assert whole.flip_crop is not None
    assert part.flip_crop is not None
    assert torch.equal(part.flip_crop.flip, whole.flip_crop.flip[part.rows])


def test_golden_first_flips() -> None:
    """Saved runs can be repeated only as long as these stay."""
    indices = torch.arange(24)
    found = step_draws(CONFIG, 0, indices, indices * 0).flip_crop
    assert found is not None
    assert "".join(map(str, found.flip.int().tolist())) == "010000010111110100011111"


def test_the_images_that_are_mirrored_first_are_the_same_at_every_step() -> None:
    indices = torch.arange(64)
    one, other = (step_draws(CONFIG, step, indices, indices * 0).flip_crop for step in (0, 1))
    assert one is not None
    assert other is not None
    assert torch.equal(one.flip, other.flip)
