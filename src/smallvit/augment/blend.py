"""Ops that blend an image with a degenerate copy of itself (grey, flat, black or smoothed), and two plain filters.

Pillow's enhancers in its own arithmetic: a 32-bit product, a sum, truncation. Legend: B batch, H height, W width.
"""

import torch
from jaxtyping import Float64, Int32, Int64, Shaped, UInt8
from torch import Tensor

from smallvit.augment.ops import OPS


def grey(images: UInt8[Tensor, "B 3 H W"]) -> Int32[Tensor, "B 1 H W"]:
    """Return the luma of each pixel, 0 to 255 (ITU-R 601 in 16-bit fixed point, as Pillow's mode L)."""
    red, green, blue = images.to(torch.int32).unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16)[:, None]


def smoothed(images: UInt8[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """Return the 3 x 3 mean with the centre counted five times; border pixels, and images under 3 pixels, stay."""
    if images.shape[2] < 3 or images.shape[3] < 3:
        return images
    wide = images.to(torch.int16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + wide[:, :, 1:-1, 1:-1] * 4
    # The sum / 13 rounded to nearest: a tie cannot occur, 26 being even and 2 * total + 13 odd.
    inner = (total * 2 + 13) // 26
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = inner.to(torch.uint8)
    return result


def blended(
    degenerate: Shaped[Tensor, "B #C #H #W"], images: UInt8[Tensor, "B 3 H W"], factor: Float64[Tensor, " B"]
) -> UInt8[Tensor, "B 3 H W"]:
    """Return degenerate + factor * (image - degenerate), clipped and truncated."""
    base = degenerate.to(torch.float32)
    scaled = (images.to(torch.float32) - base) * factor.to(torch.float32)[:, None, None, None]
    return (scaled + base).clamp(0, 255).to(torch.uint8)


def apply_sharpness(images: UInt8[Tensor, "B 3 H W"], factor: Float64[Tensor, " B"]) -> UInt8[Tensor, "B 3 H W"]:
    """Blend with the smoothed copy."""
    return blended(smoothed(images), images, factor)


def apply_tone(
    images: UInt8[Tensor, "B 3 H W"], op: Int64[Tensor, " B"], factor: Float64[Tensor, " B"]
) -> UInt8[Tensor, "B 3 H W"]:
    """Blend with the grey copy (color), with its mean (contrast) or with black (brightness)."""
    luma = grey(images)
    pixels = images.shape[2] * images.shape[3]
    mean = (luma.sum((1, 2, 3)) * 2 + pixels) // (2 * pixels)
    flat = torch.where(op == OPS.index("Contrast"), mean, 0).to(torch.int32)[:, None, None, None]
    return blended(torch.where((op == OPS.index("Color"))[:, None, None, None], luma, flat), images, factor)


def apply_grayscale(images: UInt8[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """Replace every channel by the luma."""
    return grey(images).to(torch.uint8).expand(images.shape)


def apply_gaussian_blur(images: UInt8[Tensor, "B 3 H W"], weights: Int64[Tensor, "B W3"]) -> UInt8[Tensor, "B 3 H W"]:
    """Blur as Pillow does: three box blurs along each axis, each rounded, edges repeated.

    Weights, in 2 ** -24, are those of the pixel itself, its neighbours and their neighbours, enough for a radius of 2.
    """
    centre, near, far = weights[:, :3, None, None, None].unbind(1)
    result = images.long()
    for axis in (3, 2):
        length = images.shape[axis]
        position = torch.arange(length, device=images.device)
        for _ in range(3):
            total = result * centre + (1 << 23)
            for distance, weight in ((1, near), (2, far)):
                before = result.index_select(axis, (position - distance).clamp(min=0))
                after = result.index_select(axis, (position + distance).clamp(max=length - 1))
                total = total + (before + after) * weight
            result = total >> 24
    return result.to(torch.uint8)
