"""Ops that are a 256-entry table an image, or an image's channel: the value of a pixel decides its new value.

Each table is exact: it gives Pillow's result on every pixel. Legend: B batch, H height, W width, C 1 or 3 tables.
"""

import torch
from jaxtyping import Float64, Int32, Int64, UInt8
from torch import Tensor

from smallvit.augment.ops import OPS


def look_up(images: UInt8[Tensor, "B 3 H W"], table: UInt8[Tensor, "B C 256"]) -> UInt8[Tensor, "B 3 H W"]:
    """Replace every pixel by its entry in its image's (and channel's) table."""
    batch, count, _ = table.shape
    # 32-bit indices: the look-up is bound by the memory that they fill.
    start = torch.arange(batch * count, device=images.device, dtype=torch.int32).view(batch, count, 1, 1) * 256
    return (
        stored(table.contiguous())
        .view(-1)
        .index_select(0, images.to(torch.int32).add_(start).view(-1))
        .view(images.shape)
    )


def stored(values: UInt8[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Return the tensor itself, in a form that makes the compiler store it.

    Otherwise it computes anew, at every pixel looked up, everything that led to the entry.
    """
    return values.as_strided(values.shape, values.stride())


def pointwise_table(op: Int64[Tensor, " B"], value: Float64[Tensor, " B"]) -> UInt8[Tensor, "B 1 256"]:
    """Invert, solarize (invert from the threshold up) or posterize (keep the highest bits)."""
    level = torch.arange(256, device=op.device)
    inverted = 255 - level
    solarized = torch.where(level < value[:, None], level, inverted)
    dropped = (8 - value.long().clamp(0, 8))[:, None]
    posterized = (level >> dropped) << dropped
    op = op[:, None]
    table = torch.where(op == OPS.index("Posterize"), posterized, solarized)
    table = torch.where(op == OPS.index("Invert"), inverted, table)
    return table[:, None].to(torch.uint8)


def autocontrast_table(images: UInt8[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 256"]:
    """Stretch each channel linearly so that its darkest pixel becomes 0 and its lightest 255."""
    # In 16 bits: compiled for a CPU, torch 2.13 finds 0 to be the least of any uint8 numbers.
    low = images.to(torch.int16).amin((2, 3))[:, :, None].double()
    high = images.amax((2, 3))[:, :, None].double()
    level = torch.arange(256, device=images.device, dtype=torch.float64)
    # Tensor by tensor: a number over a tensor is a reciprocal and a product, which round twice.
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)
    # Rounded down here: compiled code may reach uint8 by way of 32 bits, which would round 254.99999999 up.
    stretched = (level * scale - low * scale).clamp(0, 255).floor()
    return torch.where(high > low, stretched, level).to(torch.uint8)


def histogram(images: UInt8[Tensor, "B 3 H W"]) -> Int32[Tensor, "B 3 256"]:
    """Count each channel's pixels by value."""
    batch = len(images)
    start = torch.arange(batch * 3, device=images.device).view(batch, 3, 1, 1) * 256
    counts = torch.zeros(batch * 768, dtype=torch.int32, device=images.device)
    ones = torch.ones((), dtype=torch.int32, device=images.device).expand(images.numel())
    return counts.scatter_add(0, images.long().add_(start).view(-1), ones).view(batch, 3, 256)


def equalize_table(images: UInt8[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 256"]:
    """Flatten each channel's histogram; a channel with too few distinct pixels stays as it is."""
    counts = histogram(images)
    lightest = images.amax((2, 3))[:, :, None].long()
    total = images.shape[2] * images.shape[3]
    step = (total - counts.gather(2, lightest)) // 255
    below = counts.cumsum(2, dtype=torch.int32) - counts
    # 64-bit floats divide these whole numbers exactly, and quicker than integers do.
    table = (below + step // 2).double().div_(step.clamp(min=1).double()).floor_().clamp_(max=255)
    level = torch.arange(256, device=images.device, dtype=torch.uint8)
    return torch.where(step > 0, table.to(torch.uint8), level)
