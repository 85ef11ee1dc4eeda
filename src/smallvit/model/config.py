"""What a model is; free of torch, so that the command line can show it at once."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from smallvit.errors import UsageError

Position = Literal["learned", "sincos"]
PatchInit = Literal["random", "whiten", "whiten-paper"]
Head = Literal["linear", "mlp"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Vision Transformer for small square RGB images; the defaults are the paper's baseline."""

    image_size: int = 32
    """Height and width of an image in pixels; images of another size are resized to it."""
    num_classes: int | None = None
    """Number of classes; None: as many as the data set has."""
    patch_size: int = 4
    """Height and width of a patch in pixels; it divides image_size."""
    embed_dim: int = 192
    """Width of a token."""
    depth: int = 9
    """Number of blocks in which every token attends."""
    num_heads: int = 12
    """Attention heads; the number divides embed_dim."""
    mlp_ratio: float = 2.0
    """Hidden width of a block's MLP, as a multiple of embed_dim."""
    num_cls_tokens: int = 1
    """CLS tokens, concatenated after the last norm for the head; 0: the mean of the patch tokens instead."""
    num_class_attention_blocks: int = 0
    """Further blocks at the end in which only the CLS tokens attend and change."""
    position: Position = "learned"
    """Position embedding: learned, or the fixed two-dimensional sine and cosine."""
    patch_init: PatchInit = "random"
    """First weights of the patch embedding: random; whitening by the training set's patches; or the paper's whitening,
    which takes augmented patches and sets only the first 3 * patch_size^2 filters."""
    latent_dim_q: int | None = None
    """Latent width of low-rank queries (multi-head latent attention); None: a full matrix."""
    latent_dim_k: int | None = None
    """Latent width of low-rank keys; None: a full matrix."""
    latent_dim_v: int | None = None
    """Latent width of low-rank values; None: a full matrix."""
    head: Head = "linear"
    """Classifier: one linear layer, or one hidden layer of width embed_dim with GELU."""
    drop_path_rate: float = 0.1
    """Stochastic depth: the last block's probability to be skipped, for each image and branch; 0 at the first."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "embed_dim", "depth", "num_heads"):
            _whole_number(name, getattr(self, name), 1)
        for name in ("num_cls_tokens", "num_class_attention_blocks"):
            _whole_number(name, getattr(self, name), 0)
        if self.num_classes is not None:
            _whole_number("num_classes", self.num_classes, 2)
        for name in ("latent_dim_q", "latent_dim_k", "latent_dim_v"):
            if getattr(self, name) is not None:
                _whole_number(name, getattr(self, name), 1, self.embed_dim)
        _one_of("position", self.position, get_args(Position))
        _one_of("patch_init", self.patch_init, get_args(PatchInit))
        _one_of("head", self.head, get_args(Head))
        if not (_is_number(self.mlp_ratio) and 1 / self.embed_dim <= self.mlp_ratio < math.inf):
            raise UsageError(
                f"model.mlp_ratio is {self.mlp_ratio!r}: mlp_ratio * embed_dim must be at least 1, and finite"
            )
        if not (_is_number(self.drop_path_rate) and 0 <= self.drop_path_rate < 1):
            raise UsageError(f"model.drop_path_rate is {self.drop_path_rate!r}: allowed is 0 up to, not including, 1")
        self._check_together()

    def _check_together(self) -> None:
        if self.image_size % self.patch_size:
            raise UsageError(f"model.patch_size is {self.patch_size}: it must divide image_size, {self.image_size}")
        if self.embed_dim % self.num_heads:
            raise UsageError(f"model.num_heads is {self.num_heads}: it must divide embed_dim, {self.embed_dim}")
        if self.position == "sincos" and self.embed_dim % 4:
            raise UsageError(f"model.embed_dim is {self.embed_dim}: sine-cosine positions need a multiple of 4")
        if self.num_class_attention_blocks and not self.num_cls_tokens:
            blocks = self.num_class_attention_blocks
            raise UsageError(f"model.num_class_attention_blocks is {blocks}: it must be 0 where num_cls_tokens is 0")

    @property
    def num_patches(self) -> int:
        """Patch tokens of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def latent_dims(self) -> tuple[int | None, int | None, int | None]:
        """Latent widths of queries, keys and values."""
        return self.latent_dim_q, self.latent_dim_k, self.latent_dim_v


def _whole_number(name: str, value: object, least: int, most: int | None = None) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return
    allowed = f"at least {least}" if most is None else f"from {least} to embed_dim, {most}, or None"
    raise UsageError(f"model.{name} is {value!r}: it must be a whole number, {allowed}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"model.{name} is {value!r}: allowed are {', '.join(allowed)}")
