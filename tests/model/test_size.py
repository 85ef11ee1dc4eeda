"""Any valid config builds; parameters and multiply-accumulates are those of closed formulas and of the paper."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvit.errors import UsageError
from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer, count_macs, count_parameters
from smallvit.recipes import best

BASELINE = ModelConfig(num_classes=10)


@st.composite
def config_fields(draw: st.DrawFn) -> dict[str, Any]:
    """Fields, not configs: beartype, which checks a config in the tests, draws random numbers; strategies must not."""
    heads = draw(st.integers(1, 4))
    width = heads * 4 * draw(st.integers(1, 3))
    patch = draw(st.sampled_from([1, 2, 3, 4, 8]))
    tokens = draw(st.integers(0, 3))
    latent = st.none() | st.integers(1, width)
    side = draw(st.integers(1, 4))
    convolved = patch in (2, 4, 8) and width >= 8
    tokenizers = ["patch", *(["conv", "conv-pool"] if convolved else []), *(["shifted"] if patch > 1 else [])]
    depth, class_blocks = draw(st.integers(1, 3)), draw(st.integers(0, 2)) if tokens else 0
    pooling = draw(st.sampled_from(["cls", "cls+mean"] if tokens else ["cls", "mean"]))
    read = depth + class_blocks > 1 or not tokens or pooling != "cls"
    tokenizer, registers = draw(st.sampled_from(tokenizers)), draw(st.integers(0, 2))
    return {
        "image_size": patch * side,
        "num_classes": draw(st.integers(2, 12)),
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": draw(st.sampled_from([0.5, 1.0, 2.0, 2.67, 4.0])),
        "num_cls_tokens": tokens,
        "num_class_attention_blocks": class_blocks,
        "num_registers": registers,
        "position": draw(st.sampled_from(["learned", "sincos", "rotary"])),
        "tokenizer": tokenizer,
        "tokenizer_depth": draw(st.integers(1, 3)) if tokenizer == "conv" else 1,
        "qk_norm": draw(st.sampled_from(["none", "rms"])),
        "locality": draw(st.sampled_from(["none", "lsa"])) if tokens + registers + side * side > 1 else "none",
        "mlp_conv": draw(st.sampled_from(["none", "depthwise"])) if read else "none",
        "layer_scale": draw(st.none() | st.just(0.1)),
        "pooling": pooling,
        "latent_dim_q": draw(latent),
        "latent_dim_k": draw(latent),
        "latent_dim_v": draw(latent),
        "head": draw(st.sampled_from(["linear", "mlp"])),
        "drop_path_rate": draw(st.floats(0, 0.9)),
    }


def features_of(c: ModelConfig) -> int:
    """Width of what the head reads: CLS tokens, patch mean or both."""
    return c.embed_dim * (c.num_cls_tokens + (c.pooling != "cls" or c.num_cls_tokens == 0))


def convolving_blocks(c: ModelConfig) -> int:
    """Blocks with a convolution: all where every token attends, but the last where only the CLS tokens are read."""
    unread = c.num_cls_tokens > 0 and c.pooling == "cls" and c.num_class_attention_blocks == 0
    return (c.depth - unread) * (c.mlp_conv == "depthwise")


def conv_widths(c: ModelConfig) -> list[int]:
    count = {2: 1, 4: 2, 8: 3}[c.patch_size]
    return [3, *(c.embed_dim // 2 ** (count - 1 - i) for i in range(count))]


def tokenizer_by_formula(c: ModelConfig) -> tuple[int, int]:
    """Parameters and multiply-accumulates."""
    d, side = c.embed_dim, c.image_size // c.patch_size
    if c.tokenizer == "conv":
        widths = conv_widths(c)
        matrices = [9 * one * other for one, other in itertools.pairwise(widths)]
        sides = [side * 2**i for i in reversed(range(len(matrices)))]
        macs = sum(matrix * s * s for matrix, s in zip(matrices, sides, strict=True))
        more = c.tokenizer_depth - 1  # a norm and a convolution of as many channels
        macs += more * sum(9 * width**2 * s * s for width, s in zip(widths[1:], sides, strict=True))
        added = more * sum(9 * width**2 + width + 2 * width for width in widths[1:])
        return sum(matrices) + sum(widths[1:]) + 2 * sum(widths[1:-1]) + added, macs
    if c.tokenizer == "conv-pool":
        size = c.image_size
        parameters, macs, before = 12 * 12 + 12, 12 * 12 * size**2, 24
        halvings = c.patch_size.bit_length() - 1
        for i, width in enumerate([d // 4, *[d] * (halvings - 1)] if halvings > 1 else [d]):
            # Two convolutions and their norms, a halving between them.
            parameters += 9 * before * width + 9 * width**2 + 2 * width + 2 * 2 * width
            macs += 9 * before * width * (size >> i) ** 2 + 9 * width**2 * (size >> i + 1) ** 2
            before = width
        return parameters, macs
    values = 3 * c.patch_size**2 * (5 if c.tokenizer == "shifted" else 1)
    return values * d + d + 2 * values * (c.tokenizer == "shifted"), side**2 * values * d


def parameters_by_formula(c: ModelConfig) -> int:
    d, hidden, features = c.embed_dim, round(c.embed_dim * c.mlp_ratio), features_of(c)
    patches, classes = (c.image_size // c.patch_size) ** 2, c.num_classes or 0
    prefix = c.num_cls_tokens + c.num_registers
    tokens = prefix * d + (c.position == "learned") * (prefix + patches) * d
    projections = sum(d * d + d if r is None else 2 * d * r + d for r in c.latent_dims)
    block = projections + d * d + d + (d * hidden + hidden) + (hidden * d + d) + 2 * 2 * d
    block += 2 * (d // c.num_heads) * (c.qk_norm == "rms") + c.num_heads * (c.locality == "lsa")
    block += 2 * d * (c.layer_scale is not None)
    head = (features + 1) * classes if c.head == "linear" else (features + 1) * d + (d + 1) * classes
    blocks = c.depth + c.num_class_attention_blocks
    convolutions = convolving_blocks(c) * 10 * hidden
    return tokenizer_by_formula(c)[0] + tokens + blocks * block + convolutions + 2 * d + head


def macs_by_formula(c: ModelConfig) -> int:
    d, hidden, features = c.embed_dim, round(c.embed_dim * c.mlp_ratio), features_of(c)
    patches, classes = (c.image_size // c.patch_size) ** 2, c.num_classes or 0
    n = c.num_cls_tokens + c.num_registers + patches
    cost = [d * d if r is None else 2 * d * r for r in c.latent_dims]

    def block(asking: int) -> int:
        projections = asking * cost[0] + n * (cost[1] + cost[2])
        return projections + 2 * asking * n * d + asking * d * d + 2 * asking * d * hidden

    head = features * classes if c.head == "linear" else features * d + d * classes
    everywhere = tokenizer_by_formula(c)[1] + c.depth * block(n) + convolving_blocks(c) * patches * 9 * hidden
    return everywhere + c.num_class_attention_blocks * block(c.num_cls_tokens) + head


@settings(max_examples=40)
@given(config_fields())
def test_any_valid_config_builds_a_model_of_the_right_shape_and_size(fields: dict[str, Any]) -> None:
    config = ModelConfig(**fields)
    model = VisionTransformer(config)
    pictures = torch.randn(2, 3, config.image_size, config.image_size)
    for training in (True, False):
        logits = model.train(training)(pictures)
        assert logits.shape == (2, config.num_classes)
        assert logits.isfinite().all()
    assert model.forward_features(pictures).shape == (2, config.num_tokens, config.embed_dim)
    assert count_parameters(model) == parameters_by_formula(config)
    assert count_macs(config) == macs_by_formula(config)


@pytest.mark.parametrize(
    ("change", "parameters", "macs"),
    [
        ({}, 2_697_610, 187_716_864),  # the paper's 2.70 M and 188 M
        ({"embed_dim": 96, "num_heads": 12}, 685_258, 50_727_552),  # 0.685 M
        ({"embed_dim": 96, "num_heads": 3}, 685_258, 50_727_552),  # heads change nothing
        # By hand: per block and projection 192 * 192 = 36,864 values become 2 * 192 * 48 = 18,432.
        ({"latent_dim_k": 48, "latent_dim_v": 48}, 2_365_834, 166_151_424),
        ({"depth": 12}, 3_588_682, 250_091_904),  # the 3.59 M that the paper's code trains by mistake
        # By hand: 5 * 48 = 240 values a patch instead of 48; 192 * 192 * 64 more products, and a norm's 480 values.
        ({"tokenizer": "shifted"}, 2_697_610 + 192 * 192 + 480, 187_716_864 + 192 * 192 * 64),
        # Two convolutions and a norm; 27 * 96 * 256 + 9 * 96 * 192 * 64 products instead of 48 * 192 * 64.
        (
            {"tokenizer": "conv"},
            2_697_610 - 9_408 + (27 * 96 + 96) + 2 * 96 + (9 * 96 * 192 + 192),
            187_716_864 - 589_824 + 663_552 + 10_616_832,
        ),
        ({"mlp_conv": "depthwise"}, 2_697_610 + 8 * 10 * 384, 187_716_864 + 8 * 9 * 384 * 64),
        ({"pooling": "cls+mean"}, 2_697_610 + 1_920, 187_716_864 + 1_920),
    ],
)
def test_the_papers_sizes(change: dict[str, Any], parameters: int, macs: int) -> None:
    config = replace(BASELINE, **change)
    assert count_parameters(VisionTransformer(config)) == parameters == parameters_by_formula(config)
    assert count_macs(config) == macs == macs_by_formula(config)


@pytest.mark.parametrize("num_classes", [10, 100])
def test_best_keeps_to_its_arithmetic_and_size(num_classes: int) -> None:
    config = replace(best().model, num_classes=num_classes)
    assert count_macs(config) <= 200_000_000
    assert count_parameters(VisionTransformer(config)) <= 3_000_000


def test_counting_neither_allocates_the_model_nor_draws_from_torchs_generator() -> None:
    before = torch.get_rng_state()
    count_macs(replace(BASELINE, embed_dim=12 * 4096, depth=2))  # some 100 GB if it were real
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_a_number_of_classes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"num_classes is None: set it, as in dataclasses.replace\("):
        VisionTransformer(ModelConfig())
