"""The pipeline's contract: slices, chunks, switches, soft targets, and what wrong input is told."""

import subprocess
import sys
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from smallvit.augment import AugmentConfig, apply_augment, normalise, sample_augment
from smallvit.augment.erase import apply_erase
from smallvit.augment.geometric import apply_affine, apply_flip_crop
from smallvit.augment.mix import apply_mix
from smallvit.augment.pipeline import _PARTS
from smallvit.augment.policy import apply_policy
from smallvit.augment.resized_crop import apply_resized_crop
from smallvit.errors import UsageError
from smallvit.rng import generator

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
FULL = AugmentConfig(
    resized_crop_area=(0.2, 1.0),
    affine_degrees=15.0,
    affine_translate=0.1,
    affine_scale=(0.8, 1.2),
    affine_shear=10.0,
)
PAPER = AugmentConfig(
    policy="autoaugment-cifar10", policy_variant="paper", erase_probability=0.25, cutmix_alpha=1.0, mixup_alpha=1.0
)
IMAGES_ALONE = replace(PAPER, mix_per="image", mix_probability=0.9, erase_fill="noise")
OFF = AugmentConfig(horizontal_flip=0.0, crop_padding=0)


def noise(batch, height=32, width=32, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (batch, 3, height, width), dtype=np.uint8))


def run(images, labels, params, label_smoothing=0.1, apply=apply_augment):
    return apply(images, labels, params, mean=MEAN, std=STD, num_classes=10, label_smoothing=label_smoothing)


@pytest.mark.parametrize("size", [(32, 32), (17, 40), (1, 1)])
@pytest.mark.parametrize("config", [FULL, PAPER, IMAGES_ALONE], ids=["affine", "paper", "per image"])
def test_a_slice_of_the_draws_is_the_draw_of_the_slice(config, size):
    images, labels = noise(24, *size), torch.arange(24) % 10
    params = sample_augment(config, generator(0, "augment", 3), 24, size)
    whole, targets = run(images, labels, params)
    for rows in (slice(0, 24), slice(5, 13), slice(23, 24)):
        part = params[rows]
        got, got_targets = run(images[part.rows], labels[part.rows], part)
        assert torch.equal(got, whole[rows])
        assert torch.equal(got_targets, targets[rows])


ERASE = replace(OFF, erase_probability=1.0)
CUTMIX = replace(OFF, cutmix_alpha=1.0, mix_per="image")
MIXUP = replace(OFF, mixup_alpha=1.0, mix_per="image")
RESIZED = replace(OFF, resized_crop_area=(0.5, 1.0))
RAND = replace(OFF, policy="randaugment")


CHANGES = [
    (OFF, "horizontal_flip", 0.5),
    (OFF, "crop_padding", 1),
    (OFF, "resized_crop_area", (0.5, 1.0)),
    (RESIZED, "resized_crop_aspect", (1.0, 1.0)),
    (OFF, "affine_degrees", 9.0),
    (OFF, "affine_translate", 0.2),
    (OFF, "affine_scale", (0.8, 1.2)),
    (OFF, "affine_shear", 9.0),
    (OFF, "policy", "trivialaugment"),
    (replace(OFF, policy="autoaugment-cifar10"), "policy_variant", "tf"),
    (RAND, "randaugment_num_ops", 3),
    (RAND, "randaugment_magnitude", 20),
    (OFF, "erase_probability", 0.5),
    (ERASE, "erase_area", (0.02, 0.1)),
    (ERASE, "erase_aspect", (1.0, 1.0)),
    (ERASE, "erase_fill", "noise"),
    (OFF, "cutmix_alpha", 1.0),
    (CUTMIX, "cutmix_alpha", 9.0),
    (OFF, "mixup_alpha", 1.0),
    (MIXUP, "mixup_alpha", 9.0),
    (CUTMIX, "mix_probability", 1.0),
    (CUTMIX, "mix_per", "batch"),
]


def test_every_field_is_here():
    """But for flips that alternate: tests/augment/test_alternate.py."""
    assert {field for _, field, _ in CHANGES} == {*AugmentConfig.__dataclass_fields__} - {"flip"}


@pytest.mark.parametrize(("base", "field", "value"), CHANGES)
def test_every_field_alone_changes_the_pictures(base, field, value):
    images, labels = noise(32, 16, 16), torch.arange(32) % 10
    configs = (base, replace(base, **{field: value}))
    one, other = (run(images, labels, sample_augment(c, generator(0, "augment", 1), 32, (16, 16)))[0] for c in configs)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("base", "field"),
    [
        (OFF, "policy"),
        (replace(OFF, policy="autoaugment-imagenet"), "policy_variant"),
        (ERASE, "erase_fill"),
        (CUTMIX, "mix_per"),
    ],
)
def test_each_word_makes_other_pictures(base, field):
    """One whose branch was forgotten would make another one's."""
    images, labels = noise(64, 16, 16), torch.arange(64) % 10
    words = get_args(get_type_hints(AugmentConfig)[field])
    configs = [replace(base, **{field: word}) for word in words]
    made = [run(images, labels, sample_augment(c, generator(0, "augment", 1), 64, (16, 16)))[0] for c in configs]
    assert len({each.numpy().tobytes() for each in made}) == len(words)


