"""Sequences of ops with per-image values, run on a whole batch at once.

What AutoAugment, RandAugment, TrivialAugment and 3-Augment draw (`smallvit.augment.sampling`) is run here.
Legend: B batch, T ops in sequence, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64, Num, UInt8
from numpy import ndarray
from torch import Tensor

from smallvit.augment import numpy_ops, resample
from smallvit.augment.errors import check_images
from smallvit.augment.families import StepParams, families, run_step
from smallvit.augment.ops import OPS, Space
from smallvit.augment.params import BatchParams


@dataclass(frozen=True, kw_only=True)
class PolicyParams(BatchParams):
    """Each image's ops in sequence, by id, with their values and the integers that some ops turn them into.

    Numbers are a geometric op's 16.16 map, cutout's box (first row, first column, row and column after the last), or
    the blur's three weights. `used` names every op that can occur, so that the others cost nothing.
    """

    op: Int64[Tensor, "B T"]
    value: Float64[Tensor, "B T"]
    numbers: Int64[Tensor, "B T 6"]
    used: tuple[str, ...]
    space: Space


def blur_weights(radius: Float64[ndarray, "*draws"]) -> Int64[ndarray, "*draws 3"]:
    """Return the three integer weights of the box that, passed three times, is Pillow's blur of a radius up to 2.

    Source: Gwosdek et al., SSVM 2011 (extended box filtering), in 32-bit arithmetic with weights in 2 ** -24.
    """
    f = np.float32
    variance = radius.astype(f) * radius.astype(f) / f(3)
    whole = np.floor((np.sqrt(12.0 * variance.astype(np.float64) + 1.0).astype(f) - f(1)) / f(2))
    part = (f(2) * whole + f(1)) * (whole * (whole + f(1)) - f(3) * variance)
    box = whole + part / (f(6) * (variance - (whole + f(1)) * (whole + f(1))))
    full = (f(1 << 24) / (box * f(2) + f(1))).astype(np.int64)
    size = box.astype(np.int64)
    edge = ((1 << 24) - (size * 2 + 1) * full) // 2
    near, far = np.where(size >= 1, full, edge), np.where(size >= 1, edge, 0)
    return np.stack([full, near, far], axis=-1)


def encode_ops(
    op: Int64[ndarray, "B T"],
    value: Float64[ndarray, "B T"],
    image_size: tuple[int, int],
    space: Space,
    *,
    used: Sequence[str] = OPS,
    centre: Float64[ndarray, "B T 2"] | None = None,
    maps: Int64[ndarray, "B T 6"] | None = None,
) -> PolicyParams:
    """Make the record of chosen ops and values.

    Centre, 0 to 1 down and across, is where a cutout's box lies; maps are those of `resample.fixed_maps`, where they
    are known already.
    """
    numbers = resample.fixed_maps(op, value, image_size) if maps is None else maps
    if "Cutout" in used:
        middle = np.full((*op.shape, 2), 0.5) if centre is None else centre
        corner = np.floor(middle * image_size).astype(np.int64)
        reach = (value.astype(np.int64) // 2)[..., None]
        box = np.concatenate([corner - reach, corner + reach, np.zeros_like(corner)], axis=-1)
        numbers = np.where((op == OPS.index("Cutout"))[..., None], box, numbers)
    if "GaussianBlur" in used:
        blurred = op == OPS.index("GaussianBlur")
        numbers[blurred, :3] = blur_weights(value[blurred])
    return PolicyParams(
        op=torch.from_numpy(op),
        value=torch.from_numpy(value),
        numbers=torch.from_numpy(numbers),
        used=tuple(used),
        space=space,
    )


def apply_policy(images: Num[Tensor, "B ..."], params: PolicyParams) -> UInt8[Tensor, "B 3 H W"]:
    """Run each image's ops in sequence on uint8 images [B, 3, H, W], which are left as they are.

    Raises UsageError where the images are not uint8 with three channels, or not as many as the draws, which must have
    been made for their size.
    """
    check_images(images, len(params.op))
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        draws = (params.op.numpy(), params.value.numpy(), params.numbers.numpy())
        return torch.from_numpy(numpy_ops.run_steps(images.contiguous().numpy(), *draws, params.space))
    return apply_policy_to_all(images.contiguous(), params)


def apply_policy_to_all(images: UInt8[Tensor, "B 3 H W"], params: PolicyParams) -> UInt8[Tensor, "B 3 H W"]:
    """Do what `apply_policy` does in tensor arithmetic that compiles: every op for all images."""
    chosen = families(params.used, params.space)
    for number in range(params.op.shape[1]):
        step = StepParams(
            op=params.op[:, number],
            value=params.value[:, number],
            numbers=params.numbers[:, number],
            space=params.space,
        )
        images = run_step(images, step, chosen)
    return images
