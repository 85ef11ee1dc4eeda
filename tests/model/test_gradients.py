"""In every variant a trained value has a gradient, and nothing is drawn but by the generator that is given."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

BASE = ModelConfig(image_size=16, patch_size=4, num_classes=7, embed_dim=24, depth=2, num_heads=3)
VARIANTS = {
    "baseline": BASE,
    "mean": replace(BASE, num_cls_tokens=0),
    "several-cls": replace(BASE, num_cls_tokens=3),
    "class-attention": replace(BASE, num_cls_tokens=2, num_class_attention_blocks=2),
    "sincos": replace(BASE, position="sincos"),
    "low-rank": replace(BASE, latent_dim_q=5, latent_dim_k=6, latent_dim_v=7),
    "low-rank-q": replace(BASE, latent_dim_q=5),
    "low-rank-class-attention": replace(BASE, latent_dim_k=5, num_class_attention_blocks=1),
    "mlp-head": replace(BASE, head="mlp"),
    "mlp-head-mean": replace(BASE, head="mlp", num_cls_tokens=0),
    "conv": replace(BASE, tokenizer="conv"),
    "conv-pool": replace(BASE, tokenizer="conv-pool"),
    "shifted": replace(BASE, tokenizer="shifted"),
    "depthwise": replace(BASE, mlp_conv="depthwise"),
    "depthwise-class-attention": replace(BASE, mlp_conv="depthwise", num_class_attention_blocks=1),
    "cls+mean": replace(BASE, num_cls_tokens=2, pooling="cls+mean", mlp_conv="depthwise"),
    "pooling-mean": replace(BASE, num_cls_tokens=0, pooling="mean", num_registers=2),
    "registers": replace(BASE, num_registers=2),
    "qk-norm": replace(BASE, qk_norm="rms"),
    "locality": replace(BASE, locality="lsa"),
    "layer-scale": replace(BASE, layer_scale=0.1),
    "rotary": replace(BASE, position="rotary"),
    "all-at-once": replace(
        BASE,
        num_cls_tokens=2,
        num_registers=1,
        num_class_attention_blocks=1,
        position="rotary",
        tokenizer="conv",
        mlp_conv="depthwise",
        pooling="cls+mean",
        qk_norm="rms",
        locality="lsa",
        layer_scale=0.1,
        latent_dim_q=5,
    ),
}


@pytest.mark.parametrize("implementation", ["bmm", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_value_has_a_gradient_except_the_keys_biases(
    rough_model: Callable[..., VisionTransformer], images: Tensor, variant: str, implementation: str
) -> None:
    config = VARIANTS[variant]
    model = rough_model(config, attention=implementation)
    shared_vanishes = config.qk_norm == "none" and config.position != "rotary"
    logits = model(images)
    (
        logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=logits.dtype)
    ).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradient = parameter.grad
        # The same vector added to every key adds the same to all scores of a query, and softmax does not see it.
        if shared_vanishes and name.endswith(("attn.k.bias", "attn.k.up.bias")):
            assert gradient.abs().max() < 1e-12, name
            continue
        if shared_vanishes and name.endswith("attn.qkv.bias"):
            q, k, v = gradient.chunk(3)
            assert k.abs().max() < 1e-12, name
            gradient = torch.cat([q, v])
        assert gradient.isfinite().all(), name
        assert (gradient != 0).all(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_and_outputs_are_functions_of_what_is_given(images: Tensor, variant: str) -> None:
    """A layer that `init_weights` does not know, or torch's own dropout, draws from a generator that no run seeds."""
    results: list[list[Tensor]] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = VisionTransformer(VARIANTS[variant], generator=torch.Generator().manual_seed(5)).train()
        kept = torch.ones(len(model.all_blocks), 2, len(images))
        results.append([*model.state_dict().values(), model(images.float(), kept).detach()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
