"""The whole augmentation of a batch, sampling apart from applying.

The order is the paper's (arXiv 2501.06220): flip, crop, normalise. `sample_augment` draws on the CPU with NumPy;
`apply_augment` is pure, runs where its images are, and compiles in one graph.
Legend: B batch, R rows drawn for, H height, W width, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, Num
from torch import Tensor

from smallvit.augment.config import AugmentConfig
from smallvit.augment.geometric import (
    AffineParams,
    FlipCropParams,
    apply_affine,
    apply_flip_crop,
    sample_affine,
    sample_flip_crop,
)
from smallvit.augment.params import BatchParams
from smallvit.errors import UsageError

_PARTS = ("flip", "crop", "affine", "policy", "erase", "mix")


@dataclass(frozen=True, kw_only=True)
class AugmentParams(BatchParams):
    """One batch's draws; a part that is switched off is None.

    `rows` says which images of the whole batch these draws are for: the draws `params[a:b]` are applied to
    `images[params[a:b].rows]`.
    """

    rows: Int64[Tensor, " R"]
    flip_crop: FlipCropParams | None
    affine: AffineParams | None


def sample_augment(
    config: AugmentConfig, generator: np.random.Generator, batch_size: int, image_size: tuple[int, int]
) -> AugmentParams:
    """Draw one batch's augmentation, on the CPU; image_size is (height, width) in pixels.

    Each part has a generator of its own, so switching one off leaves the others' draws as they were.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}, expected at least 1")
    keys = generator.integers(0, 2**64, size=len(_PARTS), dtype=np.uint64)
    part = {name: np.random.Generator(np.random.Philox(key=int(key))) for name, key in zip(_PARTS, keys, strict=True)}
    flips_or_crops = config.horizontal_flip > 0 or config.crop_padding > 0
    return AugmentParams(
        rows=torch.arange(batch_size),
        flip_crop=sample_flip_crop(config, part["flip"], part["crop"], batch_size) if flips_or_crops else None,
        affine=sample_affine(config, part["affine"], batch_size, image_size) if config.has_affine else None,
    )


def apply_augment(
    images: Num[Tensor, "R ..."],
    labels: Int64[Tensor, " R"],
    params: AugmentParams,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    num_classes: int,
    label_smoothing: float,
) -> tuple[Float32[Tensor, "B 3 H W"], Float32[Tensor, "B C"]]:
    """Return normalised images and soft targets whose rows sum to 1.

    Images are uint8 [R, 3, H, W]; labels are class indices [R]; mean and std are per channel on the scale 0 to 1.
    Raises UsageError where the images are not uint8 with three channels or do not match the draws.
    """
    check_images(images)
    if len(images) != len(params.rows):
        raise UsageError(f"the batch has {len(images)} images, expected {len(params.rows)}, as many as were drawn for")
    if params.flip_crop is not None:
        images = apply_flip_crop(images, params.flip_crop)
    if params.affine is not None:
        images = apply_affine(images, params.affine)
    targets = torch.nn.functional.one_hot(labels, num_classes).float()
    return normalise(images, mean, std), smooth(targets, label_smoothing)


def check_images(images: Tensor) -> None:
    """Raise UsageError unless the images are a uint8 batch [B, 3, H, W]."""
    if images.dtype != torch.uint8:
        raise UsageError(f"images have dtype {images.dtype}, expected torch.uint8 with values from 0 to 255")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise UsageError(f"images have shape {tuple(images.shape)}, expected (batch, 3, height, width)")


def smooth(targets: Float32[Tensor, "B C"], label_smoothing: float) -> Float32[Tensor, "B C"]:
    """Move a share of each target to the uniform distribution, as torch's cross entropy with label smoothing does."""
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]


def normalise(
    images: Num[Tensor, "B ..."], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float32[Tensor, "B 3 H W"]:
    """Scale uint8 images to 0..1 and standardise each channel, rounding as torchvision's ToTensor and Normalize do."""
    check_images(images)
    constants = torch.tensor((mean, std), dtype=torch.float32, device=images.device)[:, :, None, None]
    return (
        images.to(torch.float32, memory_format=torch.contiguous_format).div_(255).sub_(constants[0]).div_(constants[1])
    )
