"""The training loop: one step after another, yielding its state; it neither evaluates nor writes.

Shapes: B batch, S image size, C classes, L blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smallvit import rng
from smallvit.train.optim import set_learning_rate
from smallvit.train.schedule import warmup_cosine

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Batch:
    """Normalised images and soft targets on the device, and stochastic depth's draw."""

    images: Float[Tensor, "B 3 S S"]
    targets: Float[Tensor, "B C"]
    branch_scale: Float[Tensor, "L 2 B"] | None


@dataclass(frozen=True)
class StepState:
    """What a step leaves behind; `loss` stays on the device, for whoever wants to wait for it."""

    step: int
    lr: float
    loss: Float[Tensor, ""]


def soft_cross_entropy(logits: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Return the mean cross entropy in nats of logits against distributions over the classes."""
    return -(targets * logits.float().log_softmax(dim=-1)).sum(-1).mean()


def drop_path_uniform(seed: int, step: int, num_blocks: int, batch_size: int) -> Float[Tensor, "L 2 B"]:
    """Return stochastic depth's uniform draws for the whole batch of one step, on the CPU."""
    draws = rng.generator(seed, "drop_path", step).random((num_blocks, 2, batch_size), dtype="float32")
    return torch.from_numpy(draws)


def fit(
    loss: Loss,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Callable[[int], Batch],
    *,
    lr: float,
    warmup_steps: float,
    total_steps: int,
) -> Iterator[StepState]:
    """Take `total_steps` steps of `loss(images, targets, branch_scale)` on `batch(step)`, yielding after each."""
    for step in range(total_steps):
        rate = lr * warmup_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps)
        set_learning_rate(optimizers, rate)
        data = batch(step)
        value = loss(data.images, data.targets, data.branch_scale)
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        yield StepState(step, rate, value.detach())
