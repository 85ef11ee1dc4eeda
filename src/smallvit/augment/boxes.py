"""Boxes of pixels as masks. Legend: B batch, H height, W width."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


def box_mask(box: Int64[Tensor, "B 4"], height: int, width: int) -> Bool[Tensor, "B 1 H W"]:
    """Return which pixels are inside each image's box; a box is its first row and column, and those after its last."""
    row = torch.arange(height, device=box.device)
    column = torch.arange(width, device=box.device)
    top, left, bottom, right = box[:, :, None].unbind(1)
    rows = (row >= top) & (row < bottom)
    columns = (column >= left) & (column < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
