"""Mimetic initialisation of attention (Trockman & Kolter, ICML 2023): first weights that look like trained ones.

Shapes: D embed_dim, H heads, K = D / H head width. Weights are torch's, [out, in]: transposed against the paper's.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from smallvit.model.attention import Attention

QUERY_KEY = 0.7
"""The paper's alpha_1 and beta_1: of the noise, and of the identity."""
VALUE_PROJ = 0.4
"""The paper's alpha_2 and beta_2."""


@torch.no_grad()
def init_mimetic(attention: Attention, generator: torch.Generator | None = None) -> None:
    """Set the weights of full `qkv` and `proj`; biases stay as they are.

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


def _noise(width: int, generator: torch.Generator | None) -> Float[Tensor, "D D"]:
    return torch.empty(width, width).normal_(std=width**-0.5, generator=generator)


def _factors(product: Float[Tensor, "D D"], rank: int) -> tuple[Float[Tensor, "D R"], Float[Tensor, "R D"]]:
    """Return two matrices of equal size whose product is the best one of this rank."""
    left, size, right = torch.linalg.svd(product)
    root = size[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
