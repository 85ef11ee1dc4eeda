"""How a model is trained; free of torch, so that the command line can show it at once."""

from dataclasses import dataclass, field
from typing import Any, Literal

from smallvit.checks import MOST_NUMBER, is_number, require, require_flag, require_number, require_whole, require_words

Optimizer = Literal["adamw", "adam", "lion", "muon", "lamb"]
DecayOn = Literal["all", "matrices"]
ScheduleName = Literal["cosine", "linear"]
RateScaling = Literal["none", "sqrt", "linear"]
OnNonfinite = Literal["stop", "skip"]
LossName = Literal["cross-entropy", "bce"]
MuonQkv = Literal["fused", "apart"]

REFERENCE_BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser and its rate; the defaults are those of the paper's code."""

    optimizer: Optimizer = "adamw"
    """Muon orthogonalises the updates of the matrices in the blocks and of a tokenizer's convolutions, but for those of
    tokenizer conv with a stride and the first of conv-pool, and leaves the rest, depthwise convolutions too, to AdamW,
    both at `lr` unless `muon_lr` is set; LAMB is for large batches."""
    lr: float = 1e-3
    """Highest learning rate, at the end of the warm-up."""
    weight_decay: float = 0.05
    """Decoupled decay per unit of rate; for Adam it is an L2 penalty in the gradient, as torch has it, and for LAMB a
    part of the update that its trust ratio scales."""
    decay_on: DecayOn = "all"
    """What decays: every parameter, as in the paper's code, or only linear and convolution weights."""
    betas: tuple[float, float] | None = None
    """Averaging factors of Adam, AdamW, LAMB and Lion; None: 0.9 and 0.999, for Lion 0.9 and 0.99."""
    warmup_epochs: float = 10.0
    """Length of the linear warm-up from 0; the decay to 0 of `schedule` follows."""
    schedule: ScheduleName = field(default="cosine", metadata={"digest": "unless default"})
    """How the rate falls after the warm-up: by half a cosine, or in a straight line (Defazio et al., 2023)."""
    clip_norm: float | None = field(default=None, metadata={"digest": "unless default"})
    """Largest norm of all gradients together: larger ones are scaled down to it, before the optimiser takes them; None:
    never. (Optimisers here, but for AdamW's first steps, take little notice of a gradient's size.)"""
    lr_scaling: RateScaling = field(default="none", metadata={"digest": "unless default"})
    """How `lr`, the rate at a batch of 256, grows with the batch: not, with its square root, or in proportion."""
    muon_lr: float | None = field(default=None, metadata={"digest": "unless default"})
    """Muon's own highest learning rate, beside `lr` for what AdamW takes; None: `lr`, too. At rate 1 an update of a
    matrix has a root mean square of 0.2 (torch's match_rms_adamw), so rates of Muons that scale otherwise, as the 0.02
    of its author's, are not to be copied."""
    muon_weight_decay: float | None = field(default=None, metadata={"digest": "unless default"})
    """Muon's own decay; None: `weight_decay`, too."""
    muon_qkv: MuonQkv = field(default="fused", metadata={"digest": "unless default"})
    """Whether Muon orthogonalises an update of queries, keys and values as the one matrix that they are stored as, or
    as three, as it does where they are stored apart for a low rank."""

    def __post_init__(self) -> None:
        require_words("optim", self)
        require_number("optim.lr", self.lr, above=0, most=MOST_NUMBER)
        require_number("optim.weight_decay", self.weight_decay, least=0, most=MOST_NUMBER)
        require_number("optim.warmup_epochs", self.warmup_epochs, least=0)
        require_number("optim.clip_norm", self.clip_norm, above=0, most=MOST_NUMBER, or_none=True)
        betas: Any = self.betas
        if betas is not None:
            ok = isinstance(betas, tuple) and len(betas) == 2 and all(is_number(b, 0) and b < 1 for b in betas)
            require(ok, "optim.betas", betas, "a tuple of two numbers, each at least 0 and below 1, or None")
        self._check_muon()

    def _check_muon(self) -> None:
        rate, decay = self.muon_lr, self.muon_weight_decay
        apart = None if self.muon_qkv == "fused" else self.muon_qkv
        for name, value in (("muon_lr", rate), ("muon_weight_decay", decay), ("muon_qkv", apart)):
            fits = value is None or self.optimizer == "muon"
            require(fits, f"optim.{name}", value, f"it has no use with optim.optimizer {self.optimizer}")
        require_number("optim.muon_lr", rate, above=0, most=MOST_NUMBER, or_none=True)
        require_number("optim.muon_weight_decay", decay, least=0, most=MOST_NUMBER, or_none=True)

    def scaled_lr(self, batch_size: int) -> float:
        """Return the highest learning rate for batches of this size, all devices together."""
        exponent = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[self.lr_scaling]
        return self.lr * (batch_size / REFERENCE_BATCH_SIZE) ** exponent


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The length of a run and its batches; the defaults are the paper's."""

    epochs: int = 100
    """Epochs of `passes_per_epoch` passes each."""
    passes_per_epoch: int = 3
    """Reshuffled passes over the training images that make one epoch; the paper's epoch has 3."""
    batch_size: int = 256
    """Images in a step; what does not fill a last batch of an epoch is left out."""
    repeats_in_batch: int = 1
    """Times that an image stands in its batch, each time augmented anew (Hoffer et al., 2020; in batches of fewer
    images, Berman et al., 2019; the paper's distributed path has 3). An epoch keeps its number of steps, and
    so shows that many times fewer images. Where it does not divide the batch, an image at a batch's end goes on in the
    next."""
    label_smoothing: float = 0.1
    """Share of each target that is spread evenly over all classes."""
    loss: LossName = field(default="cross-entropy", metadata={"digest": "unless default"})
    """Cross entropy over the classes, or binary cross entropy for each class (bce), of soft targets both."""
    logit_adjustment: float = field(default=0.0, metadata={"digest": "unless default"})
    """How far the loss makes up for classes that are uneven in number: it adds this many times the log of each class's
    share of the training images to its logit (Menon et al., 2021), and smooths labels by these shares. With 1 the model
    answers as if all classes were as frequent, with 0 as if they were as frequent as in training."""
    ema_decay: float = field(default=0.0, metadata={"digest": "unless default"})
    """Share of the moving average of the weights that a step keeps; the average is what is measured and saved at the
    end. The share rises from 0 with the first steps; 0 switches it off."""
    on_nonfinite: OnNonfinite = field(default="stop", metadata={"digest": "unless default"})
    """What a loss or gradient that is no finite number does: end the run, or leave out that step."""
    max_skips: int = field(default=10, metadata={"digest": "unless default"})
    """With on_nonfinite skip: steps in a row that may be left out before the run ends."""

    def __post_init__(self) -> None:
        for name in ("epochs", "passes_per_epoch", "batch_size", "repeats_in_batch"):
            require_whole(f"train.{name}", getattr(self, name), 1)
        repeats, batch = self.repeats_in_batch, self.batch_size
        require(repeats <= batch, "train.repeats_in_batch", repeats, f"it must be at most batch_size, {batch}")
        require_words("train", self)
        require_whole("train.max_skips", self.max_skips, 1)
        for name in ("label_smoothing", "ema_decay"):
            require_number(f"train.{name}", getattr(self, name), least=0, below=1)
        adjustment, fits = self.logit_adjustment, "it has no use with train.loss bce"
        require_number("train.logit_adjustment", adjustment, least=0, most=10)
        require(adjustment == 0 or self.loss == "cross-entropy", "train.logit_adjustment", adjustment, fits)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is saved on the way; it never changes a result."""

    every_seconds: float = 60.0
    """Seconds between two checkpoints, of which the last two are kept; 0 saves after every step."""
    best: bool = False
    """Keep the weights of the best accuracy on val as well, in best.safetensors."""

    def __post_init__(self) -> None:
        require_number("checkpoint.every_seconds", self.every_seconds, least=0)
        require_flag("checkpoint.best", self.best)
