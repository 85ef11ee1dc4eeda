"""Any valid config builds; parameters and multiply-accumulates are those of closed formulas and of the paper."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer, count_macs, count_parameters

BASELINE = ModelConfig(num_classes=10)


@st.composite
def config_fields(draw: st.DrawFn) -> dict[str, Any]:
    """Fields, not configs: beartype, which checks a config in the tests, draws random numbers; strategies must not."""
    heads = draw(st.integers(1, 4))
    width = heads * 4 * draw(st.integers(1, 3))
    patch = draw(st.sampled_from([1, 2, 3, 4, 8]))
    tokens = draw(st.integers(0, 3))
    latent = st.none() | st.integers(1, width)
    return {
        "image_size": patch * draw(st.integers(1, 4)),
        "num_classes": draw(st.integers(2, 12)),
        "patch_size": patch,
        "embed_dim": width,
        "depth": draw(st.integers(1, 3)),
        "num_heads": heads,
        "mlp_ratio": draw(st.sampled_from([0.5, 1.0, 2.0, 2.67, 4.0])),
        "num_cls_tokens": tokens,
        "num_class_attention_blocks": draw(st.integers(0, 2)) if tokens else 0,
        "position": draw(st.sampled_from(["learned", "sincos"])),
        "latent_dim_q": draw(latent),
        "latent_dim_k": draw(latent),
        "latent_dim_v": draw(latent),
        "head": draw(st.sampled_from(["linear", "mlp"])),
        "drop_path_rate": draw(st.floats(0, 0.9)),
    }


def parameters_by_formula(c: ModelConfig) -> int:
    d, hidden, features = c.embed_dim, round(c.embed_dim * c.mlp_ratio), c.embed_dim * max(c.num_cls_tokens, 1)
    patches, classes = (c.image_size // c.patch_size) ** 2, c.num_classes or 0
    tokens = c.num_cls_tokens * d + (c.position == "learned") * (c.num_cls_tokens + patches) * d
    projections = sum(d * d + d if r is None else 2 * d * r + d for r in c.latent_dims)
    block = projections + d * d + d + (d * hidden + hidden) + (hidden * d + d) + 2 * 2 * d
    head = (features + 1) * classes if c.head == "linear" else (features + 1) * d + (d + 1) * classes
    blocks = c.depth + c.num_class_attention_blocks
    return 3 * c.patch_size**2 * d + d + tokens + blocks * block + 2 * d + head


def macs_by_formula(c: ModelConfig) -> int:
    d, hidden, features = c.embed_dim, round(c.embed_dim * c.mlp_ratio), c.embed_dim * max(c.num_cls_tokens, 1)
    patches, classes = (c.image_size // c.patch_size) ** 2, c.num_classes or 0
    n = c.num_cls_tokens + patches
    cost = [d * d if r is None else 2 * d * r for r in c.latent_dims]

    def block(asking: int) -> int:
        # One plain qkv matrix is applied to every token; a separate q to those that ask alone.
        projections = (asking if any(c.latent_dims) else n) * cost[0] + n * (cost[1] + cost[2])
        return projections + 2 * asking * n * d + asking * d * d + 2 * asking * d * hidden

    head = features * classes if c.head == "linear" else features * d + d * classes
    everywhere = patches * 3 * c.patch_size**2 * d + c.depth * block(n)
    return everywhere + c.num_class_attention_blocks * block(c.num_cls_tokens) + head


@settings(max_examples=40, deadline=None)
@given(config_fields())
def test_any_valid_config_builds_a_model_of_the_right_shape_and_size(fields: dict[str, Any]) -> None:
    config = ModelConfig(**fields)
    model = VisionTransformer(config)
    pictures = torch.randn(2, 3, config.image_size, config.image_size)
    for training in (True, False):
        logits = model.train(training)(pictures)
        assert logits.shape == (2, config.num_classes)
        assert logits.isfinite().all()
    assert model.forward_features(pictures).shape == (2, config.num_cls_tokens + config.num_patches, config.embed_dim)
    assert count_parameters(model) == parameters_by_formula(config)
    assert count_macs(config) == macs_by_formula(config)


@pytest.mark.parametrize(
    ("change", "parameters", "macs"),
    [
        ({}, 2_697_610, 187_716_864),  # the paper's 2.70 M and 188 M
        ({"embed_dim": 96, "num_heads": 12}, 685_258, 50_727_552),  # 0.685 M
        ({"embed_dim": 96, "num_heads": 3}, 685_258, 50_727_552),  # heads change nothing
        ({"depth": 12}, 3_588_682, 250_091_904),  # the 3.59 M that the paper's code trains by mistake
    ],
)
def test_the_papers_sizes(change: dict[str, int], parameters: int, macs: int) -> None:
    config = replace(BASELINE, **change)
    assert count_parameters(VisionTransformer(config)) == parameters == parameters_by_formula(config)
    assert count_macs(config) == macs == macs_by_formula(config)


def test_counting_neither_allocates_the_model_nor_draws_from_torchs_generator() -> None:
    before = torch.get_rng_state()
    count_macs(replace(BASELINE, embed_dim=12 * 4096, depth=2))  # some 100 GB if it were real
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_a_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes is None"):
        VisionTransformer(ModelConfig())
