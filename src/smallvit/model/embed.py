"""From an image to tokens: patches and positions.

Shapes: B batch, S image size, P patch size, G = S / P patches a side, N = G * G patches, D embed_dim.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """One linear map of every patch, written as a convolution whose stride is its size."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    @property
    def first_convolution(self) -> nn.Conv2d:
        """The layer that sees the pixels."""
        return self.proj

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B N D"]:
        """Return the patch tokens, row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


def sincos_positions(grid_size: int, embed_dim: int) -> Float[Tensor, "N D"]:
    """Return fixed two-dimensional sine-cosine positions, row by row.

    A quarter of the width each for sin(row), cos(row), sin(column), cos(column), at embed_dim / 4 wavelengths in
    geometric steps from 2 pi patches up to, not including, 20,000 pi (Vaswani et al., 2017, on each axis).
    """
    quarter = embed_dim // 4
    frequency = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.arange(grid_size, dtype=torch.float64)[:, None] * frequency
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = axis[:, None, :].expand(grid_size, grid_size, -1)
    columns = axis[None, :, :].expand(grid_size, grid_size, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1).float()


def image_patches(images: Float[Tensor, "B 3 S S"], conv: nn.Conv2d) -> Float[Tensor, "R E"]:
    """Return every patch that a convolution sees as a row of E values, in the order of its filters."""
    kernel, stride, padding = (cast("tuple[int, int]", size) for size in (conv.kernel_size, conv.stride, conv.padding))
    rows = nn.functional.unfold(images, kernel, stride=stride, padding=padding)
    return rows.transpose(1, 2).flatten(0, 1)
