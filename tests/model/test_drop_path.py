"""Stochastic depth: its rates, its chances, and when it acts. (test_timm.py compares it with timm's.)"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

BuildModel = Callable[..., VisionTransformer]
BASE = ModelConfig(
    image_size=16,
    patch_size=4,
    num_classes=7,
    embed_dim=24,
    depth=3,
    num_heads=3,
    num_class_attention_blocks=2,
    drop_path_rate=0.4,
)
RATES = np.array([0.0, 0.1, 0.2, 0.3, 0.4])  # linear over the blocks of both kinds
DRAWS = 20_000


@pytest.fixture
def scale() -> Tensor:
    uniform = np.random.Generator(np.random.Philox(7)).random((5, 2, DRAWS), dtype=np.float32)
    return VisionTransformer(BASE).drop_path_scale(torch.from_numpy(uniform))


def test_a_branch_is_kept_with_its_probability(scale: Tensor) -> None:
    kept = (scale != 0).sum(-1).double().numpy()
    assert (kept[0] == DRAWS).all(), "the first block is never skipped"
    expected = (1 - RATES[1:, None]) * DRAWS
    statistic = ((kept[1:] - expected) ** 2 / expected + (kept[1:] - expected) ** 2 / (DRAWS - expected)).sum()
    assert 1e-4 < stats.chi2.cdf(statistic, df=8) < 1 - 1e-4


def test_what_is_kept_is_scaled_up_so_that_the_mean_is_one(scale: Tensor) -> None:
    for rate, block in zip(RATES, scale, strict=True):
        assert set(block.unique().tolist()) <= {0.0, float(torch.tensor(1.0) / (1 - torch.tensor(float(rate))))}
        deviation = np.sqrt(rate / (1 - rate) / DRAWS)
        assert (block.double().mean(-1) - 1).abs().max() <= 4.5 * deviation + 1e-7


def test_the_rate_rises_linearly_to_the_last_block() -> None:
    levels = torch.arange(1000) / 1000
    skipped = VisionTransformer(BASE).drop_path_scale(levels.expand(5, 2, -1)) == 0
    np.testing.assert_allclose(skipped.double().mean(-1).numpy(), np.stack([RATES, RATES], axis=1), atol=0.0011)
    single = VisionTransformer(replace(BASE, depth=1, num_class_attention_blocks=0))
    assert (single.drop_path_scale(levels.expand(1, 2, -1)) == 1).all(), "one block alone is the first"


def test_each_image_has_its_own_draw(rough_model: BuildModel, images: Tensor) -> None:
    model = rough_model(BASE)
    scale = model.drop_path_scale(torch.rand(5, 2, 4, generator=torch.Generator().manual_seed(1)))
    assert len({tuple(scale[:, :, i].flatten().tolist()) for i in range(4)}) == 4, "four different draws"
    together = model(images, scale)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], model(images[i : i + 1], scale[:, :, i : i + 1]))
    ones = torch.ones_like(scale)
    torch.testing.assert_close(model(images, ones), model(images))


def test_skipping_every_branch_leaves_the_embedding(rough_model: BuildModel, images: Tensor) -> None:
    model = rough_model(BASE)
    wanted = torch.cat([model.cls_token.expand(4, -1, -1), model.patch_embed(images)], dim=1) + model.pos_embed
    torch.testing.assert_close(model.forward_features(images, torch.zeros(5, 2, 4)), model.norm(wanted))


@pytest.mark.parametrize("branch", [0, 1])
def test_attention_and_mlp_are_skipped_separately(rough_model: BuildModel, images: Tensor, branch: int) -> None:
    config = replace(BASE, depth=1, num_class_attention_blocks=0)
    model = rough_model(config)
    scale = torch.ones(1, 2, 4)
    scale[0, branch] = 0
    x = torch.cat([model.cls_token.expand(4, -1, -1), model.patch_embed(images)], dim=1) + model.pos_embed
    block = model.all_blocks[0]
    wanted = x + (block.mlp(block.norm2(x)) if branch == 0 else block.attn(block.norm1(x)))
    torch.testing.assert_close(model.forward_features(images, scale), model.norm(wanted))


def test_evaluation_skips_nothing_and_draws_nothing(rough_model: BuildModel, images: Tensor) -> None:
    model, never = rough_model(BASE), rough_model(replace(BASE, drop_path_rate=0.0)).train()
    before = torch.get_rng_state()
    assert torch.equal(model(images), never(images))
    assert torch.equal(model.forward_features(images), never.forward_features(images))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", ["forward", "forward_features"])
def test_training_without_a_draw_takes_one_from_torchs_generator(
    rough_model: BuildModel, images: Tensor, method: str
) -> None:
    model = rough_model(BASE).train()
    torch.manual_seed(3)
    wanted = getattr(model, method)(images, model.drop_path_scale(torch.rand(5, 2, 4)))
    torch.manual_seed(3)
    assert torch.equal(getattr(model, method)(images), wanted)
    assert not torch.equal(getattr(model, method)(images), wanted), "the next draw is another one"
