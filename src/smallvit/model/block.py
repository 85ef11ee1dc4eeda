"""Pre-norm Transformer blocks with stochastic depth (Huang et al., 2016) on both branches.

Shapes: B batch, N tokens, T CLS tokens, D embed_dim, F hidden width of the MLP.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smallvit.model.attention import Attention

LAYER_NORM_EPS = 1e-6


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        """Return the layers' output."""
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Where the attention has `num_queries`, only those leading tokens change (class attention, CaiT's blocks without its
    layer scale); the other tokens pass unchanged.
    """

    def __init__(self, attention: Attention, embed_dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.attn = attention
        self.norm2 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(embed_dim, round(embed_dim * mlp_ratio), embed_dim)

    def forward(
        self, x: Float[Tensor, "B N D"], branch_scale: Float[Tensor, "2 B"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Return the block's output; `branch_scale` multiplies each image's two branches (0 skips one)."""
        queries = self.attn.num_queries
        changing, rest = (x, None) if queries is None else (x[:, :queries], x[:, queries:])
        attended = self.attn(self.norm1(x))
        changing = changing + _scaled(attended, branch_scale, 0)
        changing = changing + _scaled(self.mlp(self.norm2(changing)), branch_scale, 1)
        return changing if rest is None else torch.cat([changing, rest], dim=1)


def _scaled(
    branch: Float[Tensor, "B M D"], branch_scale: Float[Tensor, "2 B"] | None, which: int
) -> Float[Tensor, "B M D"]:
    return branch if branch_scale is None else branch * branch_scale[which, :, None, None].to(branch.dtype)
