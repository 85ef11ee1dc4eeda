"""Exact counts over a split: top-1, negative log likelihood, calibration error, confusion; and a temperature.

Shapes: n images, S image size, C classes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

CALIBRATION_BINS = 15
_VALUES = 2**18
"""Probabilities that are worked out at a time: those of 50,000 images of 1,000 classes are 400 MB in float64, and
several copies are made on the way.
"""
_COLDEST, _HOTTEST, _PRIOR_DEVIATION = 0.02, 50.0, 0.25


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How good a model is on a split."""

    correct: int
    """Images whose largest logit is that of their class."""
    count: int
    """Images of the split."""
    negative_log_likelihood: float
    """Mean of -log p(class), in nats."""
    calibration_error: float
    """Expected calibration error over 15 bins of equal width (Guo et al., 2017), 0 to 1."""

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, 0 to 1."""
        return self.correct / self.count


def predict(
    forward: Callable[[Tensor], Tensor],
    images: UInt8[Tensor, "n 3 S S"],
    batch_size: int,
    check: Callable[[], None] | None = None,
) -> Float[Tensor, "n C"]:
    """Return the logits of every image, in order, as float32 on the CPU; n is at least 1.

    `check` is called before each forward pass, and may raise to end the work.
    """
    parts: list[Tensor] = []
    with torch.inference_mode():
        for part in images.split(batch_size):
            if check is not None:
                check()
            parts.append(forward(part).float().cpu())
    return torch.cat(parts)  # an ordinary tensor: one that was made in that mode has no place in a loss


def measure(logits: Float[Tensor, "n C"], labels: Int64[Tensor, " n"], temperature: float = 1.0) -> Metrics:
    """Return the metrics of softmax(logits / temperature) against the true classes."""
    labels = labels.cpu()
    of_class, highest = _log_probabilities(logits, labels, temperature)
    hit = logits.argmax(dim=-1) == labels
    return Metrics(
        correct=int(hit.sum()),
        count=len(labels),
        negative_log_likelihood=float(-of_class.mean()),
        calibration_error=_calibration_error(highest.exp(), hit),
    )


def probabilities(logits: Float[Tensor, "n C"], temperature: float | None = None) -> Float64[Tensor, "n C"]:
    """Return softmax(logits / temperature) in float64; without a temperature the plain softmax."""
    return (logits.double() / (temperature or 1.0)).softmax(-1)


def confidences(logits: Float[Tensor, "n C"], temperature: float | None = None) -> Float64[Tensor, " n"]:
    """Return the highest of each image's `probabilities`."""
    highest = torch.empty(len(logits), dtype=torch.float64, device="cpu")
    for rows in _parts(logits):
        highest[rows] = probabilities(logits[rows], temperature).amax(-1)
    return highest


def confusion(logits: Float[Tensor, "n C"], labels: Int64[Tensor, " n"]) -> Int64[Tensor, "C C"]:
    """Return how often each class (row) was taken for each class (column)."""
    classes = logits.shape[1]
    return torch.bincount(labels.cpu() * classes + logits.argmax(-1), minlength=classes**2).view(classes, classes)


def fit_temperature(
    logits: Float[Tensor, "n C"], labels: Int64[Tensor, " n"], added: Float64[Tensor, " C"] | None = None
) -> float:
    """Return the T for which softmax(logits / T) is the likeliest (Guo et al., 2017), under a prior, from 0.02 to 50.

    Of logits that leave out how frequent the classes are, as these labels do not (`train.logit_adjustment`), it is
    softmax(logits / T + added).

    A model that learned smoothed and mixed targets is less sure than it is right, and T is below 1. Of a few images
    little can be told, and ones without a mistake would ask for certainty: so log T has a normal prior around 0, of
    deviation 0.25, which thousands of images overrule.
    """
    from scipy.optimize import minimize_scalar  # half a second, which only the end of a run needs

    labels = labels.cpu()

    def loss(log_temperature: float) -> float:
        likelihoods, _ = _log_probabilities(logits, labels, math.exp(log_temperature), added)
        return float(-likelihoods.sum()) + 0.5 * (log_temperature / _PRIOR_DEVIATION) ** 2

    bounds = math.log(_COLDEST), math.log(_HOTTEST)
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def _log_probabilities(
    logits: Float[Tensor, "n C"],
    labels: Int64[Tensor, " n"],
    temperature: float,
    added: Float64[Tensor, " C"] | None = None,
) -> tuple[Float64[Tensor, "n 1"], Float64[Tensor, " n"]]:
    """Return log softmax(logits / temperature + added) of each image's class, and the highest, in float64."""
    shapes = (len(logits), 1), len(logits)
    of_class, highest = (torch.empty(shape, dtype=torch.float64, device="cpu") for shape in shapes)
    for rows in _parts(logits):
        scaled = logits[rows].double() / temperature
        found = (scaled if added is None else scaled + added).log_softmax(dim=-1)
        of_class[rows] = found.gather(1, labels[rows, None])
        highest[rows] = found.amax(dim=-1)
    return of_class, highest


def _parts(logits: Float[Tensor, "n C"]) -> Iterator[slice]:
    size = max(1, _VALUES // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))


def _calibration_error(confidence: Float[Tensor, " n"], hit: Tensor) -> float:
    bins = (confidence * CALIBRATION_BINS).ceil().clamp(1, CALIBRATION_BINS).long() - 1
    gap = confidence.new_zeros(CALIBRATION_BINS).index_add_(0, bins, confidence - hit.double())
    return float(gap.abs().sum() / len(hit))
