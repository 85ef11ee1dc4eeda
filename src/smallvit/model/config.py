"""What a model is; free of torch, so that the command line can show it at once."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from smallvit.checks import is_number, is_whole, require, require_one_of, require_whole

Position = Literal["learned", "sincos"]
PatchInit = Literal["random", "whiten", "whiten-paper"]
Head = Literal["linear", "mlp"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Vision Transformer for small square RGB images; the defaults are the paper's baseline."""

    image_size: int = 32
    """Height and width of an image in pixels; images of another size are resized to it."""
    num_classes: int | None = field(default=None, metadata={"digest": False})
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
            require_whole(f"model.{name}", getattr(self, name), 1)
        for name in ("num_cls_tokens", "num_class_attention_blocks"):
            require_whole(f"model.{name}", getattr(self, name), 0)
        if self.num_classes is not None:
            require_whole("model.num_classes", self.num_classes, 2)
        for name in ("latent_dim_q", "latent_dim_k", "latent_dim_v"):
            width = getattr(self, name)
            allowed = f"it must be a whole number, from 1 to embed_dim, {self.embed_dim}, or None"
            require(width is None or is_whole(width, 1, self.embed_dim), f"model.{name}", width, allowed)
        require_one_of("model.position", self.position, get_args(Position))
        require_one_of("model.patch_init", self.patch_init, get_args(PatchInit))
        require_one_of("model.head", self.head, get_args(Head))
        allowed = "mlp_ratio * embed_dim must be at least 1, and finite"
        require(is_number(self.mlp_ratio, 1 / self.embed_dim), "model.mlp_ratio", self.mlp_ratio, allowed)
        allowed = "allowed is 0 up to, not including, 1"
        ok = is_number(self.drop_path_rate, 0) and self.drop_path_rate < 1
        require(ok, "model.drop_path_rate", self.drop_path_rate, allowed)
        self._check_together()

    def _check_together(self) -> None:
        size, width = self.image_size, self.embed_dim
        divides = f"it must divide image_size, {size}"
        require(size % self.patch_size == 0, "model.patch_size", self.patch_size, divides)
        require(width % self.num_heads == 0, "model.num_heads", self.num_heads, f"it must divide embed_dim, {width}")
        fits = self.position != "sincos" or width % 4 == 0
        require(fits, "model.embed_dim", width, "sine-cosine positions need a multiple of 4")
        blocks = self.num_class_attention_blocks
        fits = blocks == 0 or self.num_cls_tokens > 0
        require(fits, "model.num_class_attention_blocks", blocks, "it must be 0 where num_cls_tokens is 0")

    @property
    def num_patches(self) -> int:
        """Patch tokens of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def latent_dims(self) -> tuple[int | None, int | None, int | None]:
        """Latent widths of queries, keys and values."""
        return self.latent_dim_q, self.latent_dim_k, self.latent_dim_v
