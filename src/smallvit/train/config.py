"""How a model is trained; free of torch, so that the command line can show it at once."""

from dataclasses import dataclass
from typing import Literal

from smallvit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser and its rate; the defaults are those of the paper's code."""

    optimizer: Literal["adamw", "adam", "lion", "muon"] = "adamw"
    """Muon orthogonalises the updates of the blocks' matrices and leaves the rest to AdamW, both at `lr`."""
    lr: float = 1e-3
    """Highest learning rate, at the end of the warm-up."""
    weight_decay: float = 0.05
    """Decoupled decay per unit of rate; for Adam it is an L2 penalty in the gradient, as torch has it."""
    decay_on: Literal["all", "matrices"] = "all"
    """What decays: every parameter, as in the paper's code, or only linear and convolution weights."""
    betas: tuple[float, float] | None = None
    """Averaging factors of Adam, AdamW and Lion; None: 0.9 and 0.999, for Lion 0.9 and 0.99."""
    warmup_epochs: float = 10.0
    """Length of the linear warm-up from 0; cosine decay to 0 follows."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise UsageError(f"optim.lr is {self.lr}: it must be above 0")
        if not self.weight_decay >= 0:
            raise UsageError(f"optim.weight_decay is {self.weight_decay}: it must be at least 0")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"optim.betas is {self.betas}: each must be at least 0 and below 1")
        if not self.warmup_epochs >= 0:
            raise UsageError(f"optim.warmup_epochs is {self.warmup_epochs}: it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The length of a run and its batches; the defaults are the paper's."""

    epochs: int = 100
    """Epochs of `passes_per_epoch` passes each."""
    passes_per_epoch: int = 3
    """Reshuffled passes over the training images that make one epoch; the paper's epoch has 3."""
    batch_size: int = 256
    """Images in a step; what does not fill a last batch of an epoch is left out."""
    label_smoothing: float = 0.1
    """Share of each target that is spread evenly over all classes."""

    def __post_init__(self) -> None:
        for name in ("epochs", "passes_per_epoch", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"train.{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"train.label_smoothing is {self.label_smoothing}: allowed is 0 up to, not including, 1")

    def steps_per_epoch(self, num_images: int) -> int:
        """Return the number of full batches in an epoch over `num_images`."""
        return self.passes_per_epoch * num_images // self.batch_size
