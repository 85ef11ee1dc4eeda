"""What wrong images are told, in one line."""

import torch
from torch import Tensor

from smallvit.errors import UsageError


def check_images(images: Tensor, expected: int | None = None) -> None:
    """Raise UsageError unless the images are a uint8 batch [B, 3, H, W] of the expected length."""
    if images.dtype != torch.uint8:
        raise UsageError(f"images have dtype {images.dtype}, expected torch.uint8 with values from 0 to 255")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise UsageError(f"images have shape {tuple(images.shape)}, expected (batch, 3, height, width)")
    if expected is not None and len(images) != expected:
        raise UsageError(f"the batch has {len(images)} images, expected {expected}, as many as were drawn for")
