"""Patches and positions."""

import itertools
import math
from types import ModuleType

import numpy as np
import pytest
import torch

from smallvit.model.config import ModelConfig
from smallvit.model.embed import PatchEmbed, image_patches, resample_positions, sincos_positions
from smallvit.model.vit import VisionTransformer

GRIDS = [(1, 4), (2, 8), (4, 48), (8, 192), (16, 12)]


@pytest.mark.parametrize("patch_size", [1, 2, 4, 8, 16])
def test_the_embedding_is_a_product_of_each_patch_cut_out_by_hand(patch_size: int) -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(patch_size, 10).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    side = 16 // patch_size
    patches = [
        images[b, :, r * patch_size : (r + 1) * patch_size, c * patch_size : (c + 1) * patch_size].flatten()
        for b, r, c in itertools.product(range(2), range(side), range(side))
    ]
    assert torch.equal(image_patches(images, embed.proj), torch.stack(patches))
    wanted = torch.stack(patches) @ embed.proj.weight.flatten(1).T + embed.proj.get_parameter("bias")
    torch.testing.assert_close(embed(images).flatten(0, 1), wanted)


@pytest.mark.parametrize(("grid", "width"), GRIDS)
def test_sincos_positions_are_those_of_a_plain_loop(grid: int, width: int) -> None:
    quarter = width // 4
    wanted = np.zeros((grid * grid, width))
    for row, column, i in itertools.product(range(grid), range(grid), range(quarter)):
        wavelength = 2 * math.pi * 10_000 ** (i / quarter)
        for axis, place in enumerate((row, column)):
            wanted[row * grid + column, 2 * axis * quarter + i] = math.sin(2 * math.pi * place / wavelength)
            wanted[row * grid + column, (2 * axis + 1) * quarter + i] = math.cos(2 * math.pi * place / wavelength)
    positions = sincos_positions(grid, width)
    assert positions.dtype == torch.float32
    np.testing.assert_allclose(positions.numpy(), wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("grid", "width"), GRIDS)
def test_sincos_positions_all_differ_and_their_products_tell_the_offset_alone(grid: int, width: int) -> None:
    positions = sincos_positions(grid, width).double().numpy()
    products = positions @ positions.T
    distances = np.diag(products)[:, None] + np.diag(products)[None] - 2 * products
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 0.01
    by_offset: dict[tuple[int, int], list[float]] = {}
    for a, b in itertools.product(range(grid * grid), repeat=2):
        offset = (b // grid - a // grid, b % grid - a % grid)
        by_offset.setdefault(offset, []).append(products[a, b])
    assert max(max(found) - min(found) for found in by_offset.values()) < 1e-5


@pytest.mark.parametrize(("before", "after", "prefix"), [(8, 16, 0), (8, 16, 3), (8, 5, 1), (1, 4, 1), (4, 4, 2)])
def test_positions_for_another_image_size_are_timms(timm: ModuleType, before: int, after: int, prefix: int) -> None:
    positions = torch.randn(1, prefix + before**2, 12, generator=torch.Generator().manual_seed(0))
    wanted = timm.layers.pos_embed.resample_abs_pos_embed(positions, [after, after], num_prefix_tokens=prefix)
    torch.testing.assert_close(resample_positions(positions, after, prefix), wanted)


def test_sincos_positions_are_fixed_and_leave_the_cls_tokens_alone() -> None:
    model = VisionTransformer(
        ModelConfig(num_classes=7, embed_dim=24, depth=1, num_heads=3, num_cls_tokens=2, position="sincos")
    )
    assert "pos_embed" not in dict(model.named_parameters())
    assert "pos_embed" in model.state_dict()
    assert torch.equal(model.pos_embed[0, :2], torch.zeros(2, 24))
    assert torch.equal(model.pos_embed[0, 2:], sincos_positions(8, 24))
