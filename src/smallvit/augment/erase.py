"""Random erasing after normalisation (Zhong et al., AAAI 2020), with the box that the paper's code draws.

Area and aspect are uniform (not log-uniform); a box that does not fit inside the image is drawn again, up to ten times.
Legend: B batch, R of its images that are erased, H height, W width.
"""

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from smallvit.augment.boxes import ATTEMPTS, box_mask, first_that_fits, image_mask
from smallvit.augment.config import AugmentConfig, EraseFill
from smallvit.augment.params import BatchParams, constants

_LOW_BITS = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class EraseParams(BatchParams):
    """Each image's box (first row, first column, row and column after the last; empty for none) and its noise's key."""

    box: Int64[Tensor, "B 4"]
    key: Int64[Tensor, " B"]
    fill: EraseFill


def sample_erase(
    config: AugmentConfig, generator: np.random.Generator, batch_size: int, image_size: tuple[int, int]
) -> EraseParams:
    """Draw a box for a share of the images; image_size is (height, width) in pixels."""
    height, width = image_size
    uniform = generator.random((batch_size, 2 + 4 * ATTEMPTS))
    chosen = (uniform[:, 0] < config.erase_probability).nonzero()[0]
    area, aspect, row, column = uniform[chosen, 2:].reshape(len(chosen), 4, ATTEMPTS).transpose(1, 0, 2)
    low, high = config.erase_area
    area = (low + (high - low) * area) * (height * width)
    low, high = config.erase_aspect
    aspect = low + (high - low) * aspect
    rows = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    columns = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (rows < height) & (columns < width)
    fits, first = first_that_fits(fits, rows, columns, (row, column), image_size)
    box = np.zeros((batch_size, 4), dtype=np.int64)
    box[chosen] = first * fits[:, None]  # if none fits, the box is empty
    key = (uniform[:, 1] * (1 << 32)).astype(np.int64)
    return EraseParams(box=torch.from_numpy(box), key=torch.from_numpy(key), fill=config.erase_fill)


def apply_erase(
    images: Float32[Tensor, "B 3 H W"], params: EraseParams, mean: tuple[float, float, float]
) -> Float32[Tensor, "B 3 H W"]:
    """Fill the boxes of normalised images.

    With `raw-mean` the channels' means on the scale 0 to 1, as the paper's code paints them on images that are
    normalised already (of CIFAR-10 a light grey, 156, 153 and 144 of 255); with `mean` the mean itself, 0 here; with
    `noise` a standard normal number for each value. The images' memory may be used for the result.
    """
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.where(image_mask(params.box, images), _fill(images, params.key, params.fill, mean), images)
    rows = params.box.numpy()[:, 2].nonzero()[0]
    pixels = images.numpy()
    erased = pixels[rows]
    inside = box_mask(params.box.numpy()[rows], np.arange(images.shape[2]), np.arange(images.shape[3]))
    np.copyto(erased, _fill(images, params.key[rows], params.fill, mean).numpy(), where=inside)
    pixels[rows] = erased
    return images


def _fill(
    images: Float32[Tensor, "B 3 H W"], key: Int64[Tensor, " R"], fill: EraseFill, mean: tuple[float, float, float]
) -> Float32[Tensor, "..."]:
    if fill == "noise":
        return keyed_noise(key, images.shape[1:])
    if fill == "raw-mean":
        values = mean
    elif fill == "mean":
        values = (0.0, 0.0, 0.0)
    else:
        assert_never(fill)
    return constants(values, torch.float32, images.device)[:, None, None]


def keyed_noise(key: Int64[Tensor, " B"], shape: torch.Size | tuple[int, int, int]) -> Float32[Tensor, "B 3 H W"]:
    """Return standard normal numbers that are a function of an image's key and the position alone.

    So the noise is never sent to the device and is the same on any. Box and Muller's transform of hashed counters.
    """
    channels, height, width = shape
    count = channels * height * width
    position = torch.arange(count, device=key.device)
    radius, angle = (_hashed(_hashed(key)[:, None] + 2 * position + half) for half in (0, 1))
    uniform = (radius.double() + 1) / (1 << 32)
    normal = (-2 * uniform.log()).sqrt() * torch.cos(angle.double() * (2 * torch.pi / (1 << 32)))
    return normal.float().view(len(key), channels, height, width)


def _hashed(number: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Scramble the low 32 bits (Wellons' lowbias32 permutation, 2018); products wrap, which leaves those bits right."""
    number = number & _LOW_BITS
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & _LOW_BITS
    number = ((number ^ (number >> 15)) * 0x846CA68B) & _LOW_BITS
    return number ^ (number >> 16)
