"""Flip, crop and the small affine map against Pillow, NumPy and torch's own resampler."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, uniform

from smallvit.augment.config import AugmentConfig
from smallvit.augment.geometric import apply_affine, apply_flip_crop, sample_affine, sample_flip_crop


def noise(batch, height, width):
    rng = np.random.default_rng(5)
    return torch.from_numpy(rng.integers(0, 256, (batch, 3, height, width), dtype=np.uint8))


@pytest.mark.parametrize(("size", "padding"), [((32, 32), 4), ((9, 20), 3), ((1, 1), 2), ((5, 5), 8), ((8, 8), 0)])
def test_flip_and_crop_equal_a_padded_copy_cut_in_numpy(size, padding):
    images = noise(40, *size)
    config = AugmentConfig(crop_padding=padding)
    params = sample_flip_crop(config, np.random.default_rng(1), np.random.default_rng(2), 40)
    got = apply_flip_crop(images, params).numpy()
    height, width = size
    for image, flip, (down, across), ours in zip(images.numpy(), params.flip, params.offset.numpy(), got, strict=True):
        mirrored = image[:, :, ::-1] if flip else image
        padded = np.pad(mirrored, ((0, 0), (padding, padding), (padding, padding)))
        top, left = padding + down, padding + across
        assert np.array_equal(ours, padded[:, top : top + height, left : left + width])


def test_flips_and_offsets_follow_their_distributions():
    config = AugmentConfig(horizontal_flip=0.3, crop_padding=4)
    params = sample_flip_crop(config, np.random.default_rng(1), np.random.default_rng(2), 81_000)
    flips = int(params.flip.sum())
    assert abs(flips - 24_300) < 4 * (81_000 * 0.3 * 0.7) ** 0.5
    cells = np.bincount(((params.offset + 4) @ torch.tensor([9, 1])).numpy(), minlength=81)
    # 80 degrees of freedom: mean 80, and 124.8 is exceeded once in a thousand.
    assert ((cells - 1000.0) ** 2 / 1000).sum() < 124.8


def test_the_affine_map_equals_torchs_grid_sample():
    images = noise(32, 28, 28)
    config = AugmentConfig(affine_degrees=30.0, affine_translate=0.2, affine_scale=(0.7, 1.4), affine_shear=20.0)
    params = sample_affine(config, np.random.default_rng(3), 32, (28, 28))
    theta = params.matrix.clone()
    theta[:, :, 2] /= 14  # grid_sample's coordinates run from -1 to 1 across the image.
    grid = torch.nn.functional.affine_grid(theta, [32, 3, 28, 28], align_corners=False)
    expected = torch.nn.functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    difference = (apply_affine(images, params).float() - expected).abs()
    assert difference.max() <= 0.51


def test_the_affine_map_is_of_float32_whatever_the_default_is():
    images = noise(256, 32, 32)
    config = AugmentConfig(affine_degrees=30.0, affine_translate=0.2, affine_scale=(0.7, 1.4), affine_shear=20.0)
    params = sample_affine(config, np.random.default_rng(3), 256, (32, 32))
    wanted = apply_affine(images, params)
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(apply_affine(images, params), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_affine_map_turns_shifts_and_magnifies_the_way_its_fields_say():
    images = noise(2, 8, 8)
    still = sample_affine(AugmentConfig(affine_scale=(1.0, 1.0)), np.random.default_rng(0), 2, (8, 8))
    assert torch.equal(apply_affine(images, still), images)
    many = sample_affine(AugmentConfig(affine_translate=0.25), np.random.default_rng(0), 4000, (8, 16)).matrix
    assert many[:, 0, 2].abs().max() <= 4
    assert many[:, 0, 2].abs().max() > 3.9
    assert 1.95 < many[:, 1, 2].abs().max() <= 2
    scales = sample_affine(AugmentConfig(affine_scale=(0.5, 2.0)), np.random.default_rng(0), 4000, (8, 8)).matrix
    assert 0.5 <= 1 / scales[:, 0, 0].max() < 0.51
    assert 1.99 < 1 / scales[:, 0, 0].min() <= 2.0001


def test_the_affine_map_shears_along_x_before_it_turns_and_both_by_degrees():
    config = AugmentConfig(affine_degrees=40.0, affine_shear=30.0)
    matrix = sample_affine(config, np.random.default_rng(0), 4000, (8, 8)).matrix[:, :, :2].double().numpy()
    (a, b), (c, d) = np.linalg.inv(matrix).transpose(1, 2, 0)
    # What lay along x is turned and no more; what lay along y was sheared along x before that.
    assert np.hypot(a, c) == pytest.approx(1, abs=1e-5)
    assert 39.9 < np.degrees(np.abs(np.arctan2(c, a))).max() <= 40.001
    assert a * d - b * c == pytest.approx(1, abs=1e-5)
    assert 29.9 < np.degrees(np.abs(np.arctan(a * b + c * d))).max() <= 30.001


def test_turns_shears_and_shifts_are_uniform_both_ways():
    config = AugmentConfig(affine_degrees=40.0, affine_shear=30.0, affine_translate=0.25)
    matrix = sample_affine(config, np.random.default_rng(0), 4000, (8, 16)).matrix.double().numpy()
    forward = np.linalg.inv(matrix[:, :, :2])
    (a, b), (c, d) = forward.transpose(1, 2, 0)
    right, down = -(forward @ matrix[:, :, 2:])[:, :, 0].T
    turned, sheared = np.degrees(np.arctan2(c, a)), np.degrees(np.arctan(a * b + c * d))
    for values, most in ((turned, 40), (sheared, 30), (right, 4), (down, 2)):
        assert kstest(values, uniform(-most, 2 * most).cdf).pvalue > 0.01