def test_the_parts_come_in_the_order_that_the_config_says():
    config = AugmentConfig(resized_crop_area=(0.2, 1.0), affine_degrees=30.0, policy="trivialaugment")
    images, labels = noise(16), torch.arange(16) % 10
    params = sample_augment(config, generator(0, "augment", 1), 16, (32, 32))
    resized = apply_resized_crop(apply_flip_crop(images, params.flip_crop), params.resized_crop)
    moved = apply_affine(resized, params.affine)
    assert torch.equal(run(images, labels, params)[0], normalise(apply_policy(moved, params.policy), MEAN, STD))


def test_draws_repeat_by_seed_stream_and_step_and_do_not_depend_on_the_batch_size():
    params = sample_augment(FULL, generator(1, "augment", 7), 16, (32, 32))
    again = sample_augment(FULL, generator(1, "augment", 7), 16, (32, 32))
    other = sample_augment(FULL, generator(1, "augment", 8), 16, (32, 32))
    shorter = sample_augment(FULL, generator(1, "augment", 7), 9, (32, 32))
    assert params.flip_crop is not None
    assert params.affine is not None
    assert torch.equal(params.flip_crop.offset, again.flip_crop.offset)
    assert torch.equal(params.affine.matrix, again.affine.matrix)
    assert not torch.equal(params.flip_crop.offset, other.flip_crop.offset)
    assert torch.equal(params.flip_crop.flip[:9], shorter.flip_crop.flip)
    assert torch.equal(params.affine.matrix[:9], shorter.affine.matrix)


def test_switching_a_part_off_leaves_the_other_draws_alone():
    both = sample_augment(FULL, generator(0, "augment"), 16, (32, 32))
    only_crop = sample_augment(AugmentConfig(horizontal_flip=0.0), generator(0, "augment"), 16, (32, 32))
    assert only_crop.affine is None
    assert not only_crop.flip_crop.flip.any()
    assert torch.equal(both.flip_crop.offset, only_crop.flip_crop.offset)


def test_the_place_of_a_part_is_that_of_every_earlier_run():
    """A new part comes last: its place is the key of its draws."""
    assert _PARTS[:6] == ("flip", "crop", "affine", "policy", "erase", "mix")


def test_with_everything_off_only_the_normalisation_is_left():
    images, labels = noise(4), torch.tensor([0, 3, 9, 3])
    params = sample_augment(OFF, np.random.default_rng(0), 4, (32, 32))
    got, targets = run(images, labels, params, label_smoothing=0.0)
    expected = (images.double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(got, normalise(images, MEAN, STD))
    assert torch.equal(targets, torch.eye(10)[labels])


def test_soft_targets_give_the_loss_of_torch_with_label_smoothing():
    images, labels = noise(8), torch.arange(8)
    _, targets = run(images, labels, sample_augment(OFF, np.random.default_rng(0), 8, (32, 32)))
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    ours = torch.nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(4, 3, 8, 8), "float32, expected torch.uint8"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), r"\(4, 1, 8, 8\), expected \(batch, 3"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"expected \(batch, 3"),
        (torch.zeros(4, 3, 0, 8, dtype=torch.uint8), r"expected \(batch, 3"),
        (torch.zeros(5, 3, 8, 8, dtype=torch.uint8), "5 images, expected 4"),
        (torch.zeros(4, 3, 8, 9, dtype=torch.uint8), "images are 8 x 9 pixels, expected 8 x 8, as was drawn for"),
    ],
)
def test_wrong_images_are_told_in_one_line(images, words):
    params = sample_augment(OFF, np.random.default_rng(0), 4, (8, 8))
    with pytest.raises(UsageError, match=words) as error:
        run(images, torch.zeros(len(images), dtype=torch.int64), params)
    assert "\n" not in str(error.value)


