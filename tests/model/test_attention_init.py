"""Mimetic and spectral initialisation: what the products of the first weights are."""

from dataclasses import replace

import pytest
import torch

from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

MIMETIC = ModelConfig(num_classes=10, embed_dim=96, depth=2, num_heads=3, num_class_attention_blocks=1, init="mimetic")
SPECTRAL = replace(MIMETIC, init="spectral", latent_dim_q=24, latent_dim_v=96)


def built(config: ModelConfig, seed: int = 0) -> VisionTransformer:
    return VisionTransformer(config, generator=torch.Generator().manual_seed(seed))


def test_values_and_projection_take_a_share_of_the_token_away() -> None:
    for block in built(MIMETIC).all_blocks:
        product = (block.attn.proj.weight @ block.attn.qkv.weight[192:]).detach().double()
        noise = (product / 0.4 + torch.eye(96)) * 96**0.5
        assert abs(float(noise.mean())) < 5 / 96
        assert abs(float(noise.std()) - 1) < 5 / 96
        assert (block.attn.proj.bias == 0).all()


def test_each_heads_queries_and_keys_are_the_best_of_their_rank_near_the_identity() -> None:
    seen = []
    for block in built(MIMETIC).all_blocks:
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


def test_low_rank_projections_begin_as_the_best_of_their_rank_to_a_full_matrix() -> None:
    """A full matrix of normal draws of deviation 0.02 has singular values up to about 0.02 * 2 * 96^1/2 (Marchenko and
    Pastur's law): those of a low-rank one are its largest, in equal parts in both factors.
    """
    low, high = 0.02 * 96**0.5, 0.02 * 2 * 96**0.5
    for block in built(SPECTRAL).all_blocks:
        for projection, rank in ((block.attn.q, 24), (block.attn.v, 96)):
            up, down = projection.up.weight.detach().double(), projection.down.weight.detach().double()
            sizes = torch.linalg.svdvals(up @ down)
            assert sizes[0] == pytest.approx(high, rel=0.06)
            torch.testing.assert_close(torch.linalg.svdvals(up) ** 2, sizes[:rank], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(up.T @ up, down @ down.T, rtol=0, atol=1e-5)
            assert (projection.up.bias == 0).all()
            if rank == 24:
                assert sizes[23] > low
                assert sizes[24] < 1e-6
            else:
                product = up @ down
                assert abs(float(product.mean())) < 5 * 0.02 / 96
                assert float(product.std()) == pytest.approx(0.02, rel=5 / 96)


@pytest.mark.parametrize("config", [MIMETIC, SPECTRAL])
def test_everything_else_is_as_without(config: ModelConfig) -> None:
    plain = built(replace(config, init="normal")).state_dict()
    own = {
        "mimetic": ("qkv.weight", "attn.proj.weight"),
        "spectral": ("q.up.weight", "q.down.weight", "v.up.weight", "v.down.weight"),
    }
    for name, value in built(config).state_dict().items():
        assert torch.equal(value, plain[name]) != name.endswith(own[config.init]), name


@pytest.mark.parametrize(
    ("config", "name"), [(MIMETIC, "blocks.1.attn.qkv.weight"), (SPECTRAL, "blocks.1.attn.v.up.weight")]
)
def test_the_seed_decides(config: ModelConfig, name: str) -> None:
    one, same, other = (built(config, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
