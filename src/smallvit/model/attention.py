"""Multi-head self-attention with full or low-rank projections (the paper's multi-head latent attention, "MLA").

Shapes: B batch, N tokens, M tokens that ask (N, or the CLS tokens alone), D embed_dim, H heads, K head width,
E = 3 D for queries, keys and values side by side.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from smallvit.model.native_attention import native_attention
from smallvit.model.query_key import QueryKey

AttentionImplementation = Literal["bmm", "sdpa", "native", "flash", "efficient", "cudnn", "flex"]
BACK_ENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
TAKE_MASK: tuple[AttentionImplementation, ...] = ("sdpa", "efficient", "bmm")
"""Those that can leave out keys, as locality self-attention wants it."""
WITH_FEW_QUERIES: dict[AttentionImplementation, AttentionImplementation] = {
    "native": "bmm",  # the kernel has as many queries as keys; for few queries plain products are quick
    "flash": "sdpa",
    "efficient": "sdpa",
    "cudnn": "sdpa",  # it refuses a single query
    "flex": "sdpa",
}
"""What stands in where a few CLS tokens alone ask (class attention)."""


def attention_weights(
    q: Float[Tensor, "B H M K"], k: Float[Tensor, "B H N K"], mask: Bool[Tensor, "M N"] | None = None
) -> Float[Tensor, "B H M N"]:
    """Return softmax(q k^T / sqrt(K)) over the keys that `mask` allows; each row sums to 1."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)


def attend(
    q: Float[Tensor, "B H M K"],
    k: Float[Tensor, "B H N K"],
    v: Float[Tensor, "B H N K"],
    implementation: AttentionImplementation,
    mask: Bool[Tensor, "M N"] | None = None,
) -> Float[Tensor, "B H M K"]:
    """Return each query's weighted mean of the values, of those that `mask` allows.

    "sdpa" is torch's fused attention, with the back end that torch takes; "flash", "efficient" and "cudnn" name one,
    and raise `RuntimeError` where it does not work. "flex" is torch's FlexAttention, for compiled steps on a GPU: it
    has no backward pass on a CPU. "native" is our own kernel for a CPU, where it was prepared
    (`model.native_attention`), with as many queries as keys. "bmm" is two batched matrix products around a softmax:
    with some 65 tokens the weights are small. Raises `ValueError` for one of those that take no mask, where there is
    one.
    """
    if mask is not None and implementation not in TAKE_MASK:
        raise ValueError(f"{implementation} attention takes no mask")
    match implementation:
        case "bmm":
            return (attention_weights(q, k, mask) @ v).to(v.dtype)
        case "sdpa":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        case "native":
            qkv = torch.cat([part.transpose(1, 2).flatten(2) for part in (q, k, v)], dim=-1)
            return native_attention(qkv, q.shape[1]).unflatten(-1, (q.shape[1], -1)).transpose(1, 2)
        case "flex":
            return flex_attention(q, k, v)  # pyright: ignore[reportReturnType]  # a pair only if asked for
        case _:
            with sdpa_kernel(BACK_ENDS[implementation]):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def implementations(device: str, *, compiled: bool, masked: bool) -> tuple[AttentionImplementation, ...]:
    """Return the implementations that may work on a device, with a mask or without."""
    if device != "cuda":
        return ("sdpa", "bmm") if masked or device != "cpu" else ("sdpa", "native", "bmm")
    return TAKE_MASK if masked else ("sdpa", "flash", "efficient", "cudnn", *(("flex",) if compiled else ()), "bmm")


def attention_calls(
    names: Sequence[AttentionImplementation],
    qkv: Float[Tensor, "B N E"],
    num_heads: int,
    *,
    compiled: bool,
    mask: Bool[Tensor, "N N"] | None = None,
) -> dict[str, Callable[[], object]]:
    """Return for each implementation a call that takes it forward and backward once, from and to [B, N, 3 D]."""
    tokens, half = qkv.detach().requires_grad_(), qkv.dtype == torch.bfloat16

    def call(name: AttentionImplementation) -> Callable[[], object]:
        def attended(x: Tensor) -> Tensor:
            if name == "native":
                return native_attention(x, num_heads)
            q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in x.chunk(3, dim=-1))
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=half):
                return attend(q, k, v, name, mask).transpose(1, 2).flatten(2)

        run = torch.compile(attended, fullgraph=True, dynamic=False) if compiled else attended
        return lambda: torch.autograd.grad(run(tokens).sum(), tokens)

    return {name: call(name) for name in names}


