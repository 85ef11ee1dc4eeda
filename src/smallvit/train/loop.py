"""The training loop: one step after another, yielding its state; it neither evaluates nor writes.

A loss or gradient that is no finite number never reaches the weights: the step is left out, or the loop ends.

Shapes: B batch, S image size, C classes, L blocks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from smallvit import rng
from smallvit.console import first_few
from smallvit.errors import SmallvitError
from smallvit.train.average import WeightAverage
from smallvit.train.distributed import ALONE, World
from smallvit.train.graphs import Recorded
from smallvit.train.optim import set_learning_rate

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Batch:
    """Normalised images and soft targets on the device, and stochastic depth's draw."""

    images: Float[Tensor, "B 3 S S"]
    targets: Float[Tensor, "B C"]
    branch_scale: Float[Tensor, "L 2 B"] | None


class Learner:
    """What learns: the loss of a batch, what updates the weights by its gradients, and the average that follows.

    `loss` is a function of images, targets and the draw of stochastic depth; its gradients are those of the weights,
    of which the first must reach every one. With `graphs`, on a GPU, the way to the gradients is recorded as a CUDA
    graph, and the update as another one, of the optimisers whose rate is a tensor. There are two, since what is no
    number must never reach the weights. With `clip_norm`, gradients whose norm is larger are scaled down to it.
    """

    def __init__(
        self,
        loss: Loss,
        optimizers: Sequence[torch.optim.Optimizer],
        average: WeightAverage,
        *,
        graphs: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        self.loss = loss
        self.optimizers = optimizers
        self.average = average
        self.graphs = graphs
        # Of what these hold nothing refers to the learner: in a cycle a run's data and model would stay after its end,
        # until Python next looks for cycles.
        find = _Gradients(loss, average.model, optimizers, clip_norm)
        self._gradients = Recorded(find) if graphs else find
        recorded = [optimizer for optimizer in optimizers if graphs and _takes_tensor_rate(optimizer)]
        self._plain = [optimizer for optimizer in optimizers if optimizer not in recorded]
        self._update_recorded = Recorded(partial(_take_steps, recorded)) if recorded else None

    def loss_of(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the loss of a batch, with its graph."""
        return self.loss(batch.images, batch.targets, batch.branch_scale)

    def gradients(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Find the gradients of a batch, in place of those before, and return its loss and the gradients' norm, before
        any clipping: of a CUDA graph, until the next call.
        """
        loss, norm = self._gradients(batch.images, batch.targets, batch.branch_scale)
        return loss, norm

    def update(self, step: int, *, weights: bool = True) -> None:
        """End `step`: by its gradients update the weights, unless told not to, and the average."""
        if weights:
            if self._update_recorded is not None:
                self._update_recorded()
            _take_steps(self._plain)
        if not self.graphs:
            _forget_gradients(self.optimizers)
        self.average.update(step)


class _Gradients:
    """The way from a batch to its loss, and to the norm of the gradients that it leaves in place of those before."""

    def __init__(
        self,
        loss: Loss,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        clip_norm: float | None,
    ) -> None:
        self._loss, self._model, self._optimizers, self._clip_norm = loss, model, optimizers, clip_norm
        self._parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        self._used = False

    def __call__(
        self, images: Tensor, targets: Tensor, branch_scale: Tensor | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        _forget_gradients(self._optimizers)
        loss = self._loss(images, targets, branch_scale)
        loss.backward()
        self._require_all_used()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if self._clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip_norm, norm)
        return loss.detach(), norm

    def _require_all_used(self) -> None:
        """Raise `SmallvitError` for what is to be trained and has no gradient: it would stay as it was drawn."""
        if self._used:
            return
        unused = [name for name, p in self._model.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise SmallvitError(f"no gradient reaches {first_few(unused)}: the model's forward pass does not use them")
        self._used = True


def _forget_gradients(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()


def _take_steps(optimizers: Sequence[torch.optim.Optimizer]) -> tuple[Tensor, ...]:
    for optimizer in optimizers:
        optimizer.step()
    return ()


def _takes_tensor_rate(optimizer: torch.optim.Optimizer) -> bool:
    return all(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)


@dataclass(frozen=True)
class StepState:
    """What a step leaves behind; `loss` is on the CPU."""

    step: int
    lr: float
    loss: Float[Tensor, ""]
    gradient_norm: float
    """Before any clipping."""
    skipped: bool = False
    """Whether loss or gradient was no finite number, so that the weights were left as they were."""


class NonFiniteError(SmallvitError):
    """A loss or a gradient whose norm is no finite number; the weights are those from before the step."""

    def __init__(self, *, step: int, lr: float, loss: float, gradient_norm: float) -> None:
        found = f"loss is {loss}" if not math.isfinite(loss) else f"gradient's norm is {gradient_norm}"
        super().__init__(f"the {found} at step {step} (rate {lr:.3g}): try a lower optim.lr, or muon_lr if that is set")
        self.step, self.lr, self.loss, self.gradient_norm = step, lr, loss, gradient_norm


def drop_path_uniform(seed: int, step: int, num_blocks: int, batch_size: int) -> Float[Tensor, "L 2 B"]:
    """Return stochastic depth's uniform draws for the whole batch of one step, on the CPU."""
    draws = rng.generator(seed, "drop_path", step).random((num_blocks, 2, batch_size), dtype="float32")
    return torch.from_numpy(draws)


def fit(
    learner: Learner,
    batch: Callable[[int], Batch],
    *,
    rate: Callable[[int], float],
    total_steps: int,
    start_step: int = 0,
    max_skips: int = 0,
    skipped_in_a_row: int = 0,
    world: World = ALONE,
    prefetch: bool = False,
) -> Iterator[StepState]:
    """Take steps of `learner` on `batch(step)` at the learning rate `rate(step)`, yielding after each.

    From `start_step` up to, not including, `total_steps`. Up to `max_skips` steps in a row may be left out for a loss
    or gradient that is no finite number (`skipped_in_a_row` were so right before the start); one more raises
    `NonFiniteError`, before it touches the weights. The ranks of `world` share a batch, and agree on its loss. With
    `prefetch` the next batch is asked for before the device is waited for.
    """
    following: Batch | None = None
    for step in range(start_step, total_steps):
        lr = rate(step)
        set_learning_rate(learner.optimizers, lr)
        data = batch(step) if following is None else following
        value, norm = learner.gradients(data)
        # One wait for the device a step: the price of never stepping on what is no number. It ends with the backward
        # pass, and while the update is made ready the device has the next batch to augment.
        answer = _asked(torch.stack([value, norm]), world)
        following = batch(step + 1) if prefetch and step + 1 < total_steps else None
        value, norm = answer()
        value = world.mean(value)
        finite = math.isfinite(value) and math.isfinite(norm)
        skipped_in_a_row = 0 if finite else skipped_in_a_row + 1
        if skipped_in_a_row > max_skips:
            raise NonFiniteError(step=step, lr=lr, loss=float(value), gradient_norm=float(norm))
        learner.update(step, weights=finite)
        yield StepState(step, lr, value, float(norm), skipped=not finite)


def _asked(values: Tensor, world: World) -> Callable[[], Tensor]:
    """Return what waits for values on the CPU, but not for the work that the device is given after this call."""
    if not values.is_cuda:
        return values.cpu
    answer, arrived = torch.empty_like(values, device="cpu", pin_memory=True), torch.cuda.Event()
    answer.copy_(values, non_blocking=True)
    arrived.record()

    def wait() -> Tensor:
        world.wait_for(arrived)
        return answer.clone()  # whoever keeps it keeps no pinned memory

    return wait
