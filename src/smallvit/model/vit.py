"""The Vision Transformer of the paper (section "Method"; Dosovitskiy et al., 2021), with its variants in one class.

Shapes: B batch, S image size, N tokens (CLS tokens, registers, patches), D embed_dim, L blocks, H heads, C classes.
"""

import copy
from dataclasses import replace
from functools import cache, partial
from typing import assert_never, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smallvit.checks import require_one_of
from smallvit.errors import UsageError
from smallvit.model.attention import Attention, AttentionImplementation
from smallvit.model.attention_init import init_mimetic, init_spectral
from smallvit.model.block import LAYER_NORM_EPS, Block
from smallvit.model.config import ModelConfig
from smallvit.model.embed import PatchEmbed, sincos_positions
from smallvit.model.init import init_weights
from smallvit.model.mlp import DepthwiseMlp, Mlp
from smallvit.model.query_key import query_key
from smallvit.model.tokenizer import (
    ConvolutionImplementation,
    ConvPoolTokenizer,
    ConvTokenizer,
    MatrixConv,
    ShiftedPatchEmbed,
)


class VisionTransformer(nn.Module):
    """Patch embedding, CLS tokens, registers and positions, blocks, norm, head; attributes are named as timm's.

    `config.num_classes` must be set. Weights are drawn from `generator`, or from torch's global one; a whitening
    `config.patch_init` is what a run does then, with the images that it trains on (`model.init.init_whitening`).
    Raises `UsageError` for images of another size than the config's.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        attention: AttentionImplementation = "sdpa",
        convolution: ConvolutionImplementation = "torch",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if config.num_classes is None:
            raise UsageError("model.num_classes is None: set it, as in dataclasses.replace(config, num_classes=10)")
        require_one_of("attention", attention, get_args(AttentionImplementation))
        require_one_of("convolution", convolution, get_args(ConvolutionImplementation))
        self.config = config
        width, tokens = config.embed_dim, config.num_cls_tokens
        self.patch_embed = _tokenizer(config, convolution)
        self.cls_token = nn.Parameter(torch.empty(1, tokens, width)) if tokens else None
        self.reg_token = nn.Parameter(torch.empty(1, config.num_registers, width)) if config.num_registers else None
        self._make_positions()
        self.blocks = nn.ModuleList(_block(config, attention, index) for index in range(config.depth))
        self.cls_blocks = nn.ModuleList(
            _block(config, attention, config.depth + index, num_queries=tokens)
            for index in range(config.num_class_attention_blocks)
        )
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        features = width * (tokens + config.reads_mean)
        if config.head == "linear":
            self.head = nn.Linear(features, config.num_classes)
        elif config.head == "mlp":
            self.head = Mlp(features, width, config.num_classes)
        else:
            assert_never(config.head)
        init_weights(self, generator)
        init_attention = {"normal": None, "spectral": init_spectral, "mimetic": init_mimetic}[config.init]
        if init_attention is not None:
            for block in self.all_blocks:
                init_attention(block.attn, generator)

    def _make_positions(self) -> None:
        config = self.config
        if config.position == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, config.num_tokens, config.embed_dim))
        elif config.position == "sincos":
            positions = sincos_positions(config.image_size // config.patch_size, config.embed_dim)
            prefix = torch.zeros(config.num_prefix_tokens, config.embed_dim)
            self.register_buffer("pos_embed", torch.cat([prefix, positions])[None])
        elif config.position == "rotary":  # in attention
            self.pos_embed = None
        else:
            assert_never(config.position)

    def forward_head(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B C"]:
        """Return the logits of normalised tokens."""
        read = tokens[:, : self.config.num_cls_tokens].flatten(1)
        if self.config.reads_mean:
            read = torch.cat([read, tokens[:, self.config.num_prefix_tokens :].mean(1)], dim=1)
        return self.head(read)

    def forward(
        self,
        images: Float[Tensor, "B 3 S S"],
        branch_scale: Float[Tensor, "L 2 B"] | None = None,
        *,
        return_attention: bool = False,
    ) -> Float[Tensor, "B C"] | tuple[Float[Tensor, "B C"], list[Float[Tensor, "B H M N"]]]:
        """Return the logits of normalised images, and with `return_attention` each block's attention weights too.

        `branch_scale` (see `drop_path_scale`) is stochastic depth's draw. Without one, a model in training mode draws
        from torch's global generator; a model in evaluation mode skips nothing.
        """
        weights: list[Tensor] | None = [] if return_attention else None
        logits = self.forward_head(self.forward_features(images, branch_scale, weights))
        return logits if weights is None else (logits, weights)

    def forward_features(
        self,
        images: Float[Tensor, "B 3 S S"],
        branch_scale: Float[Tensor, "L 2 B"] | None = None,
        weights: list[Tensor] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return every token after the last norm: CLS tokens, registers, patches; `branch_scale` as in `forward`. Each
        block's attention weights are added to `weights`, a list, if there is one.
        """
        size = self.config.image_size
        if tuple(images.shape[1:]) != (3, size, size):
            raise UsageError(f"images have shape {tuple(images.shape)}, expected (batch, 3, {size}, {size})")
        if branch_scale is None and self.training and self.config.drop_path_rate > 0:
            uniform = torch.rand(len(self.all_blocks), 2, images.shape[0], device=images.device)
            branch_scale = self.drop_path_scale(uniform)
        x = self.patch_embed(images)
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if prefix:
            x = torch.cat([*(token.expand(x.shape[0], -1, -1).to(x.dtype) for token in prefix), x], dim=1)
        # Where no positions are added under autocast, as with rotary ones, the residuals are float32 all the same.
        x = x.to(self.norm.weight.dtype) if self.pos_embed is None else x + self.pos_embed
        for index, block in enumerate(self.all_blocks):
            if weights is not None:
                weights.append(block.attn.weights(block.norm1(x)))
            x = block(x, None if branch_scale is None else branch_scale[index])
        return self.norm(x)

    @property
    def all_blocks(self) -> list[Block]:
        """The blocks of both kinds, in order."""
        return cast("list[Block]", [*self.blocks, *self.cls_blocks])

    def drop_path_scale(self, uniform: Float[Tensor, "L 2 B"]) -> Float[Tensor, "L 2 B"]:
        """Turn uniform draws in [0, 1) into factors of the branches: 0 where skipped, else 1 / P(kept).

        The probability to be skipped rises linearly from 0 at the first block to `drop_path_rate` at the last.
        """
        skip = torch.linspace(0, self.config.drop_path_rate, len(self.all_blocks), device=uniform.device)[:, None, None]
        return (uniform >= skip).float() / (1 - skip)

    def merge_low_rank(self) -> "VisionTransformer":
        """Return a copy in which every low-rank projection is the plain one with the same output."""
        merged = copy.deepcopy(self)
        for block in merged.all_blocks:
            block.attn.merge_low_rank()
        init = "normal" if self.config.init == "spectral" else self.config.init  # which is of low-rank ones alone
        merged.config = replace(self.config, latent_dim_q=None, latent_dim_k=None, latent_dim_v=None, init=init)
        return merged


