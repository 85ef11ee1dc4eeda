"""Boxes of pixels, as drawn and as masks. Legend: B batch, A attempts at a box, H height, W width."""

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from torch import Tensor

Array = TypeVar("Array", Tensor, ndarray)


ATTEMPTS = 10
"""At a box that fits inside the image."""


def first_that_fits(
    fits: Bool[ndarray, "B A"],
    rows: Int64[ndarray, "B A"],
    columns: Int64[ndarray, "B A"],
    place: tuple[Float64[ndarray, "B A"], Float64[ndarray, "B A"]],
    image_size: tuple[int, int],
) -> tuple[Bool[ndarray, " B"], Int64[ndarray, "B 4"]]:
    """Return whether any of the boxes of so many rows and columns fits, and the first that does, as `box_mask` has it.

    `place` is where it lies, down and across, as parts of what room it has, 0 to 1 without 1.
    """
    height, width = image_size
    first = np.arange(len(fits)), fits.argmax(axis=1)
    rows, columns = rows[first], columns[first]
    top, left = (
        (part[first] * (side - length + 1)).astype(np.int64)
        for part, side, length in zip(place, (height, width), (rows, columns), strict=True)
    )
    return fits[first], np.stack([top, left, top + rows, left + columns], axis=-1)


def box_mask(box: Array, row: Array, column: Array) -> Array:
    """Return which pixels [B, 1, H, W] are inside each image's box, by their row numbers [H] and columns [W].

    A box is its first row and column, and those after its last: the first four of box [B, 4 or more].
    """
    top, left, bottom, right = (box[:, entry, None] for entry in range(4))
    rows = (row >= top) & (row < bottom)
    columns = (column >= left) & (column < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def image_mask(box: Tensor, images: Tensor) -> Tensor:
    """Return `box_mask` for all pixels of images [B, 3, H, W], where those are."""
    row, column = (torch.arange(side, device=box.device) for side in images.shape[2:])
    return box_mask(box, row, column)
