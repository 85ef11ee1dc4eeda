"""Mimetic initialisation: what the products of the first weights are."""

import torch

from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

CONFIG = ModelConfig(num_classes=10, embed_dim=96, depth=2, num_heads=3, num_class_attention_blocks=1, init="mimetic")


def built(config: ModelConfig = CONFIG, seed: int = 0) -> VisionTransformer:
    return VisionTransformer(config, generator=torch.Generator().manual_seed(seed))


def test_values_and_projection_take_a_share_of_the_token_away() -> None:
    for block in built().all_blocks:
        product = (block.attn.proj.weight @ block.attn.qkv.weight[192:]).detach().double()
        noise = (product / 0.4 + torch.eye(96)) * 96**0.5
        assert abs(float(noise.mean())) < 5 / 96
        assert abs(float(noise.std()) - 1) < 5 / 96
        assert (block.attn.proj.bias == 0).all()


def test_each_heads_queries_and_keys_are_the_best_of_their_rank_near_the_identity() -> None:
    seen = []
    for block in built().all_blocks:
        q, k, _ = block.attn.qkv.weight.detach().double().chunk(3)
        for q_head, k_head in zip(q.chunk(3), k.chunk(3), strict=True):
            product = q_head.T @ k_head
            sizes = torch.linalg.svdvals(product)
            # Of I + Z, Z of deviation D^-1/2, the singular values lie between 0 and about sqrt(27 / 4) = 2.6.
            assert sizes[31] > 0.7 * 1.3
            assert sizes[0] < 0.7 * 2.9
            assert sizes[32:].max() < 1e-5
            torch.testing.assert_close(q_head @ q_head.T, k_head @ k_head.T, rtol=0, atol=1e-5)
            assert product.trace() > 10, "tokens attend to tokens that are like them"
            seen.append(product)
    assert all((a - b).abs().max() > 0.1 for i, a in enumerate(seen) for b in seen[:i]), "each head has its own noise"


def test_everything_else_is_as_without() -> None:
    plain = built(ModelConfig(**{**CONFIG.__dict__, "init": "normal"})).state_dict()
    for name, value in built().state_dict().items():
        same = not name.endswith(("qkv.weight", "attn.proj.weight"))
        assert torch.equal(value, plain[name]) == same, name


def test_the_seed_decides() -> None:
    one, same, other = built(seed=1).state_dict(), built(seed=1).state_dict(), built(seed=2).state_dict()
    name = "blocks.1.attn.qkv.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
