"""Rotary positions: timm's rotation, and attention that knows only how far two patches are apart."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor

from smallvit.model.config import ModelConfig
from smallvit.model.query_key import rotary_tables, rotated
from smallvit.model.vit import VisionTransformer

BuildModel = Callable[..., VisionTransformer]
SMALL = ModelConfig(image_size=16, patch_size=4, num_classes=7, embed_dim=24, depth=2, num_heads=3, position="rotary")


@pytest.mark.parametrize(("grid", "width"), [(1, 4), (4, 8), (8, 16), (8, 32)])
def test_the_rotation_is_timms(timm: ModuleType, grid: int, width: int) -> None:
    layers = timm.layers.pos_embed_sincos
    bands = layers.freq_bands(width // 4, temperature=100.0, step=1)
    sin, cos = layers.build_rotary_pos_embed([grid, grid], bands=bands, dim=width, in_pixels=False)
    our_cos, our_sin = rotary_tables(grid, width, 0)
    torch.testing.assert_close(our_cos, cos.float(), rtol=0, atol=2e-6)
    torch.testing.assert_close(our_sin, sin.float(), rtol=0, atol=2e-6)
    x = torch.randn(2, 3, grid * grid, width)
    theirs = layers.apply_rot_embed_cat(x, torch.cat([sin, cos], dim=-1))
    torch.testing.assert_close(rotated(x, our_cos, our_sin), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", [0, 3])
def test_products_of_turned_queries_and_keys_tell_the_offset_alone(prefix: int) -> None:
    cos, sin = (table.double() for table in rotary_tables(5, 8, prefix))
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=generator).unbind(0)
    count = 25 + prefix
    turned_q, turned_k = (rotated(x.expand(1, 1, count, 8), cos, sin)[0, 0] for x in (q, k))
    products = turned_q[prefix:] @ turned_k[prefix:].T
    by_offset: dict[tuple[int, int], list[float]] = {}
    for a, b in itertools.product(range(25), repeat=2):
        by_offset.setdefault((b // 5 - a // 5, b % 5 - a % 5), []).append(float(products[a, b]))
    means = [sum(found) / len(found) for found in by_offset.values()]
    assert max(max(found) - min(found) for found in by_offset.values()) < 1e-6
    assert min(abs(a - b) for a, b in itertools.combinations(means, 2)) > 1e-6, "offsets can be told apart"
    assert torch.equal(turned_q[:prefix], q[0, 0].expand(prefix, 8))
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(count))


def test_without_positions_permuted_patches_give_the_same_logits_and_with_them_others(
    rough_model: BuildModel, images: Tensor
) -> None:
    """The rotation is the only thing that knows where a patch is."""
    model = rough_model(replace(SMALL, num_cls_tokens=2, num_registers=1, num_class_attention_blocks=1))
    assert "pos_embed" not in model.state_dict()
    permuted = images.unflatten(2, (4, 4)).roll(1, dims=2).flatten(2, 3)
    assert (model(permuted) - model(images)).abs().max() > 1e-2
    for block in model.all_blocks:
        assert block.attn.query_key is not None
        block.attn.query_key.cos, block.attn.query_key.sin = None, None
    torch.testing.assert_close(model(permuted), model(images), rtol=0, atol=1e-11)


@pytest.mark.parametrize("position", ["learned", "sincos", "rotary"])
def test_residuals_are_float32_whatever_the_products_are(rough_model: BuildModel, position: str) -> None:
    model, seen = rough_model(replace(SMALL, position=position)).float(), list[torch.dtype]()
    for block in model.all_blocks:
        block.register_forward_hook(lambda _block, given, _result: seen.append(given[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.rand(2, 3, 16, 16)).dtype == torch.bfloat16
    assert seen == [torch.float32] * SMALL.depth


def test_a_rotary_model_saves_no_tables_and_loads_into_a_fresh_one(rough_model: BuildModel, images: Tensor) -> None:
    model = rough_model(SMALL)
    fresh = VisionTransformer(SMALL).double().eval()
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(images), model(images))
    assert set(model.state_dict()) == set(dict(model.named_parameters()))
