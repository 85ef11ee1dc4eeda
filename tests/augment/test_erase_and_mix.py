"""Erasing, CutMix and MixUp against loops written from the papers' text, and their distributions."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from smallvit.augment.config import AugmentConfig
from smallvit.augment.erase import apply_erase, keyed_noise, sample_erase
from smallvit.augment.mix import apply_mix, sample_mix

MEAN = (0.4914, 0.4822, 0.4465)
ERASE = AugmentConfig(erase_probability=0.25)
MIX = AugmentConfig(cutmix_alpha=1.0, mixup_alpha=1.0, mix_per="image")


def two_samples_differ(first, second, bins):
    """A chi-squared statistic of two histograms over the same edges, in deviations from its mean."""
    first, second = np.histogram(first, bins)[0], np.histogram(second, bins)[0]
    share = len(first) - 1
    scale = (second.sum() / first.sum()) ** 0.5
    statistic = ((first * scale - second / scale) ** 2 / np.maximum(first + second, 1)).sum()
    return (statistic - share) / (2 * share) ** 0.5


def boxes_of(params):
    top, left, bottom, right = params.box.T.numpy()
    return top, left, bottom, right


def paper_box(rng, height, width):
    """Random erasing as its paper tells it, with the area and the aspect drawn evenly."""
    while True:
        area, aspect = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if rows < height and columns < width:
            return rng.randint(0, height - rows), rng.randint(0, width - columns), rows, columns


@pytest.mark.parametrize("size", [(32, 32), (20, 40)])
def test_erased_boxes_are_distributed_as_a_loop_draws_them(size):
    params = sample_erase(ERASE, np.random.default_rng(0), 80_000, size)
    top, left, bottom, right = boxes_of(params)
    erased = bottom > top
    assert abs(erased.sum() - 20_000) < 4 * (80_000 * 0.25 * 0.75) ** 0.5
    rng = random.Random(1)
    theirs = np.array([paper_box(rng, *size) for _ in range(20_000)])
    rows, columns = (bottom - top)[erased], (right - left)[erased]
    assert two_samples_differ(rows * columns, theirs[:, 2] * theirs[:, 3], np.linspace(0, 420, 22)) < 4
    assert two_samples_differ(rows / columns, theirs[:, 2] / theirs[:, 3], np.linspace(0, 4, 21)) < 4
    assert two_samples_differ(top[erased], theirs[:, 0], np.arange(size[0])) < 4
    assert two_samples_differ(left[erased], theirs[:, 1], np.arange(size[1])) < 4
    assert bottom.max() <= size[0]
    assert right.max() <= size[1]


def test_an_image_of_one_pixel_is_never_erased():
    params = sample_erase(replace(ERASE, erase_probability=1.0), np.random.default_rng(0), 50, (1, 1))
    top, left, bottom, right = boxes_of(params)
    assert not ((bottom - top) * (right - left)).any()


@pytest.mark.parametrize("aspect", [0.5, 2.0])
def test_a_box_as_wide_or_as_high_as_the_image_does_not_fit(aspect):
    config = AugmentConfig(erase_probability=1.0, erase_area=(0.5, 0.5), erase_aspect=(aspect, aspect))
    assert not sample_erase(config, np.random.default_rng(0), 50, (32, 32)).box.any()


@pytest.mark.parametrize(("fill", "values"), [("raw-mean", MEAN), ("mean", (0.0, 0.0, 0.0))])
def test_boxes_are_filled_and_nothing_else_changes(fill, values):
    images = torch.randn(200, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    params = sample_erase(replace(ERASE, erase_fill=fill), np.random.default_rng(2), 200, (20, 24))
    expected = images.clone()
    for image, (top, left, bottom, right) in zip(expected, params.box.tolist(), strict=True):
        image[:, top:bottom, left:right] = torch.tensor(values)[:, None, None]
    assert torch.equal(apply_erase(images.clone(), params, MEAN), expected)
    assert (expected != images).any()


def test_noise_is_normal_and_belongs_to_its_image():
    noise = keyed_noise(torch.arange(300), (3, 32, 32))
    assert abs(float(noise.mean())) < 0.005
    assert abs(float(noise.std()) - 1) < 0.005
    inside = [(noise.abs() < bound).float().mean() for bound in (0.5, 1.0, 2.0, 3.0)]
    assert inside == pytest.approx([0.38292, 0.68269, 0.95450, 0.99730], abs=0.002)
    rows = noise.flatten(1)
    correlation = torch.corrcoef(rows[:100]) - torch.eye(100)
    assert correlation.abs().max() < 6 / 3072**0.5
    assert abs(float((rows[:, 1:] * rows[:, :-1]).mean())) < 0.005
    assert torch.equal(keyed_noise(torch.tensor([7]), (3, 32, 32))[0], noise[7])


def test_erased_noise_stays_inside_its_box():
    images = torch.zeros(100, 3, 16, 16)
    config = AugmentConfig(erase_probability=1.0, erase_fill="noise")
    params = sample_erase(config, np.random.default_rng(3), 100, (16, 16))
    result = apply_erase(images, params, MEAN)
    for image, (top, left, bottom, right) in zip(result, params.box.tolist(), strict=True):
        assert (image[:, top:bottom, left:right] != 0).all()
        assert (image != 0).sum() == 3 * (bottom - top) * (right - left)


def test_every_images_noise_has_a_key_of_its_own_whether_it_is_erased_or_not():
    params = sample_erase(replace(ERASE, erase_fill="noise"), np.random.default_rng(9), 10_000, (32, 32))
    keys, erased = params.key.numpy(), params.box[:, 2].numpy() > 0
    assert len(np.unique(keys)) > 9_990
    edges = np.linspace(0, 2**32, 21)
    assert abs(np.histogram(keys, edges)[0] - 500).max() < 5 * 500**0.5
    assert two_samples_differ(keys[erased], keys[~erased], edges) < 4


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_cutmix_boxes_are_distributed_as_a_loop_draws_them(alpha):
    config = replace(MIX, cutmix_alpha=alpha, mixup_alpha=0.0, mix_probability=1.0)
    params = sample_mix(config, np.random.default_rng(4), 20_000, (32, 32))
    top, left, bottom, right = boxes_of(params)
    areas = (bottom - top) * (right - left)
    rng = np.random.default_rng(5)
    theirs = []
    for _ in range(20_000):
        side = int(32 * (1 - rng.beta(alpha, alpha)) ** 0.5)
        row, column = rng.integers(32), rng.integers(32)
        rows = min(row + side // 2, 32) - max(row - side // 2, 0)
        theirs.append(rows * (min(column + side // 2, 32) - max(column - side // 2, 0)))
    assert two_samples_differ(areas, np.array(theirs), np.linspace(0, 1024, 20)) < 4
    assert torch.allclose(params.label_share, torch.from_numpy(1 - areas / 1024).float())


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_shares_follow_the_beta_distribution(alpha):
    config = replace(MIX, cutmix_alpha=0.0, mixup_alpha=alpha, mix_probability=1.0)
    shares = sample_mix(config, np.random.default_rng(6), 20_000, (8, 8)).share.numpy()
    theirs = np.random.default_rng(7).beta(alpha, alpha, 20_000)
    assert two_samples_differ(shares, theirs, np.linspace(0, 1, 21)) < 4


def test_each_kind_has_its_part_of_the_draws():
    params = sample_mix(MIX, np.random.default_rng(8), 40_000, (32, 32))
    mixed_up = params.share < 1
    cut = params.box[:, 2] > 0
    assert not (mixed_up & cut).any()
    assert abs(int(mixed_up.sum()) - 10_000) < 400
    assert abs(int(cut.sum()) - 10_000) < 500  # A few boxes are empty or cut off at the top.
    assert torch.equal(params.partner.sort().values, torch.arange(40_000))


def test_a_batch_has_one_draw_as_in_the_paper():
    config = replace(MIX, mix_per="batch")
    kinds = []
    for seed in range(400):
        params = sample_mix(config, np.random.default_rng(seed), 16, (32, 32))
        assert len(params.box.unique(dim=0)) == 1
        assert len(params.share.unique()) == 1
        kinds.append(1 if params.share[0] < 1 else 2 if params.label_share[0] < 1 else 0)
    none, mixup, cutmix = np.bincount(kinds)
    assert abs(none - 200) < 45
    assert abs(mixup - 100) < 40
    assert abs(cutmix - 100) < 40


@pytest.mark.parametrize("per", ["batch", "image"])
def test_mixed_images_and_targets_equal_a_loop(per):
    config = replace(MIX, mix_per=per, mix_probability=0.8)
    images = torch.randn(64, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(10)[torch.arange(64) % 10]
    for seed in range(6):
        params = sample_mix(config, np.random.default_rng(seed), 64, (12, 20))
        got, got_targets = apply_mix(images.clone(), targets, params)
        for row in range(64):
            partner, share = int(params.partner[row]), float(params.share[row])
            top, left, bottom, right = params.box[row].tolist()
            expected = images[row] * share + images[partner] * (1 - share)
            expected[:, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
            torch.testing.assert_close(got[row], expected)
            share = share if share < 1 else 1 - (bottom - top) * (right - left) / 240
            torch.testing.assert_close(got_targets[row], targets[row] * share + targets[partner] * (1 - share))


def test_a_batch_of_one_mixes_with_itself():
    images, targets = torch.randn(1, 3, 8, 8), torch.eye(10)[3:4]
    for seed in range(8):
        params = sample_mix(replace(MIX, mix_probability=1.0), np.random.default_rng(seed), 1, (8, 8))
        got, got_targets = apply_mix(images.clone(), targets, params)
        torch.testing.assert_close(got, images)
        torch.testing.assert_close(got_targets, targets)
