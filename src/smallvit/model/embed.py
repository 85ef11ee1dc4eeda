"""From an image to tokens: patches and positions.

Shapes: B batch, S image size, P patch size, G = S / P patches a side, N = G * G patches, D embed_dim.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
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


def resample_positions(
    positions: Float[Tensor, "1 M D"], grid_size: int, num_prefix_tokens: int = 0
) -> Float[Tensor, "1 N D"]:
    """Return learned positions for another number of patches a side, by bicubic interpolation with antialiasing, as
    they are fine-tuned at another image size since Dosovitskiy et al. (2021, section 3.2); those of the prefix tokens,
    which come first, stay. M less these is a square.
    """
    prefix, patches = positions[:, :num_prefix_tokens], positions[:, num_prefix_tokens:]
    side = math.isqrt(patches.shape[1])
    grid = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid.float(), size=(grid_size, grid_size), mode="bicubic", antialias=True)
    return torch.cat([prefix, grid.permute(0, 2, 3, 1).flatten(1, 2).to(prefix.dtype)], dim=1)


def image_patches(images: Float[Tensor, "B 3 S S"], conv: nn.Conv2d) -> Float[Tensor, "R E"]:
    """Return every patch that a convolution sees as a row of E values, in the order of its filters."""
    kernel, stride, padding = (cast("tuple[int, int]", size) for size in (conv.kernel_size, conv.stride, conv.padding))
    rows = nn.functional.unfold(images, kernel, stride=stride, padding=padding)
    return rows.transpose(1, 2).flatten(0, 1)
