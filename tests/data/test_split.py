import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallvit.data.config import DataConfig
from smallvit.data.spec import SPECS
from smallvit.data.split import Split, canonical, digest, hold_out
from smallvit.data.store import _divided


def made(seed: int, n: int, classes: int, distinct: int) -> Split:
    """n rows drawn from `distinct` pictures, so that copies occur."""
    rng = np.random.Generator(np.random.PCG64(seed))
    pictures = rng.integers(0, 256, (distinct, 3, 2, 2), dtype=np.uint8)
    return Split(images=pictures[rng.integers(0, distinct, n)], labels=rng.integers(0, classes, n))


def test_the_seed_says_which_images_are_val_where_test_is_given() -> None:
    images = np.arange(80 * 12, dtype=np.uint16).view(np.uint8).reshape(80, 3, 2, 4)
    labels = np.repeat([0, 1], 40)
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    vals = [_divided(SPECS["digits"], arrays, DataConfig(split_seed=seed), []).val for seed in (0, 0, 1)]
    digests = [digest(val) for val in vals if val is not None]
    assert digests[0] == digests[1] != digests[2]


sizes = st.tuples(st.integers(0, 99), st.integers(1, 60), st.integers(1, 5), st.integers(1, 80))


@given(sizes, st.integers(0, 99))
def test_canonical_order_forgets_the_order_of_rows(size: tuple[int, int, int, int], seed: int) -> None:
    split = made(*size)
    shuffled = split.take(np.random.Generator(np.random.PCG64(seed)).permutation(len(split)))
    first, second = canonical(split), canonical(shuffled)
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.labels, second.labels)
    assert digest(first) == digest(second)
    assert (np.diff(first.labels) >= 0).all()
    rows = sorted((int(y), x.tobytes()) for x, y in zip(split.images, split.labels, strict=True))
    assert rows == sorted((int(y), x.tobytes()) for x, y in zip(first.images, first.labels, strict=True))


@given(sizes, st.floats(0.01, 0.99), st.integers(0, 9))
def test_held_rows_are_a_class_balanced_part_and_copies_stay_together(
    size: tuple[int, int, int, int], fraction: float, seed: int
) -> None:
    split = canonical(made(*size))
    kept, held = hold_out(split, fraction, seed=seed, stream="val")
    assert sorted([*kept, *held]) == list(range(len(split)))
    for label in range(5):
        total = int((split.labels == label).sum())
        taken = int((split.labels[held] == label).sum())
        assert taken <= max(min(max(round(fraction * total), 1), total - 1), 0)
        pictures = [{x.tobytes() for x in split.images[rows][split.labels[rows] == label]} for rows in (kept, held)]
        assert not pictures[0] & pictures[1]


@given(st.integers(0, 99), st.floats(0.01, 0.99))
def test_without_copies_the_quota_is_met_exactly(seed: int, fraction: float) -> None:
    labels = np.repeat(np.arange(3), (2, 10, 40))
    images = np.arange(52 * 12, dtype=np.uint16).view(np.uint8).reshape(52, 3, 2, 4)
    split = canonical(Split(images=images, labels=labels))
    _, held = hold_out(split, fraction, seed=seed, stream="test")
    expected = [min(max(round(fraction * n), 1), n - 1) for n in (2, 10, 40)]
    assert np.bincount(split.labels[held], minlength=3).tolist() == expected


def test_seeds_and_streams_draw_differently_and_repeat_exactly() -> None:
    split = canonical(made(0, 300, 3, 100_000))
    draws = {
        (seed, stream): tuple(hold_out(split, 0.2, seed=seed, stream=stream)[1])
        for seed in (0, 1)
        for stream in ("val", "test")
    }
    assert len(set(draws.values())) == 4
    assert draws[0, "val"] == tuple(hold_out(split, 0.2, seed=0, stream="val")[1])


def test_keys_decide_the_order_and_what_is_a_copy() -> None:
    one, other = made(0, 60, 1, 100_000), made(1, 60, 1, 1)
    keys = np.array([b"%d" % (i % 30) for i in range(60)], dtype="S16")
    splits = [canonical(Split(images=s.images, labels=s.labels, keys=keys)) for s in (one, other)]
    assert [split.keys.tolist() for split in splits] == [sorted(keys.tolist())] * 2
    (kept, held), again = (hold_out(split, 0.25, seed=0, stream="val") for split in splits)
    assert np.array_equal(held, again[1])
    assert not {*splits[0].keys[kept]} & {*splits[0].keys[held]}


def test_the_digest_is_sha256_of_pixels_then_labels() -> None:
    split = made(0, 4, 2, 9)
    expected = hashlib.sha256(split.images.tobytes() + split.labels.astype("<i8").tobytes()).hexdigest()
    assert digest(split) == expected
    changed = Split(images=split.images, labels=1 - split.labels)
    assert digest(changed) != expected


def test_a_lone_image_stays_in_train() -> None:
    split = Split(images=np.zeros((1, 3, 2, 2), np.uint8), labels=np.zeros(1, np.int64))
    kept, held = hold_out(split, 0.9, seed=0, stream="val")
    assert (len(kept), len(held)) == (1, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_only_bytes_are_pixels(dtype: type) -> None:
    with pytest.raises(Exception, match="Split"):
        Split(images=np.zeros((1, 3, 2, 2), dtype), labels=np.zeros(1, np.int64))


def test_pictures_that_share_their_middle_line_are_no_copies() -> None:
    images = np.zeros((20, 3, 3, 2), np.uint8)
    images[:, 0, 0, 0] = np.arange(20)
    split = canonical(Split(images=images, labels=np.zeros(20, np.int64)))
    _, held = hold_out(split, 0.25, seed=0, stream="test")
    assert len(held) == 5


def test_each_class_has_a_draw_of_its_own() -> None:
    images = np.arange(80 * 12, dtype=np.uint16).view(np.uint8).reshape(80, 3, 2, 4)
    split = canonical(Split(images=images, labels=np.repeat([0, 1], 40)))
    _, held = hold_out(split, 0.25, seed=0, stream="test")
    assert not np.array_equal(held[:10], held[10:] - 40)


def test_what_is_held_out_stays_what_it_was() -> None:
    """Another stream or generator would give every data set another test in silence."""
    images = np.arange(80 * 12, dtype=np.uint16).view(np.uint8).reshape(80, 3, 2, 4)
    _, held = hold_out(Split(images=images, labels=np.repeat([0, 1], 40)), 0.1, seed=0, stream="test")
    assert held.tolist() == [0, 27, 30, 31, 44, 45, 60, 79]
