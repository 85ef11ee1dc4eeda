"""Alternating flip (Jordan, 2024): an image is mirrored every other time that it is shown.

So after two passes a network has seen every image both ways, where drawn flips show half of them one way twice.
Legend: B batch.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from smallvit.augment.pipeline import AugmentParams


def alternated(
    draws: AugmentParams, key: int, indices: Int64[Tensor, " B"], showings: Int64[Tensor, " B"]
) -> AugmentParams:
    """Return the draws with the flips of images at `indices` that were shown `showings` times before.

    `key`, from 0 to 2^64 - 1 and the same for every step of a run, decides which half of the images is mirrored first.
    The draws' own flips are not used.
    """
    assert draws.flip_crop is not None  # alternating goes with horizontal_flip 0.5
    first = _hashed_bits(indices.numpy().astype(np.uint64), np.uint64(key))
    flip = (first + showings.numpy()) % 2 == 1
    return replace(draws, flip_crop=replace(draws.flip_crop, flip=torch.from_numpy(flip)))


def _hashed_bits(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return 0 or 1 for each value, by SplitMix64 (Steele et al., 2014): whatever the other values are."""
    mixed = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) & np.uint64(1)).astype(np.int64)
