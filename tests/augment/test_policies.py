"""Whole policies against a Pillow loop, their values against formulas written anew and against torchvision, and their
distributions against the published ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from smallvit.augment.config import AugmentConfig
from smallvit.augment.ops import OPS, magnitudes
from smallvit.augment.pipeline import apply_augment, sample_augment
from smallvit.augment.policy import apply_policy, apply_policy_to_all
from smallvit.augment.sampling import sample_autoaugment, sample_policy
from smallvit.augment.subpolicies import AUTOAUGMENT, read_policy

VARIANTS = ("deepvoltaire", "paper", "torchvision", "tf")
GREY, BLACK, CIFAR10_MEAN = (128, 128, 128), (0, 0, 0), (125, 123, 114)
PILLOW = {
    "deepvoltaire": {"bicubic_shear": True, "fill": GREY},
    "paper": {"bicubic_shear": True, "fill": GREY},
    "torchvision": {"bicubic_shear": False, "fill": BLACK},
    "tf": {"bicubic_shear": False, "fill": CIFAR10_MEAN},
}
"""As ../shared/reference/autoaugment.md has them."""
POLICIES = [(name, variant) for name in AUTOAUGMENT for variant in VARIANTS]
POLICIES += [(name, "torchvision") for name in ("randaugment", "trivialaugment", "three-augment")]
IDENTITY = OPS.index("Identity")
ENHANCERS = ("Contrast", "Color", "Brightness", "Sharpness")


def draw(name, batch, seed=0, **options):
    config = AugmentConfig(policy=name, **options)
    return sample_policy(config, np.random.default_rng(seed), batch, (32, 32))


def exceeds(observed, expected):
    """How far a chi-squared statistic lies above its mean, in standard deviations of its distribution."""
    freedom = len(observed) - 1
    statistic = ((np.asarray(observed) - expected) ** 2 / expected).sum()
    return (statistic - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize(("name", "variant"), POLICIES)
def test_a_policy_equals_a_pillow_loop_with_the_same_draws(name, variant, real_images, noise_images, pillow):
    images = torch.cat([real_images, noise_images(100)])
    params = draw(name, len(images), policy_variant=variant)
    expected = images
    for step in range(params.op.shape[1]):
        names = [OPS[op] for op in params.op[:, step]]
        expected = pillow(expected, names, params.value[:, step], **PILLOW[variant])
    assert torch.equal(apply_policy(images, params), expected)
    some = torch.arange(0, len(images), 7)
    assert torch.equal(apply_policy_to_all(images[some], params[some]), expected[some])
    assert (expected != images).flatten(1).any(1).sum() > 300


def port(variant, name, m, sign):
    """The value that each implementation gives Pillow at magnitude index m of 10, on 32 x 32 images."""
    tf = variant == "tf"
    if name in ("ShearX", "ShearY"):
        return sign * (0.03 * m if tf else 0.3 * m / 9)
    if name in ("TranslateX", "TranslateY"):
        # torchvision's shift is the picture's, the others' is that of the place to look.
        pixels = {"tf": m, "torchvision": -int(150 / 331 * 32 * m / 9)}.get(variant, 150 / 331 * 32 * m / 9)
        return sign * pixels
    if name == "Rotate":
        return (1 if variant == "paper" else sign) * (int(3 * m) if tf else 30 * m / 9)
    if name in ENHANCERS:
        return 0.1 + 0.18 * m if tf else 1 + sign * 0.1 * m
    if name == "Posterize":
        return 4 - int(0.4 * m) if tf else round(8 - 4 * m / 9)
    if name == "Solarize":
        return {"tf": 256 - int(25.6 * m), "torchvision": 255 * (1 - m / 9)}.get(variant, 256 * (1 - m / 9))
    return 0.0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", [name for name in OPS if name not in ("Cutout", "Grayscale", "GaussianBlur")])
def test_magnitudes_are_those_of_the_implementation(variant, name):
    table = magnitudes(variant, 10, (32, 32))[:, OPS.index(name)]
    expected = [[port(variant, name, m, sign) for m in range(10)] for sign in (1, -1)]
    assert np.allclose(table, expected, rtol=1e-6, atol=1e-5)


def test_translations_follow_the_images_sides():
    table = magnitudes("deepvoltaire", 10, (64, 32))
    assert table[0, OPS.index("TranslateY"), 9] == 2 * table[0, OPS.index("TranslateX"), 9]


def test_policies_and_spaces_are_torchvisions(torchvision):
    from torchvision.transforms import autoaugment

    for name, policy in AUTOAUGMENT.items():
        theirs = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy(name.split("-")[1])).policies
        ours = [
            tuple((OPS[op], probability, index) for op, probability, index in zip(*sub, strict=True))
            for sub in zip(policy.op, policy.probability, policy.magnitude, strict=True)
        ]
        assert ours == [tuple((op, p, index or 0) for op, p, index in sub) for sub in theirs]
    spaces = {
        ("torchvision", 10): autoaugment.AutoAugment()._augmentation_space(10, (48, 32)),
        ("torchvision", 31): autoaugment.RandAugment()._augmentation_space(31, (48, 32)),
        ("wide", 31): autoaugment.TrivialAugmentWide()._augmentation_space(31),
    }
    for (space, bins), theirs in spaces.items():
        table = magnitudes(space, bins, (48, 32))
        for name, (values, signed) in theirs.items():
            if values.ndim:
                base = 1.0 if name in ENHANCERS else 0.0
                values = np.array([float(value) for value in values])
                values = -np.trunc(values) if name.startswith("Translate") else values
                assert np.array_equal(table[0, OPS.index(name)], base + values), (space, name)
                assert np.array_equal(table[1, OPS.index(name)], base - values if signed else values), (space, name)


@pytest.mark.parametrize(("policy", "bins"), [("randaugment", 31), ("trivialaugment", 31)])
def test_ops_are_torchvisions_on_pillow_images(policy, bins, torchvision, real_images):
    from torchvision.transforms import InterpolationMode, autoaugment

    space = "torchvision" if policy == "randaugment" else "wide"
    params = draw(policy, 200)
    ours = apply_policy(real_images[:200], params)
    table = magnitudes(space, bins, (32, 32))
    their_space = {
        "torchvision": autoaugment.RandAugment()._augmentation_space(31, (32, 32)),
        "wide": autoaugment.TrivialAugmentWide()._augmentation_space(31),
    }[space]
    for number in range(200):
        image = Image.fromarray(real_images[number].permute(1, 2, 0).numpy())
        for op, value in zip(params.op[number], params.value[number], strict=True):
            name = OPS[op]
            sign, index = np.argwhere(table[:, op] == float(value))[0]
            values, _ = their_space[name]
            magnitude = float(values[index]) if values.ndim else 0.0
            magnitude = -magnitude if sign else magnitude
            image = autoaugment._apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)
        assert np.array_equal(ours[number].permute(1, 2, 0).numpy(), np.asarray(image)), number


@pytest.mark.parametrize("name", list(AUTOAUGMENT))
def test_ops_come_as_often_as_their_sub_policies_say(name):
    policy, batch = AUTOAUGMENT[name], 50_000
    params = draw(name, batch, seed=1)
    for step in range(2):
        observed = np.bincount(params.op[:, step].numpy(), minlength=len(OPS))
        share = np.bincount(policy.op[:, step], weights=policy.probability[:, step], minlength=len(OPS)) / 25
        share[IDENTITY] = 1 - share.sum()
        assert observed[share == 0].sum() == 0
        assert exceeds(observed[share > 0], batch * share[share > 0]) < 4


def test_sub_policies_signs_and_probabilities_are_drawn_evenly_and_apart():
    # Every sub-policy is known by its pair of magnitudes.
    pairs = [(first, second) for first in range(1, 6) for second in range(1, 6)]
    text = "\n".join(f"Rotate 1 {first}; ShearX 0.5 {second}" for first, second in pairs)
    params = sample_autoaugment(read_policy(text), np.random.default_rng(2), 50_000, (32, 32))
    angle, shear = params.value.T.numpy()
    happens = params.op[:, 1].numpy() != IDENTITY
    assert abs(happens.sum() - 25_000) < 4 * 112
    first, second = np.rint(np.abs(angle) * 9 / 30), np.rint(np.abs(shear) * 9 / 0.3)
    cells = (first[happens] - 1) * 5 + second[happens] - 1
    assert exceeds(np.bincount(cells.astype(int), minlength=25), happens.sum() / 25) < 4
    signs = np.bincount(2 * (angle[happens] > 0) + (shear[happens] > 0), minlength=4)
    assert exceeds(signs, happens.sum() / 4) < 4


def test_searched_policies_draw_their_14_ops_evenly():
    for name, steps in (("randaugment", 2), ("trivialaugment", 1)):
        params = draw(name, 28_000, seed=3)
        assert params.op.shape[1] == steps
        for step in range(steps):
            observed = np.bincount(params.op[:, step].numpy(), minlength=len(OPS))
            assert exceeds(observed[observed > 0], 2000) < 4
            assert (observed > 0).sum() == 14
    assert draw("randaugment", 10, randaugment_num_ops=3, randaugment_magnitude=0).op.shape == (10, 3)


@pytest.mark.parametrize("magnitude", [9, 14])
def test_randaugment_draws_its_magnitude_of_torchvisions_31(magnitude, torchvision):
    from torchvision.transforms import autoaugment

    space = autoaugment.RandAugment()._augmentation_space(31, (32, 32))
    params = draw("randaugment", 2000, randaugment_magnitude=magnitude)
    for name, (values, signed) in space.items():
        value = float(values[magnitude]) if values.ndim else 0.0
        value = float(np.trunc(value)) if name.startswith("Translate") else value
        base = 1.0 if name in ENHANCERS else 0.0
        found = params.value[params.op == OPS.index(name)].unique().double().numpy()
        expected = {base - value, base + value} if signed else {value}
        assert found == pytest.approx(sorted(expected)), name


def test_three_augment_draws_one_of_three_and_then_jitters_in_any_order():
    params = draw("three-augment", 30_000, seed=5)
    first = torch.bincount(params.op[:, 0], minlength=len(OPS)).numpy()
    assert exceeds(first[[OPS.index(name) for name in ("Grayscale", "Solarize", "GaussianBlur")]], 10_000) < 4
    orders = params.op[:, 1:] @ torch.tensor([400, 20, 1])
    assert exceeds(orders.unique(return_counts=True)[1].numpy(), 5000) < 4
    factors = params.value[:, 1:].flatten()
    assert exceeds(torch.histc(factors, 12, 0.7, 1.3).numpy(), len(factors) / 12) < 4
    radii = params.value[params.op == OPS.index("GaussianBlur")]
    assert exceeds(torch.histc(radii, 10, 0.1, 2.0).numpy(), len(radii) / 10) < 4


def test_256_copies_of_one_image_part_as_far_as_the_policy_allows(real_images):
    # The published policy has 116 outcomes in all, some of them rare: a loop image by image reaches about 68 of them.
    copies = real_images[300].repeat(256, 1, 1, 1)
    results = apply_policy(copies, draw("autoaugment-cifar10", 256, seed=6))
    assert len(results.flatten(1).unique(dim=0)) > 55
    everything = AugmentConfig(policy="autoaugment-cifar10")
    params = sample_augment(everything, np.random.default_rng(6), 256, (32, 32))
    setting = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "num_classes": 2, "label_smoothing": 0.0}
    results, _ = apply_augment(copies, torch.zeros(256, dtype=torch.int64), params, **setting)
    assert len(results.flatten(1).unique(dim=0)) > 200


def test_trivialaugment_draws_signs_and_magnitudes_apart():
    params = draw("trivialaugment", 62_000, seed=4)
    angles = params.value[params.op == OPS.index("Rotate")]
    bins = torch.bincount((angles / 4.5).round().long() + 30, minlength=61).numpy()
    expected = np.full(61, len(angles) / 62)
    expected[30] *= 2
    assert exceeds(bins, expected) < 4


def test_three_augment_solarizes_what_is_128_or_more():
    params = draw("three-augment", 100)
    assert (params.value[params.op == OPS.index("Solarize")] == 128).all()
