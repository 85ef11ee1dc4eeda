"""Every op, magnitude and sign against Pillow on real and random images: not one pixel differs, in either form."""

import numpy as np
import pytest
import torch

from smallvit.augment.ops import ENHANCERS, OPS, SPACES, magnitudes
from smallvit.augment.policy import apply_policy, apply_policy_to_all, encode_ops

ON_THE_TABLE = [name for name in OPS if name not in ("Grayscale", "GaussianBlur")]


def ours(images, names, values, space="deepvoltaire"):
    op = np.array([[OPS.index(name)] for name in names])
    values = np.asarray(values, dtype=np.float64)[:, None]
    params = encode_ops(op, values, tuple(images.shape[2:]), SPACES[space], used=sorted(set(names)))
    result = apply_policy(images, params)
    # What a GPU and a compiler run is another form of the same; it is slow here, so some of the images will do.
    some = torch.arange(0, len(images), 7)
    assert torch.equal(apply_policy_to_all(images[some], params[some]), result[some])
    return result


def assert_equal_to_pillow(pillow, images, names, values, space="deepvoltaire"):
    setting = SPACES[space]
    expected = pillow(images, names, values, bicubic_shear=setting.bicubic_shear, fill=setting.fill)
    different = (ours(images, names, values, space) != expected).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert not different, [(space, names[i], values[i]) for i in different[:5]]


@pytest.mark.parametrize("name", ON_THE_TABLE)
def test_every_magnitude_and_sign_on_flat_pictures_and_some_of_all_others(
    name, real_images, noise_images, flat_images, pillow
):
    pictures = torch.cat([real_images[::5], noise_images(100)])
    values = np.unique(magnitudes("deepvoltaire", 10, (32, 32))[:, OPS.index(name)])
    for index, value in enumerate(values):
        some = torch.cat([pictures[index % 3 :: 3] if len(values) > 1 else pictures, flat_images])
        assert_equal_to_pillow(pillow, some, [name] * len(some), [value] * len(some))


@pytest.mark.parametrize("space", list(SPACES))
def test_every_op_magnitude_and_sign_of_every_space(space, real_images, noise_images, flat_images, pillow):
    bins = 31 if space == "wide" else 10
    table = magnitudes(space, bins, (32, 32))
    draws = [(name, value) for name in ON_THE_TABLE for value in np.unique(table[:, OPS.index(name)])]
    names, values = zip(*draws, strict=True)
    for pictures in (real_images[:500:125], noise_images(2), flat_images):
        for picture in pictures:
            assert_equal_to_pillow(pillow, picture.repeat(len(draws), 1, 1, 1), names, values, space)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 5), (3, 3), (17, 40), (64, 48)])
@pytest.mark.parametrize("space", ["deepvoltaire", "torchvision"])
def test_any_size_and_any_value(size, space, noise_images, pillow):
    rng = np.random.default_rng(size[0] * 100 + size[1])
    names = [name for name in OPS if name != "Cutout"] * 12
    ranges = {"Rotate": (-200, 200), "Solarize": (-5, 260), "Posterize": (1, 9), "GaussianBlur": (0.1, 2)}
    ranges |= dict.fromkeys(("TranslateX", "TranslateY"), (-9, 9)) | dict.fromkeys(("ShearX", "ShearY"), (-1.2, 1.2))
    ranges |= dict.fromkeys(ENHANCERS, (-0.5, 3))
    values = [rng.uniform(*ranges.get(name, (0, 1))) for name in names]
    values = [int(value) if name == "Posterize" else value for name, value in zip(names, values, strict=True)]
    assert_equal_to_pillow(pillow, noise_images(len(names), *size, seed=3), names, values, space)


def test_the_blur_of_real_pictures_at_many_radii(real_images, pillow):
    radii = np.concatenate([np.linspace(0.1, 2.0, 190), [0.0, 0.5, 1.0, 1.5]])
    assert_equal_to_pillow(pillow, real_images[: len(radii)], ["GaussianBlur"] * len(radii), radii)


def test_a_cutout_takes_its_box_where_it_was_drawn():
    images = torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)
    op = np.full((2, 1), OPS.index("Cutout"))
    centre = np.array([[[0.5, 0.25]], [[0.0, 0.99]]])
    params = encode_ops(op, np.full((2, 1), 4.0), (8, 8), SPACES["torchvision"], centre=centre)
    expected = images.clone()
    expected[0, :, 2:6, 0:4] = 0
    expected[1, :, :2, 5:] = 0
    assert torch.equal(apply_policy(images, params), expected)


def test_the_images_given_stay_as_they_are(noise_images):
    images = noise_images(len(OPS))
    before = images.clone()
    ours(images, OPS, [1.0] * len(OPS))
    assert torch.equal(images, before)
