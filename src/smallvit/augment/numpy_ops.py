"""The policies' ops in NumPy, for images on a CPU: the tensor form's pixels, several times as quick.

A batch falls into parts of some 20 images that draw the same op. On so few pixels a call costs more than its
arithmetic, and NumPy's calls are the cheaper ones. Legend: B images, those of one part; H height, W width, N = H * W;
R = 3 * B rows, one for each channel of each image; K entries taken from each.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64, Num, UInt8
from numpy import ndarray

from smallvit.augment.boxes import box_mask
from smallvit.augment.geometric import moved
from smallvit.augment.ops import OPS, Space

_Images = UInt8[ndarray, "B 3 H W"]
_Values = Float64[ndarray, " B"]
_Numbers = Int64[ndarray, "B 6"]
_Fill = UInt8[ndarray, "3 1 1"]
_LEVEL = np.arange(256, dtype=np.float64)


class _Draws(NamedTuple):
    """What the images of one part draw."""

    value: _Values
    numbers: _Numbers
    fill: _Fill


_Run = Callable[[_Images, _Draws], UInt8[ndarray, "B ..."]]


def run_steps(
    images: _Images,
    op: Int64[ndarray, "B T"],
    value: Float64[ndarray, "B T"],
    numbers: Int64[ndarray, "B T 6"],
    space: Space,
) -> _Images:
    """Run one op after another on each image, with the arrays of `PolicyParams`; the images given stay as they are."""
    kinds = _KINDS | (_BICUBIC_SHEARS if space.bicubic_shear else _NEAREST_SHEARS)
    numbers_of = {name: number for number, names in enumerate(kinds) for name in names} | {"Identity": len(kinds)}
    place = np.array([numbers_of[name] for name in OPS], dtype=np.uint8)
    fill = np.array(space.fill, dtype=np.uint8)[:, None, None]
    result = images.copy()
    for step in range(op.shape[1]):
        kind = place[op[:, step]]
        order = kind.argsort(kind="stable")
        ends = np.bincount(kind, minlength=len(kinds)).cumsum().tolist()
        for run, start, end in zip(kinds.values(), [0, *ends], ends, strict=False):
            if start < end:
                rows = order[start:end]
                result[rows] = run(result[rows], _Draws(value[rows, step], numbers[rows, step], fill))
    return result


def _each(values: Num[ndarray, " B"]) -> Num[ndarray, "B 1 1 1"]:
    return values[:, None, None, None]


def _starts(count: int, size: int) -> Int32[ndarray, "count 1"]:
    return (np.arange(count, dtype=np.int32) * np.int32(size))[:, None]


def _pick(pixels: UInt8[ndarray, "..."], index: Int32[ndarray, "R K"]) -> UInt8[ndarray, "R K"]:
    """Take pixels of flat memory; by torch, whose look-up with 32-bit indices is twice as quick as NumPy's."""
    flat, place = torch.from_numpy(pixels).view(-1), torch.from_numpy(index).view(-1)
    return flat.index_select(0, place).numpy().reshape(index.shape)


def _table_index(images: _Images) -> Int32[ndarray, "R N"]:
    """Return where each pixel's entry is in its channel's table of 256."""
    index = images.reshape(3 * len(images), -1).astype(np.int32)
    index += _starts(len(index), 256)
    return index


def _solarize(images: _Images, value: _Values) -> _Images:
    threshold = np.ceil(value).astype(np.int16)
    return images ^ (images >= _each(threshold)) * np.uint8(255)


def _posterize(images: _Images, value: _Values) -> _Images:
    return images & _each((0xFF00 >> value.astype(np.int64)).astype(np.uint8))


def _autocontrast(images: _Images) -> _Images:
    channels = images.reshape(3 * len(images), -1)
    low, high = channels.min(axis=1).astype(np.float64), channels.max(axis=1).astype(np.float64)
    scale = 255 / np.maximum(high - low, 1)
    table = _LEVEL * scale[:, None]
    table -= (low * scale)[:, None]
    table[high <= low] = _LEVEL
    table = np.clip(table, 0, 255, out=table).astype(np.uint8)
    return _pick(table, _table_index(images)).reshape(images.shape)


