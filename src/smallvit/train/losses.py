"""The losses by name, each a function of logits and distributions over the classes; and the classes' log shares.

Shapes: n images, B batch, C classes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float32, Int64
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


def log_shares(labels: Int64[Tensor, " n"], num_classes: int, label_smoothing: float) -> Float32[Tensor, " C"]:
    """Return the log of each class's mean target over images of these classes, each class at least once among them.

    Of smoothed targets, not of labels: the answer for an image that is surely of a common class would otherwise be a
    rare one, whose part of every target, by smoothing alone, is a multiple of its share of the images. Mixing images
    (CutMix, MixUp) leaves these means as they are.
    """
    shares = torch.bincount(labels, minlength=num_classes).double() / len(labels)
    return (shares * (1 - label_smoothing) + label_smoothing / num_classes).log().float()


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": soft_cross_entropy,
    "bce": soft_binary_cross_entropy,
}