def _linear(
    weight: Float[Tensor, "E D"], bias: Float[Tensor, " E"], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> nn.Linear:
    """Return the layer of what was computed from other layers' weights and biases, frozen where all of these are."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # draws no numbers
    layer.weight = nn.Parameter(weight.detach(), any(each.requires_grad for each in weights))
    layer.bias = nn.Parameter(bias.detach(), any(each.requires_grad for each in biases))
    return layer


class LowRankLinear(nn.Module):
    """A linear layer through a narrow one: `up(down(x))`, with a bias on `up` alone."""

    def __init__(self, in_features: int, latent_features: int, out_features: int) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, latent_features, bias=False)
        self.up = nn.Linear(latent_features, out_features)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        """Return the layer's output."""
        return self.up(self.down(x))

    def merged(self) -> nn.Linear:
        """Return the plain layer with the same output."""
        up, down = self.up, self.down
        layer = _linear(up.weight @ down.weight, up.bias.clone(), [up.weight, down.weight], [up.bias])
        return layer.train(self.training)


def _projection(embed_dim: int, latent_dim: int | None) -> nn.Linear | LowRankLinear:
    return nn.Linear(embed_dim, embed_dim) if latent_dim is None else LowRankLinear(embed_dim, latent_dim, embed_dim)


def _side_by_side(
    projections: Sequence[nn.Linear | LowRankLinear], x: Float[Tensor, "B N D"]
) -> list[Float[Tensor, "B N D"]]:
    """Return the projections of `x`, by one product for the full ones and the narrow layers of the low-rank ones."""
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for each in projections:
        low_rank = isinstance(each, LowRankLinear)
        weights.append(each.down.weight if low_rank else each.weight)
        biases.append(x.new_zeros(each.down.out_features, dtype=weights[-1].dtype) if low_rank else each.bias)
    product = F.linear(x, torch.cat(weights), torch.cat(biases))
    parts = zip(projections, product.split([len(weight) for weight in weights], dim=-1), strict=True)
    return [each.up(part) if isinstance(each, LowRankLinear) else part for each, part in parts]


class Attention(nn.Module):
    """Self-attention; `qkv` is one matrix, or `q`, `k` and `v` stand apart where one of them is low-rank.

    With `num_queries`, only that many leading tokens ask (class attention); every token answers. `query_key` is what
    happens to queries and keys before their product, if anything does.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        latent_dims: tuple[int | None, int | None, int | None] = (None, None, None),
        num_queries: int | None = None,
        implementation: AttentionImplementation = "sdpa",
        query_key: QueryKey | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_queries = num_queries
        instead = {} if num_queries is None else WITH_FEW_QUERIES
        self.implementation: AttentionImplementation = instead.get(implementation, implementation)
        self.is_low_rank = any(width is not None for width in latent_dims)
        if self.is_low_rank:
            self.q, self.k, self.v = (_projection(embed_dim, width) for width in latent_dims)
        else:
            self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.query_key = query_key

    def _project(
        self, x: Float[Tensor, "B N D"]
    ) -> tuple[Float[Tensor, "B H M K"], Float[Tensor, "B H N K"], Float[Tensor, "B H N K"]]:
        if self.is_low_rank and self.num_queries is None:
            parts = _side_by_side((self.q, self.k, self.v), x)
        elif self.is_low_rank:
            parts = (self.q(x[:, : self.num_queries]), *_side_by_side((self.k, self.v), x))
        elif self.num_queries is None:
            parts = self.qkv(x).chunk(3, dim=-1)
        else:  # of the one matrix, queries of the tokens that ask alone
            width = self.proj.in_features
            weights, biases = (each.split([width, 2 * width]) for each in (self.qkv.weight, self.qkv.bias))
            keys_values = F.linear(x, weights[1], biases[1])
            parts = (F.linear(x[:, : self.num_queries], weights[0], biases[0]), *keys_values.chunk(2, dim=-1))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        if self.query_key is not None:
            q, k = self.query_key(q, k)
        return q, k, v

    @property
    def _mask(self) -> Bool[Tensor, "M N"] | None:
        return None if self.query_key is None else self.query_key.mask

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B M D"]:
        """Return the tokens that ask, after attention and `proj`."""
        if self.implementation == "native" and not self.is_low_rank and self.query_key is None:
            heads = native_attention(self.qkv(x), self.num_heads)
        else:
            q, k, v = self._project(x)
            heads = attend(q, k, v, self.implementation, self._mask).transpose(1, 2).flatten(2)
        return self.proj(heads)

    def weights(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B H M N"]:
        """Return the attention weights that `forward` uses for the same tokens."""
        q, k, _ = self._project(x)
        return attention_weights(q, k, self._mask)

    def merge_low_rank(self) -> None:
        """Replace `q`, `k`, `v` by the one `qkv` with the same output, in place."""
        if not self.is_low_rank:
            return
        parts = [p.merged() if isinstance(p, LowRankLinear) else p for p in (self.q, self.k, self.v)]
        weights, biases = zip(*((p.get_parameter("weight"), p.get_parameter("bias")) for p in parts), strict=True)
        self.qkv = _linear(torch.cat(weights), torch.cat(biases), weights, biases).train(self.training)
        del self.q, self.k, self.v
        self.is_low_rank = False
