"""What wrong images and labels are told, in one line."""

import numpy as np
import torch
from torch import Tensor

from smallvit.checks import is_whole
from smallvit.errors import UsageError


def check_images(images: Tensor, expected: int | None = None, size: tuple[int, int] | None = None) -> None:
    """Raise UsageError unless the images are a uint8 batch [B, 3, H, W] of the expected length, height and width."""
    if images.dtype != torch.uint8:
        raise UsageError(f"images have dtype {images.dtype}, expected torch.uint8 with values from 0 to 255")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise UsageError(f"images have shape {tuple(images.shape)}, expected (batch, 3, height, width)")
    if expected is not None and len(images) != expected:
        raise UsageError(f"the batch has {len(images)} images, expected {expected}, as many as were drawn for")
    found = tuple(images.shape[2:])
    if size is not None and found != size:
        raise UsageError(f"images are {found[0]} x {found[1]} pixels, expected {size[0]} x {size[1]}, as was drawn for")


def check_draws(generator: object, batch_size: object, image_size: object) -> None:
    """Raise UsageError unless this is what a batch can be drawn with."""
    if not isinstance(generator, np.random.Generator):
        raise UsageError(f"generator is {generator!r}, expected a NumPy generator, such as numpy.random.default_rng(0)")
    if not is_whole(batch_size, 1):
        raise UsageError(f"batch_size is {batch_size!r}, expected a whole number, at least 1")
    if not (isinstance(image_size, tuple) and len(image_size) == 2 and all(is_whole(side, 1) for side in image_size)):
        raise UsageError(f"image_size is {image_size!r}, expected (height, width) in pixels")


def check_labels(labels: Tensor, expected: int) -> None:
    """Raise UsageError unless the labels are int64 class indices [B], one for each image."""
    if labels.dtype != torch.int64 or tuple(labels.shape) != (expected,):
        found = f"dtype {labels.dtype} and shape {tuple(labels.shape)}"
        raise UsageError(f"labels have {found}, expected torch.int64 class indices of shape ({expected},)")
