"""The losses by name, each a function of logits and distributions over the classes.

Shapes: B batch, C classes.
"""

from collections.abc import Callable

from jaxtyping import Float
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


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": soft_cross_entropy,
    "bce": soft_binary_cross_entropy,
}
