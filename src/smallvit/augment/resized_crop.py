"""A random part of each image, resized to the whole: torchvision's and timm's RandomResizedCrop (Szegedy et al., 2015).

Legend: B batch, H height, W width, L length of an axis.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from smallvit.augment.boxes import ATTEMPTS, first_that_fits
from smallvit.augment.config import AugmentConfig
from smallvit.augment.params import BatchParams

_BITS = 22
"""Of Pillow's fixed-point weights."""


@dataclass(frozen=True, kw_only=True)
class ResizedCropParams(BatchParams):
    """The part of each image that becomes the whole: first row, first column, and the row and column after the last."""

    box: Int64[Tensor, "B 4"]


def sample_resized_crop(
    config: AugmentConfig, generator: np.random.Generator, batch_size: int, image_size: tuple[int, int]
) -> ResizedCropParams:
    """Draw a box for each image as torchvision does; image_size is (height, width) in pixels.

    Its area is uniform and its width over its height log-uniform; one that does not fit inside the image is drawn
    again, up to ten times. If none fits, it is the largest box in the middle whose shape is allowed.
    """
    height, width = image_size
    uniform = generator.random((batch_size, 4, ATTEMPTS))
    low, high = config.resized_crop_area
    area = (low + (high - low) * uniform[:, 0]) * (height * width)
    narrow, wide = config.resized_crop_aspect
    aspect = narrow * (wide / narrow) ** uniform[:, 1]
    columns = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    rows = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
    fits, box = first_that_fits(fits, rows, columns, (uniform[:, 2], uniform[:, 3]), image_size)
    most_rows = min(height, max(1, round(width / narrow)))
    most_columns = min(width, max(1, round(height * wide)))
    top, left = (height - most_rows) // 2, (width - most_columns) // 2
    box[~fits] = top, left, top + most_rows, left + most_columns
    return ResizedCropParams(box=torch.from_numpy(box))


def apply_resized_crop(images: UInt8[Tensor, "B 3 H W"], params: ResizedCropParams) -> UInt8[Tensor, "B 3 H W"]:
    """Resize bilinearly, as Pillow does: along the rows first, rounded, then along the columns."""
    top, left, bottom, right = params.box.unbind(1)
    return _stretched(_stretched(images, left, right, 3), top, bottom, 2)


def _stretched(
    images: UInt8[Tensor, "B 3 H W"], begin: Int64[Tensor, " B"], end: Int64[Tensor, " B"], axis: int
) -> UInt8[Tensor, "B 3 H W"]:
    """Return the pixels from `begin` up to `end` of an axis as many as all of it, in whole numbers on the way, too."""
    length = images.shape[axis]
    shape = [len(images), 1, 1, 1]
    shape[axis] = length
    begin, last = begin[:, None], (end - begin - 1)[:, None]
    centre = torch.arange(length, device=images.device) * 2 + 1
    place = centre * (last + 1) - length  # in the box, in parts of a pixel of which it has 2 x length
    before = place.div(2 * length, rounding_mode="floor")
    beyond = place - before * (2 * length)
    total = torch.zeros((), dtype=torch.int32, device=images.device)
    for tap, near in ((before, 2 * length - beyond), (before + 1, beyond)):
        index = begin + torch.minimum(tap.clamp(min=0), last)
        weight = ((near << _BITS) + length).div(2 * length, rounding_mode="floor").to(torch.int32)
        total = total + images.gather(axis, index.view(shape).expand_as(images)).int() * weight.view(shape)
    return ((total + (1 << (_BITS - 1))) >> _BITS).to(torch.uint8)