def _block(
    config: ModelConfig, attention: AttentionImplementation, index: int, num_queries: int | None = None
) -> Block:
    """Return the block at `index` of all; with `num_queries`, one in which only the CLS tokens attend."""
    last_of_all = config.depth + config.num_class_attention_blocks - 1
    patches_read_later = index < last_of_all or config.reads_mean
    mlp = Mlp
    if config.mlp_conv == "depthwise" and num_queries is None and patches_read_later:
        grid = config.image_size // config.patch_size
        mlp = partial(DepthwiseMlp, num_prefix_tokens=config.num_prefix_tokens, grid_size=grid)
    return Block(
        Attention(
            config.embed_dim,
            config.num_heads,
            config.latent_dims,
            num_queries,
            attention,
            query_key(config, num_queries),
        ),
        config.embed_dim,
        config.mlp_ratio,
        mlp=mlp,
        layer_scale=None if config.layer_scale is None else float(config.layer_scale),
    )


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _tokenizer(
    config: ModelConfig, convolution: ConvolutionImplementation
) -> PatchEmbed | ConvTokenizer | ConvPoolTokenizer | ShiftedPatchEmbed:
    size, width = config.patch_size, config.embed_dim
    if config.tokenizer == "conv":
        return ConvTokenizer(size, width, config.tokenizer_depth, convolution)
    if config.tokenizer == "conv-pool":
        return ConvPoolTokenizer(size, width, convolution)
    if config.tokenizer == "shifted":
        return ShiftedPatchEmbed(size, width)
    if config.tokenizer == "patch":
        return PatchEmbed(size, width)
    assert_never(config.tokenizer)


@cache
def count_macs(config: ModelConfig) -> int:
    """Return the multiply-accumulates of one image's forward pass: matrix products and convolutions, by torch's own
    counter on a model without storage, with attention as plain products: it does not see torch's fused one on a CPU.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = VisionTransformer(config, attention="bmm").eval()
        images = torch.empty(1, 3, config.image_size, config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() // 2


def largest_convolution(config: ModelConfig) -> tuple[int, int, int] | None:
    """Return image size, channels in and channels out of the tokenizer's convolution with the most arithmetic, of those
    that the kernel for CPUs is for; None where it is for none.
    """
    found: list[tuple[int, int, int]] = []

    def note(layer: nn.Module, given: tuple[Tensor]) -> None:
        conv = cast("MatrixConv", layer)
        found.append((given[0].shape[-1], conv.in_channels, conv.out_features))

    with torch.device("meta"):
        tokenizer = _tokenizer(config, "native")
        images = torch.empty(1, 3, config.image_size, config.image_size)
    for layer in tokenizer.modules():
        if isinstance(layer, MatrixConv) and layer.implementation == "native":
            layer.register_forward_pre_hook(note)
    tokenizer(images)
    return max(found, key=lambda shape: shape[0] ** 2 * shape[1] * shape[2], default=None)
