"""Batches by step number: the order of images is a function of the seed and the step, never of what ran before.

Shapes: n images of a split, B batch, S image size.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from smallvit import rng
from smallvit.data.split import Split


@dataclass(frozen=True)
class DeviceSplit:
    """A split that lives on the device as two tensors."""

    images: UInt8[Tensor, "n 3 S S"]
    labels: Int64[Tensor, " n"]

    @classmethod
    def of(cls, split: Split, device: str) -> "DeviceSplit":
        """Copy a split to a device."""
        return cls(torch.tensor(split.images, device=device), torch.tensor(split.labels, device=device))

    def __len__(self) -> int:
        return len(self.labels)


class Order:
    """The order of training images: `passes_per_epoch` reshuffled passes make an epoch, cut into full batches.

    With `repeats_in_batch` each image stands that many times in a row, in an epoch of the same length.
    """

    def __init__(
        self, num_images: int, *, batch_size: int, passes_per_epoch: int, repeats_in_batch: int = 1, seed: int
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.passes_per_epoch = passes_per_epoch
        self.repeats_in_batch = repeats_in_batch
        self.seed = seed
        self.steps_per_epoch = num_images * passes_per_epoch // batch_size
        self._epoch = -1
        self._indices = np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> Int64[Tensor, " B"]:
        """Return the indices of the images of one step, counted from 0 over the whole run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            first = epoch * self.passes_per_epoch
            passes = range(first, first + math.ceil(self.passes_per_epoch / self.repeats_in_batch))
            orders = [rng.generator(self.seed, "order", p).permutation(self.num_images) for p in passes]
            self._epoch, self._indices = epoch, np.concatenate(orders).repeat(self.repeats_in_batch)
        start = position * self.batch_size
        return torch.from_numpy(self._indices[start : start + self.batch_size])

    def showings(self, step: int) -> Int64[Tensor, " B"]:
        """Return how often each image of one step was shown before, counted by passes and repeats.

        What an epoch's last batch leaves out counts as shown.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        place = torch.arange(position * self.batch_size, (position + 1) * self.batch_size)
        passes = math.ceil(self.passes_per_epoch / self.repeats_in_batch)
        earlier = epoch * passes + place // (self.num_images * self.repeats_in_batch)
        return earlier * self.repeats_in_batch + place % self.repeats_in_batch
