from importlib import resources

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from smallvit.data.config import DataConfig
from smallvit.data.digits import read_digits
from smallvit.data.spec import SPECS
from smallvit.data.split import digest
from smallvit.data.store import load_dataset


def test_the_vendored_file_is_scikit_learns_copy() -> None:
    oracle = load_digits()
    with resources.files("smallvit.data").joinpath("files/digits.npz").open("rb") as file, np.load(file) as arrays:
        assert np.array_equal(arrays["images"], oracle.images)
        assert np.array_equal(arrays["labels"], oracle.target)


def test_the_attribution_travels_with_the_file() -> None:
    text = resources.files("smallvit.data").joinpath("files/ATTRIBUTION.txt").read_text(encoding="utf-8")
    assert "CC BY 4.0" in text
    assert "Alpaydin" in text


def test_canonical_digits_have_the_pinned_digest() -> None:
    pinned = "e69cc894b767fcb0fab49e0ca32c0501492832eed9f7e4f3fe4a7ce55bb3ae39"
    assert digest(read_digits(SPECS["digits"]).train) == pinned


def test_ink_is_scaled_to_bytes_and_resized_by_pillow() -> None:
    oracle = load_digits()
    data = load_dataset(DataConfig(val_fraction=0.0, test_fraction=0.001), image_size=32)
    wanted = set()
    for ink in oracle.images:
        grey = Image.fromarray(np.rint(ink / 16 * 255).astype(np.uint8))
        wanted.add(np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC)).tobytes())
    assert data.val is None
    for image in data.train.images:
        assert (image[0] == image[1]).all()
        assert (image[0] == image[2]).all()
        assert image[0].tobytes() in wanted


def test_a_fifth_of_each_digit_is_test_a_tenth_of_the_rest_val_and_no_picture_is_in_two() -> None:
    data = load_dataset(DataConfig())
    assert data.val is not None
    counts = np.bincount(load_digits().target)
    test = np.rint(counts * 0.2)
    assert np.array_equal(np.bincount(data.test.labels), test)
    assert np.array_equal(np.bincount(data.val.labels), np.rint((counts - test) * 0.1))
    seen = [{image.tobytes() for image in split.images} for split in (data.train, data.val, data.test)]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 1797


def test_the_test_digits_do_not_depend_on_size_or_val_but_on_the_seed() -> None:
    native = load_dataset(DataConfig(), image_size=8).test
    assert native.images.shape == (359, 3, 8, 8)
    assert np.array_equal(load_dataset(DataConfig(val_fraction=0.3), image_size=8).test.images, native.images)
    large = load_dataset(DataConfig(), image_size=16).test
    again = [Image.fromarray(image[0]).resize((16, 16), Image.Resampling.BICUBIC) for image in native.images]
    assert np.array_equal(large.images[:, 0], np.stack([np.asarray(image) for image in again]))
    assert not np.array_equal(load_dataset(DataConfig(split_seed=1), image_size=8).test.images, native.images)


def test_the_statistics_are_those_of_train() -> None:
    data = load_dataset(DataConfig())
    scaled = data.train.images / 255
    np.testing.assert_allclose(data.spec.mean, scaled.mean(axis=(0, 2, 3)), atol=5e-4)
    np.testing.assert_allclose(data.spec.std, scaled.std(axis=(0, 2, 3)), atol=1e-3)
    assert not data.spec.horizontal_flip
