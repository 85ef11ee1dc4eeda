"""First weights of attention that are more than draws: mimetic and spectral.

Shapes: D embed_dim, H heads, K = D / H head width, R latent width. Weights are torch's, [out, in].
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smallvit.model.attention import Attention, LowRankLinear
from smallvit.model.init import STD

QUERY_KEY = 0.7
"""Mimetic initialisation's alpha_1 and beta_1: of the noise, and of the identity."""
VALUE_PROJ = 0.4
"""Mimetic initialisation's alpha_2 and beta_2."""


@torch.no_grad()
def init_mimetic(attention: Attention, generator: torch.Generator | None = None) -> None:
    """Set the weights of full `qkv` and `proj` to what looks like trained ones (Trockman & Kolter, ICML 2023, whose
    matrices are these transposed); biases stay as they are.

    Each head's W_Q W_K^T is the best approximation of rank K of 0.7 Z + 0.7 I, and W_V W_proj is 0.4 Z - 0.4 I, with
    Z drawn anew for each, of standard deviation D^-1/2. So at first tokens attend to tokens that are like them, and
    take something of themselves away.
    """
    width, heads = attention.proj.in_features, attention.num_heads
    q, k, v = attention.qkv.weight.chunk(3)
    for q_head, k_head in zip(q.chunk(heads), k.chunk(heads), strict=True):
        left, right = _factors(QUERY_KEY * (_noise(width, generator) + torch.eye(width)), width // heads)
        q_head.copy_(left.T)
        k_head.copy_(right)
    left, right = _factors(VALUE_PROJ * (_noise(width, generator) - torch.eye(width)), width)
    v.copy_(left.T)
    attention.proj.weight.copy_(right.T)


@torch.no_grad()
def init_spectral(attention: Attention, generator: torch.Generator | None = None) -> None:
    """Set the factors of low-rank projections so that their product is the best approximation of their rank to a full
    matrix's first weights (Khodak et al., ICLR 2021), which are drawn anew; all else stays as it is.

    Drawn as full matrices are, factors have a product of deviation 0.02^2 R^1/2, at R = 48 a seventh of 0.02.
    """
    for projection in (attention.q, attention.k, attention.v):
        if isinstance(projection, LowRankLinear):
            up, down = projection.up.weight, projection.down.weight
            full = torch.empty(len(up), down.shape[1])
            nn.init.trunc_normal_(full, std=STD, generator=generator)
            left, right = _factors(full, len(down))
            up.copy_(left)
            down.copy_(right)


def _noise(width: int, generator: torch.Generator | None) -> Float[Tensor, "D D"]:
    return torch.empty(width, width).normal_(std=width**-0.5, generator=generator)


def _factors(product: Float[Tensor, "D D"], rank: int) -> tuple[Float[Tensor, "D R"], Float[Tensor, "R D"]]:
    """Return two matrices of equal size whose product is the best one of this rank."""
    left, size, right = torch.linalg.svd(product)
    root = size[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
