"""What a run tells before it begins."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smallvit.data.config import DataConfig
from smallvit.data.store import Dataset, load_dataset
from smallvit.notes import FEW_IMAGES, notes_on
from smallvit.recipes import quickstart


def pictures(folder: Path, **counts: int) -> Dataset:
    """Return a data set of one's own, of two classes."""
    random, arrays = np.random.default_rng(0), {}
    for name, count in counts.items():
        arrays |= {f"{name}_images": random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)}
        arrays |= {f"{name}_labels": np.arange(count) % 2}
    np.savez(folder / "images.npz", **arrays)
    return load_dataset(DataConfig(dataset="folder", root=folder / "images.npz", cache=folder / "cache"), image_size=8)


def on_val(dataset: Dataset) -> list[str]:
    config = quickstart()
    config = replace(config, data=replace(config.data, dataset="folder", root=Path("images.npz")))
    return [note for note in notes_on(config, dataset) if note.startswith("val ")]


@pytest.mark.parametrize(
    ("counts", "num_val", "is_drawn"),
    [
        ({"train": 100}, 8, True),
        ({"train": 100, "test": 20}, 10, True),
        ({"train": 100, "val": 16, "test": 20}, 16, False),
        ({"train": 100, "val": FEW_IMAGES - 1, "test": 20}, FEW_IMAGES - 1, False),
    ],
)
def test_of_a_small_val_it_is_told_what_it_is_worth(
    counts: dict[str, int], num_val: int, is_drawn: bool, tmp_path: Path
) -> None:
    (note,) = on_val(pictures(tmp_path, **counts))
    assert note.startswith(f"val is small, {num_val} images: one is {100 / num_val:.1f} points of accuracy, ")
    assert note.endswith("; a larger data.val_fraction holds out more") == is_drawn


def test_of_a_larger_val_or_none_or_a_known_one_nothing_is_told(tmp_path: Path) -> None:
    large = pictures(tmp_path, train=100, val=FEW_IMAGES, test=20)
    assert on_val(large) == on_val(replace(large, val=None)) == []
    digits = quickstart()
    dataset = load_dataset(digits.data, image_size=8)
    assert dataset.val is not None
    assert len(dataset.val) < FEW_IMAGES
    assert notes_on(digits, dataset) == []


def test_of_uneven_classes_it_is_told_what_makes_up_for_them(tmp_path: Path) -> None:
    even = pictures(tmp_path, train=100, val=FEW_IMAGES, test=20)
    labels = (np.arange(100) >= 75).astype(np.int64)
    uneven = replace(even, train=replace(even.train, labels=labels))
    told = "train is uneven, 75 of 0 to 25 of 1: for all classes to count alike, set train.logit_adjustment to 1"
    config = quickstart()
    config = replace(config, data=replace(config.data, dataset="folder", root=Path("images.npz")))
    assert told in notes_on(config, uneven)
    assert told not in notes_on(config, even)
    for changes in ({"logit_adjustment": 1.0}, {"loss": "bce"}):
        assert told not in notes_on(replace(config, train=replace(config.train, **changes)), uneven)
