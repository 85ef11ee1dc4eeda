"""Pre-norm Transformer blocks with stochastic depth (Huang et al., 2016) on both branches.

Shapes: B batch, N tokens, M tokens that come out (N, or the CLS tokens alone), D embed_dim.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smallvit.model.attention import Attention
from smallvit.model.mlp import Mlp

LAYER_NORM_EPS = 1e-6


class LayerScale(nn.Module):
    """A learned factor for each channel of a branch (Touvron et al., 2021, CaiT)."""

    def __init__(self, embed_dim: int, first_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dim,), first_value))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Return the scaled branch."""
        return x * self.gamma.to(x.dtype)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Where the attention has `num_queries`, only those leading tokens change (class attention, CaiT's blocks); the other
    tokens pass unchanged. `mlp` makes the MLP of three widths; with `layer_scale`, both branches begin scaled by it.
    """

    def __init__(
        self,
        attention: Attention,
        embed_dim: int,
        mlp_ratio: float,
        *,
        mlp: Callable[[int, int, int], Mlp] = Mlp,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.attn = attention
        self.norm2 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.mlp = mlp(embed_dim, round(embed_dim * mlp_ratio), embed_dim)
        self.ls1, self.ls2 = (
            nn.Identity() if layer_scale is None else LayerScale(embed_dim, layer_scale) for _ in range(2)
        )

    def forward(
        self, x: Float[Tensor, "B N D"], branch_scale: Float[Tensor, "2 B"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Return the block's output; `branch_scale` multiplies each image's two branches (0 skips one)."""
        queries = self.attn.num_queries
        changing, rest = (x, None) if queries is None else (x[:, :queries], x[:, queries:])
        attended = self.ls1(self.attn(self.norm1(x)))
        changing = changing + _scaled(attended, branch_scale, 0)
        changing = changing + _scaled(self.ls2(self.mlp(self.norm2(changing))), branch_scale, 1)
        return changing if rest is None else torch.cat([changing, rest], dim=1)


def _scaled(
    branch: Float[Tensor, "B M D"], branch_scale: Float[Tensor, "2 B"] | None, which: int
) -> Float[Tensor, "B M D"]:
    return branch if branch_scale is None else branch * branch_scale[which, :, None, None].to(branch.dtype)