def test_what_is_no_argument_is_told_in_one_line():
    told = {
        "normalise(images, (0.5,), (0.5,))": "mean is (0.5,) and std (0.5,), expected three numbers",
        "normalise(images, (0.5,) * 3, (0.2, 0.0, 0.2))": "mean is (0.5, 0.5, 0.5) and std (0.2, 0.0, 0.2)",
        "draw(0, 4, (8, 8))": "generator is 0, expected a NumPy generator, such as numpy.random.default_rng(0)",
        "draw(numbers, 0, (8, 8))": "batch_size is 0, expected a whole number, at least 1",
        "draw(numbers, 4, 8)": "image_size is 8, expected (height, width) in pixels",
        "draw(numbers, 4, (3, 8, 8))": "image_size is (3, 8, 8), expected (height, width) in pixels",
        "apply(torch.zeros(3, dtype=torch.int64))": "labels have dtype torch.int64 and shape (3,), expected",
        "apply(torch.zeros(4, 1, dtype=torch.int64))": "labels have dtype torch.int64 and shape (4, 1), expected",
        "apply(torch.zeros(4, dtype=torch.int32))": "labels have dtype torch.int32 and shape (4,), expected",
    }
    # Without the tests' run-time checker, which would speak first.
    code = f"""
import numpy, torch
from smallvit.augment import AugmentConfig, apply_augment, normalise, sample_augment
from smallvit.errors import UsageError
images, numbers = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), numpy.random.default_rng(0)
def draw(*arguments):
    return sample_augment(AugmentConfig(), *arguments)
def apply(labels):
    apply_augment(images, labels, draw(numbers, 4, (8, 8)), mean={MEAN}, std={STD}, num_classes=10, label_smoothing=0.0)
for call in {list(told)}:
    try:
        eval(call)
    except UsageError as error:
        print(error)
    else:
        print(call, "passed")"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(told)
    for line, words in zip(lines, told.values(), strict=True):
        assert line.startswith(words)


@pytest.mark.parametrize(
    "field",
    [
        {"horizontal_flip": 1.5},
        {"horizontal_flip": float("nan")},
        {"crop_padding": -1},
        {"resized_crop_area": (0.5, 1.1)},
        {"resized_crop_aspect": (2.0, 1.0)},
        {"affine_degrees": 200.0},
        {"affine_translate": 2.0},
        {"affine_scale": (1.2, 0.8)},
        {"affine_shear": -1.0},
        {"randaugment_num_ops": 0},
        {"randaugment_magnitude": 31},
        {"erase_probability": -0.1},
        {"erase_area": (0.0, 0.4)},
        {"erase_aspect": (3.0, 0.3)},
        {"cutmix_alpha": -1.0},
        {"mixup_alpha": float("inf")},
        {"mix_probability": 1.1},
    ],
)
def test_wrong_settings_name_their_field(field):
    with pytest.raises(UsageError, match=rf"augment\.{next(iter(field))} is "):
        AugmentConfig(**field)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("config", [PAPER, IMAGES_ALONE, FULL], ids=["paper", "per image", "affine"])
def test_cuda_gives_the_pictures_of_a_cpu(config):
    images, labels = noise(256), torch.arange(256) % 10
    for step in range(6):
        params = sample_augment(config, generator(0, "augment", step), 256, (32, 32))
        expected, expected_targets = run(images, labels, params)
        got, targets = run(images.cuda(), labels.cuda(), params.to("cuda"))
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(targets.cpu(), expected_targets)


def test_the_loss_is_the_papers_mix_of_two_smoothed_losses():
    config = replace(OFF, mixup_alpha=1.0, mix_probability=1.0)
    images, labels = noise(16), torch.arange(16) % 10
    params = sample_augment(config, generator(0, "augment", 1), 16, (32, 32))
    _, targets = run(images, labels, params)
    logits = torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    share = float(params.mix.share[0])
    expected = share * loss(logits, labels) + (1 - share) * loss(logits, labels[params.mix.partner])
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, targets), expected)
    torch.testing.assert_close(targets.sum(1), torch.ones(16))


def test_the_images_given_stay_as_they_are():
    images = noise(32)
    before = images.clone()
    run(images, torch.zeros(32, dtype=torch.int64), sample_augment(PAPER, generator(0, "augment"), 32, (32, 32)))
    assert torch.equal(images, before)


def test_a_batch_of_one_goes_through():
    for step in range(10):
        params = sample_augment(IMAGES_ALONE, generator(0, "augment", step), 1, (32, 32))
        got, targets = run(noise(1), torch.tensor([4]), params)
        assert got.shape == (1, 3, 32, 32)
        assert targets.argmax() == 4


def test_strided_and_channels_last_images_give_the_same_pictures():
    images, labels = noise(6), torch.arange(6)
    config = replace(FULL, policy="trivialaugment")
    params = sample_augment(config, np.random.default_rng(0), 6, (32, 32))
    expected, _ = run(images, labels, params)
    strided = torch.stack([images, images], dim=-1)[..., 0]
    for view in (strided, images.contiguous(memory_format=torch.channels_last)):
        got, _ = run(view, labels, params)
        assert torch.equal(got, expected)


def test_images_are_erased_before_they_are_mixed():
    config = replace(OFF, erase_probability=1.0, mixup_alpha=1.0, mix_probability=1.0)
    images, labels = noise(16), torch.arange(16) % 10
    params = sample_augment(config, generator(0, "augment", 1), 16, (32, 32))
    erased = apply_erase(normalise(images, MEAN, STD), params.erase, MEAN)
    expected, _ = apply_mix(erased, torch.zeros(16, 10), params.mix)
    assert torch.equal(run(images, labels, params)[0], expected)
