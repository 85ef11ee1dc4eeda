"""What may happen to queries and keys between their projections and their product.

In this order: a norm of each head's vectors (Dehghani et al., 2023), the turn of rotary positions (Su et al., 2021, on
two axes as in Heo et al., 2024), and locality self-attention (Lee et al., 2021). The latter's temperature is a learned
factor of 1 / sqrt(K), first 1; the authors learn the product, of which a step of AdamW is a part sqrt(K) times larger.

Shapes: B batch, H heads, N tokens, M tokens that ask, K head width, G patches a side.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from smallvit.model.config import ModelConfig

RMS_NORM_EPS = 1e-6
ROTARY_BASE = 100.0
"""The longest wavelength is below 2 pi * 100 patches: on a grid of 8, with heads of 16 to 64, 25 to 59 times its width
(Heo et al., 2024)."""


class QueryKey(nn.Module):
    """Norm, rotation and temperature of queries and keys, each where the config has it, and who may attend to whom."""

    cos: Float[Tensor, "N K"] | None
    sin: Float[Tensor, "N K"] | None
    mask: Bool[Tensor, "M N"] | None
    """Which key each query may attend to; None: all."""

    def __init__(self, config: ModelConfig, num_queries: int | None) -> None:
        super().__init__()
        width, tokens = config.embed_dim // config.num_heads, config.num_tokens
        norms, rotates, local = config.qk_norm == "rms", config.position == "rotary", config.locality == "lsa"
        self.q_norm = nn.RMSNorm(width, eps=RMS_NORM_EPS) if norms else None
        self.k_norm = nn.RMSNorm(width, eps=RMS_NORM_EPS) if norms else None
        grid = config.image_size // config.patch_size
        cos, sin = rotary_tables(grid, width, config.num_prefix_tokens) if rotates else (None, None)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.temperature = nn.Parameter(torch.ones(config.num_heads)) if local else None
        others = ~torch.eye(num_queries or tokens, tokens, dtype=torch.bool)
        self.register_buffer("mask", others if local else None, persistent=False)

    def forward(
        self, q: Float[Tensor, "B H M K"], k: Float[Tensor, "B H N K"]
    ) -> tuple[Float[Tensor, "B H M K"], Float[Tensor, "B H N K"]]:
        """Return the queries and keys to multiply, in the types given."""
        wanted = q.dtype
        if self.q_norm is not None and self.k_norm is not None:
            exact = self.q_norm.weight.dtype  # under autocast the norm's is wider than the product's
            q, k = self.q_norm(q.to(exact)), self.k_norm(k.to(exact))
        if self.cos is not None and self.sin is not None:
            asking = q.shape[-2]
            q, k = rotated(q, self.cos[:asking], self.sin[:asking]), rotated(k, self.cos, self.sin)
        if self.temperature is not None:
            q = q * self.temperature[:, None, None]
        return q.to(wanted), k.to(wanted)


def query_key(config: ModelConfig, num_queries: int | None) -> QueryKey | None:
    """Return what the config has between projections and product; None for the plain model, which has nothing."""
    plain = (config.qk_norm, config.locality) == ("none", "none") and config.position != "rotary"
    return None if plain else QueryKey(config, num_queries)


def rotary_tables(
    grid_size: int, head_width: int, num_prefix_tokens: int
) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]:
    """Return the cosines and sines of every token's angles, the patches row by row.

    Each angle stands twice, for the pair of values that it turns. The first half of the pairs turns by the row and the
    second by the column, at K / 4 frequencies in geometric steps from 1 down to, not including, 1 / ROTARY_BASE a
    patch. The tokens before the patches do not turn.
    """
    quarter = head_width // 4
    frequency = ROTARY_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    axis = torch.arange(grid_size, dtype=torch.float64)[:, None] * frequency
    rows, columns = axis.repeat_interleave(grid_size, dim=0), axis.repeat(grid_size, 1)
    angle = torch.cat([rows, columns], dim=1).repeat_interleave(2, dim=1)
    angle = torch.cat([torch.zeros(num_prefix_tokens, angle.shape[1], dtype=angle.dtype), angle])
    return angle.cos().float(), angle.sin().float()


def rotated(
    x: Float[Tensor, "B H N K"], cos: Float[Tensor, "N K"], sin: Float[Tensor, "N K"]
) -> Float[Tensor, "B H N K"]:
    """Turn each pair (x[2i], x[2i + 1]) by its angle."""
    quarter_turn = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * cos + quarter_turn * sin