def _equalize(images: _Images) -> _Images:
    channels = images.reshape(3 * len(images), -1)
    count, size = channels.shape
    index = _table_index(images)
    counts = np.bincount(index.reshape(-1), minlength=count * 256).reshape(count, 256)
    step = (size - counts[np.arange(count), channels.max(axis=1)]) // 255
    below = counts.cumsum(axis=1)
    below -= counts
    below += (step // 2)[:, None]
    # 64-bit floats divide these whole numbers exactly, and quicker than integers do.
    table = below / np.maximum(step, 1).astype(np.float64)[:, None]
    table[step == 0] = _LEVEL
    table = np.minimum(table, 255, out=table).astype(np.uint8)
    return _pick(table, index).reshape(images.shape)


def _luma(images: _Images) -> Int32[ndarray, "B 1 H W"]:
    red, green, blue = (images[:, channel : channel + 1].astype(np.int32) for channel in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


def _mean_luma(images: _Images) -> Float64[ndarray, "B 1 1 1"]:
    mean = _luma(images).sum(axis=(1, 2, 3), dtype=np.int64) / (images.shape[2] * images.shape[3])
    return _each(np.floor(mean + 0.5))


def _blended(base: Num[ndarray, "..."], images: _Images, factor: _Values) -> _Images:
    """Return base + factor * (image - base) in 32-bit floats, as Pillow, clipped and truncated."""
    base = base.astype(np.float32)
    pixels = images.astype(np.float32)
    pixels -= base
    pixels *= _each(factor.astype(np.float32))
    pixels += base
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _smoothed(images: _Images) -> _Images:
    """Return the 3 x 3 mean with the centre counted five times; border pixels, and images under 3 pixels, stay."""
    result, width = images.copy(), images.shape[3]
    if images.shape[2] < 3 or width < 3:
        return result
    # All rows as one line, which is quicker than windows: what wraps around falls on the borders.
    line = images.reshape(-1).astype(np.uint16)
    total = line[:-2] + line[1:-1] + line[2:]
    total = total[: -2 * width] + total[width:-width] + total[2 * width :]
    total += 4 * line[width + 1 : -width - 1]
    # To the nearest whole number. A tie cannot occur: 2 * total + 13 is odd, 26 is even.
    line[width + 1 : -width - 1] = (2 * total + 13) // 26
    result[:, :, 1:-1, 1:-1] = line.reshape(images.shape)[:, :, 1:-1, 1:-1]
    return result


def _nearest(images: _Images, draws: _Draws) -> _Images:
    """Take the pixel under each mapped centre, as `resample.apply_nearest`."""
    batch, _, height, width = images.shape
    size = height * width
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    a, b, c, d, e, f = draws.numbers.astype(np.int32).T[..., None, None]
    column = (a * x + (b * y + c)) >> 16
    row = (d * x + (e * y + f)) >> 16
    # What lies outside is the entry after the last of its channel; below 0 is far above 0 without a sign.
    outside = (column.view(np.uint32) >= width) | (row.view(np.uint32) >= height)
    row *= np.int32(width)
    row += column
    row[outside] = size
    canvas = np.empty((batch, 3, size + 1), dtype=np.uint8)
    canvas[..., :size] = images.reshape(batch, 3, size)
    canvas[..., size] = draws.fill[:, 0, 0]
    index = row.reshape(batch, size).repeat(3, axis=0)
    index += _starts(3 * batch, size + 1)
    return _pick(canvas, index).reshape(images.shape)


def _translated(images: _Images, draws: _Draws) -> _Images:
    """Do what `_nearest` does with whole shifts, row by row."""
    down, right = (draws.numbers[:, [5, 2]] >> 16).T
    return moved(
        images, down.clip(-images.shape[2], images.shape[2]), right.clip(-images.shape[3], images.shape[3]), draws.fill
    )


def _bicubic_shear(images: _Images, draws: _Draws) -> _Images:
    """Shear along x with the cubic kernel of a = -1, as `resample.apply_bicubic_shear`."""
    batch, _, height, width = images.shape
    x, y = np.arange(width), np.arange(height)[:, None]
    source = (x + 0.5) + draws.value[:, None, None] * (y + 0.5)
    outside = (source < 0) | (source >= width)
    source -= 0.5
    first = np.floor(source)
    fraction = (source - first)[:, None]
    taps = np.clip(first.astype(np.int32)[:, None] + np.arange(-1, 3, dtype=np.int32)[:, None, None], 0, width - 1)
    taps += y.astype(np.int32) * np.int32(width)
    index = taps.reshape(batch, -1).repeat(3, axis=0)
    index += _starts(3 * batch, height * width)
    picked = _pick(images.reshape(3 * batch, -1), index)
    v1, v2, v3, v4 = np.moveaxis(picked.reshape(batch, 3, 4, height, width).astype(np.int16), 2, 0)
    result = fraction * (v2 - v1 - v3 + v4)
    result += 2 * (v1 - v2) + v3 - v4
    result *= fraction
    result += v3 - v1
    result *= fraction
    result += v2
    result = np.clip(result, 0, 255, out=result).astype(np.uint8)
    np.copyto(result, draws.fill, where=outside[:, None])
    return result


def _cutout(images: _Images, draws: _Draws) -> _Images:
    inside = box_mask(draws.numbers, np.arange(images.shape[2]), np.arange(images.shape[3]))
    np.copyto(images, draws.fill, where=inside)
    return images


def _gaussian_blur(images: _Images, draws: _Draws) -> _Images:
    """Blur by three box blurs along each axis, each rounded, as `blend.apply_gaussian_blur`."""
    centre, near, far = draws.numbers[:, :3].T[..., None, None, None]
    result = images.astype(np.int64)
    for axis in (3, 2):
        length = images.shape[axis]
        position = np.arange(length)
        for _ in range(3):
            total = result * centre + (1 << 23)
            for distance, weight in ((1, near), (2, far)):
                before = result.take((position - distance).clip(min=0), axis)
                after = result.take((position + distance).clip(max=length - 1), axis)
                total += (before + after) * weight
            result = total >> 24
    return result.astype(np.uint8)


_KINDS: dict[tuple[str, ...], _Run] = {
    ("Invert",): lambda images, _: ~images,
    ("Solarize",): lambda images, draws: _solarize(images, draws.value),
    ("Posterize",): lambda images, draws: _posterize(images, draws.value),
    ("AutoContrast",): lambda images, _: _autocontrast(images),
    ("Equalize",): lambda images, _: _equalize(images),
    ("Brightness",): lambda images, draws: _blended(np.zeros(1), images, draws.value),
    ("Contrast",): lambda images, draws: _blended(_mean_luma(images), images, draws.value),
    ("Color",): lambda images, draws: _blended(_luma(images), images, draws.value),
    ("Sharpness",): lambda images, draws: _blended(_smoothed(images), images, draws.value),
    ("TranslateX", "TranslateY"): _translated,
    ("Cutout",): _cutout,
    ("Grayscale",): lambda images, _: _luma(images).astype(np.uint8),
    ("GaussianBlur",): _gaussian_blur,
}
_NEAREST_SHEARS: dict[tuple[str, ...], _Run] = {("Rotate", "ShearX", "ShearY"): _nearest}
_BICUBIC_SHEARS: dict[tuple[str, ...], _Run] = {
    ("Rotate",): _nearest,
    ("ShearX",): _bicubic_shear,
    ("ShearY",): lambda images, draws: _bicubic_shear(images.swapaxes(2, 3), draws).swapaxes(2, 3),
}
"""What runs the ops of one kind."""
