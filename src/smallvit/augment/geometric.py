"""Flip, padded crop and a small random affine map of whole batches, each image with its own draw.

Legend: B batch, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from smallvit.augment.config import AugmentConfig
from smallvit.augment.params import BatchParams


@dataclass(frozen=True, kw_only=True)
class FlipCropParams(BatchParams):
    """Whether each image is mirrored, and where its crop begins relative to the unpadded image."""

    flip: Bool[Tensor, " B"]
    offset: Int64[Tensor, "B 2"]
    padding: int


@dataclass(frozen=True, kw_only=True)
class AffineParams(BatchParams):
    """Each image's map from output to source, in pixels about the image's centre: (x, y) -> matrix @ (x, y, 1)."""

    matrix: Float32[Tensor, "B 2 3"]


def sample_flip_crop(
    config: AugmentConfig, flip_generator: np.random.Generator, crop_generator: np.random.Generator, batch_size: int
) -> FlipCropParams:
    """Draw a mirror bit and a crop offset of -padding to padding pixels for each image."""
    flip = flip_generator.random(batch_size) < config.horizontal_flip
    offset = crop_generator.integers(-config.crop_padding, config.crop_padding + 1, (batch_size, 2))
    return FlipCropParams(flip=torch.from_numpy(flip), offset=torch.from_numpy(offset), padding=config.crop_padding)


def apply_flip_crop(images: UInt8[Tensor, "B 3 H W"], params: FlipCropParams) -> UInt8[Tensor, "B 3 H W"]:
    """Mirror, then crop from the image padded with black."""
    left = torch.where(params.flip, -params.offset[:, 1], params.offset[:, 1])
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        black = np.zeros((3, 1, 1), dtype=np.uint8)
        crops = moved(images.numpy(), params.offset[:, 0].numpy(), left.numpy(), black)
        flip = params.flip.numpy()
        # By torch, which turns rows of bytes around twice as quick.
        crops[flip] = torch.from_numpy(crops[flip]).flip(3).numpy()
        return torch.from_numpy(crops)
    batch, channels, height, width = images.shape
    padding, device = params.padding, images.device
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    plane = torch.arange(batch * channels, device=device).view(batch, channels, 1) * (padded_height * padded_width)
    row = torch.arange(padding, padding + height, device=device) + params.offset[:, :1]
    start = plane + (row * padded_width + padding + left[:, None])[:, None]
    padded = torch.nn.functional.pad(images.contiguous(), (padding, padding, padding, padding))
    count = padded.numel() - width + 1
    # Rows of pixels copied whole from anywhere in memory, ten times as quick as pixel by pixel.
    crops = padded.view(-1).as_strided((count, width), (1, 1)).index_select(0, start.view(-1)).view(images.shape)
    return torch.where(params.flip[:, None, None, None], crops.flip(3), crops)


def moved(
    images: UInt8[ndarray, "B 3 H W"],
    down: Int64[ndarray, " B"],
    right: Int64[ndarray, " B"],
    fill: UInt8[ndarray, "3 1 1"],
) -> UInt8[ndarray, "B 3 H W"]:
    """Return each image as seen from a place that many pixels further down and right, with fill around it."""
    batch, _, height, width = images.shape
    above, before = np.abs(down).max(), np.abs(right).max()
    canvas = np.empty((batch, 3, height + 2 * above, width + 2 * before), dtype=np.uint8)
    canvas[:] = fill
    canvas[:, :, above : above + height, before : before + width] = images
    windows = sliding_window_view(canvas, (height, width), axis=(2, 3))
    return windows[np.arange(batch), :, above + down, before + right]


def sample_affine(
    config: AugmentConfig, generator: np.random.Generator, batch_size: int, image_size: tuple[int, int]
) -> AffineParams:
    """Draw a magnification, shear, rotation and shift, each uniform and applied in that order, as the inverse map."""
    height, width = image_size
    draw = generator.uniform(-1, 1, (batch_size, 5))
    angle = np.radians(draw[:, 0] * config.affine_degrees)
    shear = np.tan(np.radians(draw[:, 1] * config.affine_shear))
    low, high = config.affine_scale
    scale = low + (draw[:, 2] + 1) / 2 * (high - low)
    shift = draw[:, 3:] * config.affine_translate * (width, height)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)
    skew = np.tile(np.eye(2), (batch_size, 1, 1))
    skew[:, 0, 1] = shear
    inverse = np.linalg.inv(scale[:, None, None] * rotation @ skew)
    matrix = np.concatenate([inverse, -inverse @ shift[:, :, None]], axis=2)
    return AffineParams(matrix=torch.from_numpy(matrix.astype(np.float32)))


def apply_affine(images: UInt8[Tensor, "B 3 H W"], params: AffineParams) -> UInt8[Tensor, "B 3 H W"]:
    """Resample bilinearly about the centre; outside the image its nearest edge pixel is repeated."""
    batch, channels, height, width = images.shape
    device = images.device
    x = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
    y = torch.arange(height, device=device, dtype=torch.float32) - (height - 1) / 2
    m = params.matrix[:, :, :, None, None]
    source_x = (m[:, 0, 0] * x + m[:, 0, 1] * y[:, None] + m[:, 0, 2] + (width - 1) / 2).clamp(0, width - 1)
    source_y = (m[:, 1, 0] * x + m[:, 1, 1] * y[:, None] + m[:, 1, 2] + (height - 1) / 2).clamp(0, height - 1)
    left, top = source_x.floor(), source_y.floor()
    right_weight, bottom_weight = source_x - left, source_y - top
    pixels = images.reshape(batch, channels, height * width)
    total = torch.zeros((batch, channels, height, width), dtype=torch.float32, device=device)
    for down, weight_y in ((0, 1 - bottom_weight), (1, bottom_weight)):
        for across, weight_x in ((0, 1 - right_weight), (1, right_weight)):
            row, column = (top + down).clamp(max=height - 1).long(), (left + across).clamp(max=width - 1).long()
            index = (row * width + column).reshape(batch, 1, height * width).expand_as(pixels)
            total = total + pixels.gather(2, index).reshape(images.shape) * (weight_y * weight_x)[:, None]
    return (total + 0.5).to(torch.uint8)
