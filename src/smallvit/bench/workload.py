"""A recipe at work on random images: its training step, and the calls that surround it in a run."""

import itertools
from collections.abc import Callable

import numpy as np
import torch

from smallvit.checks import require
from smallvit.config import RunConfig
from smallvit.data.spec import SPECS, DatasetSpec
from smallvit.data.split import Split
from smallvit.data.store import Dataset
from smallvit.device.choose import timed
from smallvit.session import Session
from smallvit.train.graphs import PLAIN_CALLS
from smallvit.train.loop import Batch, Learner, fit

TRAIN_IMAGES = 4096
ENDLESS = 1_000_000_000


class TrainingStep:
    """Forward, backward and update on one fixed batch that lies on the device."""

    def __init__(self, learner: Learner, batch: Batch) -> None:
        self.learner, self.batch = learner, batch
        self._steps = itertools.count()

    def __call__(self) -> None:
        """Take the step."""
        self.learner.gradients(self.batch)
        self._update()

    def parts(self, device: str) -> dict[str, float]:
        """Take the step, and return the seconds of its parts, each waited for; what is recorded as one is one."""
        if self.learner.graphs:
            gradients = timed(lambda: self.learner.gradients(self.batch), device)
            return {"forward and backward": gradients, "optimizer": timed(self._update, device)}
        losses: list[torch.Tensor] = []
        return {
            "forward": timed(lambda: losses.append(self.learner.loss_of(self.batch)), device),
            "backward": timed(lambda: torch.autograd.backward(losses), device),
            "optimizer": timed(self._update, device),
        }

    def _update(self) -> None:
        self.learner.update(next(self._steps))


def spec_of(config: RunConfig) -> DatasetSpec:
    """Return the data set's row; `UsageError` for one of whose images nothing is known beforehand."""
    dataset = config.data.dataset
    require(dataset in SPECS, "data.dataset", dataset, f"random images stand for those of {', '.join(SPECS)}")
    return SPECS[dataset]


class Workload:
    """What a run of `config` repeats, ready to be timed; needs no data set.

    Raises `UsageError` for a data set of whose images nothing is known beforehand.
    """

    def __init__(self, config: RunConfig) -> None:
        spec, size = spec_of(config), config.model.image_size
        draws = np.random.default_rng(0)

        def random_split(count: int) -> Split:
            images = draws.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
            return Split(images=images, labels=draws.integers(0, spec.num_classes, count))

        train = random_split(max(TRAIN_IMAGES, config.train.batch_size))
        test = random_split(config.evaluate.batch_size)
        self.session = Session(
            config.resolve(spec.num_classes), Dataset(spec=spec, train=train, val=None, test=test, notes=())
        )
        self.device = self.session.choices.device
        learner = self.session.learner(self.session.optimizers())
        self.step = TrainingStep(learner, self.session.batch(0))
        self._steps = itertools.count()
        self._states = fit(
            learner,
            self.session.batch,
            rate=lambda _: config.optim.scaled_lr(config.train.batch_size),
            total_steps=ENDLESS,
            prefetch=self.session.prefetch,
        )

    def settle(self, call: Callable[[], object]) -> None:
        """Call what was called once already until, where steps are recorded as CUDA graphs, it is recorded: that takes
        longer than what comes after.
        """
        for _ in range(PLAIN_CALLS if self.session.graphs else 0):
            call()

    def contestants(self) -> dict[str, Callable[[], object]]:
        """Return the calls to time; all but the evaluation treat a batch each, that one `evaluate.batch_size`."""
        return {
            "step": self.step,
            "augmentation": self.augment,
            "pipeline": self.pipeline,
            "evaluation": self.evaluate,
        }

    def augment(self) -> None:
        """Draw and augment a batch."""
        self.session.batch(next(self._steps))

    def pipeline(self) -> None:
        """Take a step as a run takes it: a new batch, its augmentation, and the look at the loss before the update."""
        next(self._states)

    def evaluate(self) -> None:
        """Predict one evaluation batch."""
        self.session.predict("test")
