"""The losses by name, each a function of logits and distributions over the classes; and one for uneven classes.

Shapes: n images, B batch, C classes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from smallvit.train.config import LossName


def soft_cross_entropy(logits: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Return the mean cross entropy in nats of logits against distributions over the classes."""
    return -(targets * logits.float().log_softmax(dim=-1)).sum(-1).mean()


def soft_binary_cross_entropy(logits: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Return the mean over images and classes of the binary cross entropy in nats, each class a yes or no of its own.

    The targets stay soft, where DeiT III (Touvron et al., 2022) and "ResNet strikes back" (Wightman et al., 2021) make
    each class of a mixed image a whole yes.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


class LogitAdjustment:
    """Cross entropy of logits to which `times` the log of each class's share of the images is added (Menon et al.,
    2021): with 1, the logits alone answer as if all classes were as frequent.

    `labels` are those of the training images, each class at least once. Targets come smoothed evenly over the classes
    and are moved to where smoothing by the shares has them. By even smoothing each class has the same least part of
    every target: of a rare class more than its share, so that the model would answer it for images that are surely of a
    common one. Mixing images (CutMix, MixUp) leaves the classes' shares of all targets as they are.
    """

    def __init__(
        self, labels: Int64[Tensor, " n"], num_classes: int, *, times: float, label_smoothing: float, device: str
    ) -> None:
        shares = _shares(labels, num_classes)
        self._left = (times - 1) * shares.log()
        self._added: Float32[Tensor, " C"] = (times * shares.log()).float().to(device)
        self._moved: Float32[Tensor, " C"] = (label_smoothing * (shares - 1 / num_classes)).float().to(device)

    def __call__(self, logits: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
        """Return the mean cross entropy in nats."""
        return soft_cross_entropy(logits.float() + self._added, targets + self._moved)

    def lacking(self, labels: Int64[Tensor, " n"]) -> Float64[Tensor, " C"]:
        """Return what to add to the logits for images whose classes are as frequent as in these labels, on the CPU."""
        return self._left + _shares(labels.cpu(), len(self._left)).log()


def _shares(labels: Int64[Tensor, " n"], num_classes: int) -> Float64[Tensor, " C"]:
    return torch.bincount(labels, minlength=num_classes).double() / len(labels)


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": soft_cross_entropy,
    "bce": soft_binary_cross_entropy,
}
