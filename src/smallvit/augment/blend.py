"""Ops that blend an image with a degenerate copy of itself (grey, flat, black or smoothed), and two plain filters.

Pillow's enhancers in its own arithmetic: a 32-bit product, a sum, truncation. Legend: B batch, H height, W width.
"""

import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor


def grey(pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B 1 H W"]:
    """Return the luma of each pixel as a whole number (ITU-R 601 in 16-bit fixed point, as Pillow's mode L).

    Every sum stays under 2 ** 24, so 32-bit floats are exact here, and quicker than integers.
    """
    total = (pixels[:, :1] * 19595).add_(pixels[:, 1:2], alpha=38470).add_(pixels[:, 2:], alpha=7471)
    return total.add_(32768).mul_(2**-16).floor_()


def mean_grey(pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B 1 1 1"]:
    """Return each image's mean luma, rounded to a whole number."""
    count = pixels.shape[2] * pixels.shape[3]
    total = grey(pixels).sum((1, 2, 3), keepdim=True, dtype=torch.float64).long()
    # In whole numbers: a GPU multiplies by 1 / count, and of some counts a half is then less than that.
    return ((2 * total + count) // (2 * count)).to(torch.float32)


def smoothed(pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B 3 H W"]:
    """Return the 3 x 3 mean with the centre counted five times; border pixels, and images under 3 pixels, stay."""
    if pixels.shape[2] < 3 or pixels.shape[3] < 3:
        return pixels
    width = pixels.shape[3]
    # All planes as one line, which is four times as quick as windows: what wraps around falls on the borders.
    line = pixels.reshape(-1)
    rows = line[:-2] + line[1:-1] + line[2:]
    total = rows[: -2 * width] + rows[width:-width] + rows[2 * width :]
    # To the nearest whole number. A tie cannot occur: 2 * total + 13 is odd, 26 is even.
    total = total.add_(line[width + 1 : -width - 1], alpha=4).mul_(2).add_(13).mul_(1 / 26).floor_()
    result = torch.cat([line[: width + 1], total, line[-width - 1 :]]).view(pixels.shape)
    for side in (0, -1):
        result[:, :, side] = pixels[:, :, side]
        result[..., side] = pixels[..., side]
    return result


def blended(
    degenerate: Float32[Tensor, "..."], pixels: Float32[Tensor, "B 3 H W"], factor: Float64[Tensor, " B"]
) -> UInt8[Tensor, "B 3 H W"]:
    """Return degenerate + factor * (image - degenerate), clipped and truncated."""
    scaled = (pixels - degenerate).mul_(factor.to(torch.float32)[:, None, None, None])
    return scaled.add_(degenerate).clamp_(0, 255).to(torch.uint8)


def apply_grayscale(images: UInt8[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """Replace every channel by the luma."""
    return grey(images.to(torch.float32)).to(torch.uint8).expand(images.shape)


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
