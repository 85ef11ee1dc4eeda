"""A training step's batch: which draws its images get, and the augmented images of this rank.

Shapes: n images of the whole batch, B of this rank's share, S image size, C classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from smallvit import rng
from smallvit.augment.alternate import alternated
from smallvit.augment.params import sent
from smallvit.augment.pipeline import AugmentParams, apply_augment, sample_augment
from smallvit.config import RunConfig
from smallvit.data.loader import DeviceSplit
from smallvit.data.spec import DatasetSpec
from smallvit.train.graphs import Recorded

Apply = Callable[..., tuple[Tensor, Tensor]]
"""As `apply_augment`."""


def step_draws(
    config: RunConfig, step: int, indices: Int64[Tensor, " n"], showings: Int64[Tensor, " n"]
) -> AugmentParams:
    """Return the augmentation draws of a step's whole batch, the images at `indices`, on the CPU.

    `showings` says how often each of them was shown before.
    """
    size = (config.model.image_size, config.model.image_size)
    draws = sample_augment(config.augment, rng.generator(config.seed, "augment", step), len(indices), size)
    if config.augment.flip == "alternating":
        key = int(rng.generator(config.seed, "flip").integers(0, 2**64, dtype=np.uint64))
        return alternated(draws, key, indices, showings)
    return draws


def augment_step(
    config: RunConfig,
    spec: DatasetSpec,
    train: DeviceSplit,
    indices: Int64[Tensor, " n"],
    draws: AugmentParams,
    apply: Apply = apply_augment,
) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
    """Return a rank's share of the images at `indices`, augmented, and their soft targets.

    `draws` are those of `step_draws` for the rank's share of the images, or for all; augmented are these and the
    partners that they are mixed with. `apply` is `apply_augment`, perhaps compiled or recorded.
    """
    device = train.images.device
    chosen = sent(indices[draws.rows], device)
    return apply(
        train.images[chosen],
        train.labels[chosen],
        draws.to(device),
        mean=spec.mean,
        std=spec.std,
        num_classes=spec.num_classes,
        label_smoothing=config.train.label_smoothing,
    )


class RecordedApply:
    """`apply_augment` as a CUDA graph, for batches whose draws differ in their tensors alone."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._recorded: Recorded | None = None
        self._kept: dict[str, object] = {}

    def __call__(self, images: Tensor, labels: Tensor, params: AugmentParams, **settings: Any) -> tuple[Tensor, Tensor]:
        """Return what `apply_augment` does; `RuntimeError` where something else than a tensor is not the first call's,
        which a graph would go on with.
        """
        given = {**params.settings(), **settings}
        if self._recorded is None:
            self._kept = given

            def apply(images: Tensor, labels: Tensor, *draws: Tensor) -> tuple[Tensor, ...]:
                rest = iter(draws)
                return self._apply(images, labels, params.map_tensors(lambda _: next(rest)), **settings)

            self._recorded = Recorded(apply)
        for name in {**self._kept, **given}:
            first, now = self._kept.get(name), given.get(name)
            if first != now:
                raise RuntimeError(f"{name} is {now!r}, was {first!r}: what changes by step must be a tensor")
        augmented, targets = self._recorded(images, labels, *params.tensors())
        return augmented, targets
