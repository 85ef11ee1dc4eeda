"""Shear, translate, rotate and cutout: one map an image from output pixels to source pixels.

Nearest resampling uses Pillow's own 16.16 fixed-point arithmetic, so it is integer arithmetic and exact on any device.
Legend: B batch, H height, W width. A map (a, b, c, d, e, f) sends column x, row y to (a x + b y + c, d x + e y + f).
"""

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from smallvit.augment.boxes import image_mask
from smallvit.augment.ops import OPS
from smallvit.augment.params import constants

_ONE = 65536


def fixed_maps(
    op: Int64[ndarray, "*draws"], value: Float64[ndarray, "*draws"], image_size: tuple[int, int]
) -> Int64[ndarray, "*draws 6"]:
    """Return the 16.16 maps of geometric ops as Pillow builds them, and the identity for every other op."""
    height, width = image_size
    maps = np.zeros((*op.shape, 6))
    maps[...] = (1, 0, 0, 0, 1, 0)
    maps[..., 1] = np.where(op == OPS.index("ShearX"), value, 0)
    maps[..., 3] = np.where(op == OPS.index("ShearY"), value, 0)
    maps[..., 2] = np.where(op == OPS.index("TranslateX"), value, 0)
    maps[..., 5] = np.where(op == OPS.index("TranslateY"), value, 0)
    turned = op == OPS.index("Rotate")
    angle = -np.radians(value[turned] % 360)
    cos, sin = np.round(np.cos(angle), 15), np.round(np.sin(angle), 15)
    x, y = width / 2, height / 2
    right, down = (-cos * x - sin * y) + x, (sin * x - cos * y) + y
    maps[turned] = np.stack([cos, sin, right, -sin, cos, down], axis=-1)
    # The map is taken at pixel centres; a whole shift stays whole, which keeps translations exact.
    maps[..., 2] = maps[..., 2] + maps[..., 0] * 0.5 + maps[..., 1] * 0.5
    maps[..., 5] = maps[..., 5] + maps[..., 3] * 0.5 + maps[..., 4] * 0.5
    shifted = (op == OPS.index("TranslateX")) | (op == OPS.index("TranslateY"))
    maps[shifted] = np.floor(maps[shifted])
    return np.floor(maps * _ONE + 0.5).astype(np.int64)


def _filled(
    images: UInt8[Tensor, "B 3 H W"], inside: Bool[Tensor, "B H W"], fill: tuple[int, int, int]
) -> UInt8[Tensor, "B 3 H W"]:
    """Paint what is not inside, in place; in bytes that wrap around, four times as quick as a selection."""
    colour = constants(fill, torch.uint8, images.device)[:, None, None]
    return images.sub_(colour).mul_(inside[:, None].to(torch.uint8)).add_(colour)


def apply_nearest(
    images: UInt8[Tensor, "B 3 H W"], maps: Int64[Tensor, "B 6"], fill: tuple[int, int, int]
) -> UInt8[Tensor, "B 3 H W"]:
    """Take the pixel under each mapped centre; what lies outside the image is filled."""
    batch, channels, height, width = images.shape
    x = torch.arange(width, device=images.device, dtype=torch.int32)
    y = torch.arange(height, device=images.device, dtype=torch.int32)[:, None]
    a, b, c, d, e, f = maps.to(torch.int32)[:, :, None, None].unbind(1)
    column = (a * x + (b * y + c)) >> 16
    row = (d * x + (e * y + f)) >> 16
    near_column, near_row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    inside = (near_column == column) & (near_row == row)
    index = torch.add(near_column, near_row, alpha=width).view(batch, 1, height * width).long()
    pixels = images.reshape(batch, channels, height * width)
    return _filled(pixels.gather(2, index.expand_as(pixels)).view(images.shape), inside, fill)


def apply_bicubic_shear(
    images: UInt8[Tensor, "B 3 H W"],
    op: Int64[Tensor, " B"],
    value: Float64[Tensor, " B"],
    fill: tuple[int, int, int],
) -> UInt8[Tensor, "B 3 H W"]:
    """Shear along x or y with the cubic kernel of a = -1, in 64 bits as Pillow does, truncated.

    A shear moves pixels along one axis only, so four taps along that axis are the whole kernel.
    """
    batch, channels, height, width = images.shape
    along_x = (op == OPS.index("ShearX"))[:, None, None]
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    along, across = torch.where(along_x, x, y), torch.where(along_x, y, x)
    length, stride = torch.where(along_x, width, height), torch.where(along_x, 1, width)
    start = across * torch.where(along_x, width, 1)
    source = (along + 0.5) + value[:, None, None] * (across + 0.5)
    inside = (source >= 0) & (source < length)
    first = (source - 0.5).floor()
    fraction = ((source - 0.5) - first)[:, None]
    offsets = torch.arange(-1, 3, device=images.device)[:, None, None]
    position = torch.minimum((first.long()[:, None] + offsets).clamp(min=0), length[:, None] - 1)
    index = (start[:, None] + position * stride[:, None]).view(batch, 1, 4 * height * width)
    taps = images.reshape(batch, channels, height * width).gather(2, index.expand(batch, channels, -1))
    # Whole numbers of this size are exact in 32 bits; only what the fraction multiplies needs 64.
    v1, v2, v3, v4 = taps.view(batch, channels, 4, height, width).float().unbind(2)
    cubic = (v2 - v1).sub_(v3).add_(v4)
    square = (v1 - v2).mul_(2).add_(v3).sub_(v4)
    result = (fraction * cubic).add_(square).mul_(fraction).add_(v3 - v1).mul_(fraction).add_(v2)
    return _filled(result.clamp_(0, 255).floor_().to(torch.uint8), inside, fill)


def apply_cutout(
    images: UInt8[Tensor, "B 3 H W"], box: Int64[Tensor, "B 4"], fill: tuple[int, int, int]
) -> UInt8[Tensor, "B 3 H W"]:
    """Fill a box given as its first row, first column, and the row and column after its last."""
    outside = image_mask(box, images)[:, 0].logical_not()
    return _filled(images.clone(), outside, fill)
