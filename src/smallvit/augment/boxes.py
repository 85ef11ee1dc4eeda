"""Boxes of pixels as masks. Legend: B batch, H height, W width."""

from typing import TypeVar

import torch
from numpy import ndarray
from torch import Tensor

Array = TypeVar("Array", Tensor, ndarray)


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
