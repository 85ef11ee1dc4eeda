"""What a model is; free of torch, so that the command line can show it at once."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from smallvit.checks import MOST_NUMBER, is_number, is_whole, require, require_number, require_whole, require_words

Position = Literal["learned", "sincos", "rotary"]
PatchInit = Literal["random", "whiten", "whiten-paper"]
Head = Literal["linear", "mlp"]
Tokenizer = Literal["patch", "conv", "conv-pool", "shifted"]
MlpConv = Literal["none", "depthwise"]
Pooling = Literal["cls", "mean", "cls+mean"]
QKNorm = Literal["none", "rms"]
Locality = Literal["none", "lsa"]
Init = Literal["normal", "spectral", "mimetic"]

_UNLESS_DEFAULT = {"digest": "unless default"}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Vision Transformer for small square RGB images; the defaults are the paper's baseline."""

    image_size: int = 32
    """Height and width of an image in pixels; a run resizes its images to it."""
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
    num_registers: int = field(default=0, metadata=_UNLESS_DEFAULT)
    """Further learned tokens, which the head does not read (Darcet et al., 2024)."""
    num_class_attention_blocks: int = 0
    """Further blocks at the end in which only the CLS tokens attend and change."""
    position: Position = "learned"
    """Positions: a learned embedding; the fixed two-dimensional sine and cosine; or no embedding, and queries and keys
    that turn with row and column (rotary positions)."""
    tokenizer: Tokenizer = field(default="patch", metadata=_UNLESS_DEFAULT)
    """From pixels to patch tokens: one linear map of each patch; log2(patch_size) convolutions of 3 x 3 and stride 2;
    one of 2 x 2, then log2(patch_size) pairs of 3 x 3 and stride 1, with the maximum of 2 x 2 pixels in the middle of
    each; or a linear map of each patch and of the image's four diagonal shifts by half a patch."""
    tokenizer_depth: int = field(default=1, metadata=_UNLESS_DEFAULT)
    """Convolutions at each resolution of tokenizer conv: the first has stride 2, any more are added to what they see.
    """
    patch_init: PatchInit = "random"
    """First weights of the patch embedding, or of the first convolution: random; whitening by what the layer sees of
    the training set (of conv-pool without the border of zeros on two sides); or the paper's whitening, which takes
    augmented patches and sets only the first 3 * patch_size^2 filters. A run sets them; a model made without one has
    random weights."""
    latent_dim_q: int | None = None
    """Latent width of low-rank queries (multi-head latent attention); None: a full matrix."""
    latent_dim_k: int | None = None
    """Latent width of low-rank keys; None: a full matrix."""
    latent_dim_v: int | None = None
    """Latent width of low-rank values; None: a full matrix."""
    qk_norm: QKNorm = field(default="none", metadata=_UNLESS_DEFAULT)
    """Norm of each head's queries and keys."""
    locality: Locality = field(default="none", metadata=_UNLESS_DEFAULT)
    """Whether each head learns a temperature, and no token attends to itself (locality self-attention)."""
    mlp_conv: MlpConv = field(default="none", metadata=_UNLESS_DEFAULT)
    """Convolution of 3 x 3 of each hidden channel over the patches, added before the MLP's GELU. A last block after
    which no patch token is read goes without."""
    layer_scale: float | None = field(default=None, metadata=_UNLESS_DEFAULT)
    """First value of a learned factor for each channel of a branch (Touvron et al., 2021); None: no factor."""
    pooling: Pooling = field(default="cls", metadata=_UNLESS_DEFAULT)
    """What the head reads: the CLS tokens, the mean of the patch tokens, or both."""
    head: Head = "linear"
    """Classifier: one linear layer, or one hidden layer of width embed_dim with GELU."""
    init: Init = field(default="normal", metadata=_UNLESS_DEFAULT)
    """First weights of attention: normal; spectral, of which the product of a low-rank projection's factors is near a
    full matrix's; or mimetic, of which each head's products of queries and keys are near a multiple of the identity,
    those of values and projection near a negative one."""
    drop_path_rate: float = 0.1
    """Stochastic depth: the last block's probability to be skipped, for each image and branch; 0 at the first, and
    so at one that is alone."""

    def __post_init__(self) -> None:
        require_whole("model.image_size", self.image_size, 1, 4096)
        for name in ("patch_size", "embed_dim", "depth", "num_heads", "tokenizer_depth"):
            require_whole(f"model.{name}", getattr(self, name), 1)
        for name in ("num_cls_tokens", "num_registers", "num_class_attention_blocks"):
            require_whole(f"model.{name}", getattr(self, name), 0)
        if self.num_classes is not None:
            require_whole("model.num_classes", self.num_classes, 2)
        for name in ("latent_dim_q", "latent_dim_k", "latent_dim_v"):
            width = getattr(self, name)
            allowed = f"it must be a whole number, from 1 to embed_dim, {self.embed_dim}, or None"
            require(width is None or is_whole(width, 1, self.embed_dim), f"model.{name}", width, allowed)
        require_words("model", self)
        require_number("model.layer_scale", self.layer_scale, least=0, most=MOST_NUMBER, or_none=True)
        most = 1e12
        allowed = f"it must be at least 1 / embed_dim, and at most {most:g}"
        require(is_number(self.mlp_ratio, 1 / self.embed_dim, most), "model.mlp_ratio", self.mlp_ratio, allowed)
        require_number("model.drop_path_rate", self.drop_path_rate, least=0, most=0.999)
        self._check_together()

    def _check_together(self) -> None:
        size, width = self.image_size, self.embed_dim
        powers = self.tokenizer in ("conv", "conv-pool")
        fitting = [str(each) for each in range(2, size) if size % each == 0 and not (powers and each & (each - 1))]
        divides = f"it must divide image_size, {size}{', as do ' if fitting else ''}{', '.join(fitting)}"
        require(size % self.patch_size == 0, "model.patch_size", self.patch_size, divides)
        require(width % self.num_heads == 0, "model.num_heads", self.num_heads, f"it must divide embed_dim, {width}")
        fits = self.position != "sincos" or width % 4 == 0
        require(fits, "model.embed_dim", width, "sine-cosine positions need a multiple of 4")
        blocks = self.num_class_attention_blocks
        fits = blocks == 0 or self.num_cls_tokens > 0
        require(fits, "model.num_class_attention_blocks", blocks, "it must be 0 where num_cls_tokens is 0")
        self._check_tokens()
        self._check_attention()

    def _check_tokens(self) -> None:
        size = self.patch_size
        convolved = ("random", "whiten")
        allowed = {"patch": get_args(PatchInit), "conv": convolved, "conv-pool": convolved, "shifted": ("random",)}[
            self.tokenizer
        ]
        known = f"with tokenizer {self.tokenizer} allowed are {', '.join(allowed)}"
        require(self.patch_init in allowed, "model.patch_init", self.patch_init, known)
        fits = self.tokenizer not in ("conv", "conv-pool") or (size > 1 and size & (size - 1) == 0)
        require(fits, "model.patch_size", size, f"tokenizer {self.tokenizer} needs 2, 4, 8 or another power of 2")
        fits = self.tokenizer == "conv" or self.tokenizer_depth == 1
        require(fits, "model.tokenizer_depth", self.tokenizer_depth, f"it must be 1 with tokenizer {self.tokenizer}")
        fits = self.tokenizer != "shifted" or size > 1
        require(fits, "model.patch_size", size, "tokenizer shifted needs at least 2")
        fits = self.pooling != "mean" or self.num_cls_tokens == 0
        require(fits, "model.pooling", self.pooling, "num_cls_tokens must be 0 (num_registers are for unread tokens)")
        fits = self.pooling != "cls+mean" or self.num_cls_tokens > 0
        require(fits, "model.pooling", self.pooling, "num_cls_tokens must be at least 1")
        require(self.embed_dim > 1, "model.embed_dim", self.embed_dim, "at least 2: the norm of a single channel is 0")
        share = {"conv": size // 2, "conv-pool": 1 if size == 2 else 4}.get(self.tokenizer, 0)
        allowed = f"tokenizer {self.tokenizer} needs at least {2 * share}: the norm of a single channel is 0"
        require(self.embed_dim >= 2 * share, "model.embed_dim", self.embed_dim, allowed)
        fits = self.mlp_conv == "none" or self.depth > 1 or self.num_class_attention_blocks > 0 or self.reads_mean
        allowed = "the only block would not have it, as nothing reads its patches: give depth 2"
        require(fits, "model.mlp_conv", self.mlp_conv, allowed)

    def _check_attention(self) -> None:
        head_width = self.embed_dim // self.num_heads
        fits = self.position != "rotary" or head_width % 4 == 0
        allowed = f"rotary positions need a width of a head, {head_width}, that is a multiple of 4"
        require(fits, "model.num_heads", self.num_heads, allowed)
        fits = self.locality == "none" or self.num_tokens > 1
        require(fits, "model.locality", self.locality, "no token attends to itself, so there must be at least 2")
        full = self.latent_dims == (None, None, None)
        allowed = "it needs latent_dim_q, latent_dim_k and latent_dim_v of None"
        require(full or self.init != "mimetic", "model.init", self.init, allowed)
        allowed = "it is for low-rank projections: set latent_dim_q, latent_dim_k or latent_dim_v"
        require(not full or self.init != "spectral", "model.init", self.init, allowed)

    @property
    def num_patches(self) -> int:
        """Patch tokens of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: CLS tokens, then registers."""
        return self.num_cls_tokens + self.num_registers

    @property
    def num_tokens(self) -> int:
        """Tokens that a block sees."""
        return self.num_prefix_tokens + self.num_patches

    @property
    def reads_mean(self) -> bool:
        """Whether the head reads the mean of the patch tokens."""
        return self.pooling != "cls" or self.num_cls_tokens == 0

    @property
    def latent_dims(self) -> tuple[int | None, int | None, int | None]:
        """Latent widths of queries, keys and values."""
        return self.latent_dim_q, self.latent_dim_k, self.latent_dim_v
