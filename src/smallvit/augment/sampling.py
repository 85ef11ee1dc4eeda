"""What each policy draws: AutoAugment, RandAugment, TrivialAugment and 3-Augment.

Sources: Cubuk et al. 2019 and 2020; Mueller and Hutter 2021; Touvron et al. 2022 (DeiT III). Row i of one array of
uniform numbers is all that image i gets, so its draw depends on no other image and not on the batch's size.
Legend: B batch, T ops in sequence; S signs, O ops, M magnitudes of a table.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import assert_never

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from smallvit.augment.config import AugmentConfig
from smallvit.augment.ops import OPS, SPACES, magnitudes
from smallvit.augment.policy import PolicyParams, encode_ops
from smallvit.augment.resample import fixed_maps
from smallvit.augment.subpolicies import AUTOAUGMENT, Policy

_SEARCHED = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "AutoContrast",
    "Equalize",
    "Solarize",
    "Posterize",
    "Contrast",
    "Color",
    "Brightness",
    "Sharpness",
)
"""RandAugment's and TrivialAugment's, by name: an op that is added to `OPS` must not change what they draw."""

_NUM_BINS = 31
_JITTER = 0.3
_THRESHOLD, _RADII = 128.0, (0.1, 2.0)


def sample_policy(
    config: AugmentConfig, generator: np.random.Generator, batch_size: int, image_size: tuple[int, int]
) -> PolicyParams:
    """Draw the config's policy, which is not none, for each image; image_size is (height, width) in pixels."""
    match config.policy:
        case "autoaugment-cifar10" | "autoaugment-svhn" | "autoaugment-imagenet" as name:
            variant = config.policy_variant
            return sample_autoaugment(AUTOAUGMENT[name], generator, batch_size, image_size, variant=variant)
        case "randaugment":
            num_ops, magnitude = config.randaugment_num_ops, config.randaugment_magnitude
            return sample_randaugment(generator, batch_size, image_size, num_ops=num_ops, magnitude=magnitude)
        case "trivialaugment":
            return sample_trivialaugment(generator, batch_size, image_size)
        case "three-augment":
            return sample_three_augment(generator, batch_size, image_size)
        case "none":
            raise ValueError("there is no policy to draw")
        case _:
            assert_never(config.policy)


def _pick(uniform: Float64[ndarray, "*draws"], count: int) -> ndarray:
    return (uniform * count).astype(np.int64)


def _encode(
    cells: tuple[Int64[ndarray, "B T"], Int64[ndarray, "B T"], Int64[ndarray, "B T"]],
    space: str,
    num_bins: int,
    image_size: tuple[int, int],
    *,
    used: Sequence[str],
    centre: Float64[ndarray, "B T 2"] | None = None,
) -> PolicyParams:
    """Make the record of ops by their cells in a space's table of magnitudes: signs, op ids, magnitude indices."""
    value, maps = magnitudes(space, num_bins, image_size)[cells], _maps(space, num_bins, image_size)[cells]
    return encode_ops(cells[1], value, image_size, SPACES[space], used=used, centre=centre, maps=maps)


@lru_cache(maxsize=64)
def _maps(space: str, num_bins: int, image_size: tuple[int, int]) -> Int64[ndarray, "S O M 6"]:
    values = magnitudes(space, num_bins, image_size)
    op = np.broadcast_to(np.arange(len(OPS))[:, None], values.shape)
    return fixed_maps(op, values, image_size)


def sample_autoaugment(
    policy: Policy,
    generator: np.random.Generator,
    batch_size: int,
    image_size: tuple[int, int],
    *,
    variant: str = "deepvoltaire",
) -> PolicyParams:
    """Draw a sub-policy for each image, then whether each of its ops happens, and its sign."""
    length = policy.op.shape[1]
    uniform = generator.random((batch_size, 1 + 4 * length))
    chosen = _pick(uniform[:, 0], len(policy.op))
    happens, sign, *centre = uniform[:, 1:].reshape(batch_size, 4, length).transpose(1, 0, 2)
    op = np.where(happens < policy.probability[chosen], policy.op[chosen], 0)
    cells = _pick(sign, 2), op, policy.magnitude[chosen]
    return _encode(cells, variant, 10, image_size, used=policy.used, centre=np.stack(centre, axis=-1))


def sample_randaugment(
    generator: np.random.Generator, batch_size: int, image_size: tuple[int, int], *, num_ops: int, magnitude: int
) -> PolicyParams:
    """Draw num_ops ops for each image, all at one magnitude index of 31, as torchvision has them."""
    uniform = generator.random((batch_size, num_ops, 2))
    op = _searched(uniform[..., 0])
    cells = _pick(uniform[..., 1], 2), op, np.full_like(op, magnitude)
    return _encode(cells, "torchvision", _NUM_BINS, image_size, used=_SEARCHED)


def sample_trivialaugment(generator: np.random.Generator, batch_size: int, image_size: tuple[int, int]) -> PolicyParams:
    """Draw one op for each image and its magnitude, of 31 in the wide space, as torchvision has them."""
    uniform = generator.random((batch_size, 1, 3))
    op = _searched(uniform[..., 0])
    cells = _pick(uniform[..., 2], 2), op, _pick(uniform[..., 1], _NUM_BINS)
    return _encode(cells, "wide", _NUM_BINS, image_size, used=_SEARCHED)


def _searched(uniform: Float64[ndarray, "*draws"]) -> ndarray:
    return np.array([OPS.index(name) for name in _SEARCHED])[_pick(uniform, len(_SEARCHED))]


def sample_three_augment(generator: np.random.Generator, batch_size: int, image_size: tuple[int, int]) -> PolicyParams:
    """Draw grey, solarized or blurred for each image, then brightness, contrast and colour in a drawn order."""
    first, jitter = ("Grayscale", "Solarize", "GaussianBlur"), ("Brightness", "Contrast", "Color")
    uniform = generator.random((batch_size, 8))
    chosen = np.array([OPS.index(name) for name in first])[_pick(uniform[:, 0], 3)]
    low, high = _RADII
    radius = low + (high - low) * uniform[:, 1]
    value = np.where(chosen == OPS.index("Solarize"), _THRESHOLD, radius)
    order = np.argsort(uniform[:, 2:5], axis=1)
    factor = 1 + _JITTER * (2 * uniform[:, 5:] - 1)
    op = np.concatenate([chosen[:, None], np.array([OPS.index(name) for name in jitter])[order]], axis=1)
    values = np.concatenate([value[:, None], factor], axis=1)
    return encode_ops(op, values, image_size, SPACES["torchvision"], used=first + jitter)
