"""How fast runs of one shape are: told by a finished run, or measured in a few steps."""

import math
from dataclasses import dataclass

from smallvit.bench.clock import take_turns
from smallvit.bench.workload import Workload
from smallvit.config import RunConfig
from smallvit.data.spec import SPECS
from smallvit.device.choose import timed
from smallvit.record import RunRecord

START_SECONDS = 3.0
"""To import torch, read the data, and write the record."""
TURNS = 2


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast runs of one shape are, and on how many images."""

    step_seconds: float
    first_step_seconds: float
    evaluate_seconds: float
    """Of an image."""
    num_train: int
    num_val: int
    num_test: int

    def seconds(self, config: RunConfig, steps_done: int = 0) -> float:
        """Return how long a run takes from its start, or from a checkpoint, to its end.

        The last evaluation is always still to come: a run that has had it is finished.
        """
        length, steps = config.length, max(1, config.num_steps(self.num_train))
        left = 1 - min(steps_done, steps) / steps
        points = max(1, math.ceil(left * math.ceil(length.epochs / length.every_epochs)))
        images = points * self.num_val + (points if config.evaluate.test_curve else 1) * self.num_test
        return (
            START_SECONDS + self.first_step_seconds + left * steps * self.step_seconds + images * self.evaluate_seconds
        )


def num_images(config: RunConfig) -> tuple[int, int, int] | None:
    """Return the images of train, val and test, give or take one a class; None where only the images tell."""
    spec, data = SPECS.get(config.data.dataset), config.data
    if spec is None:
        return None
    test = spec.test_size or round(spec.train_size * data.test_fraction)
    rest = spec.train_size if spec.test_size else spec.train_size - test
    val = round(rest * data.val_fraction)
    return rest - val, val, test


def measured_pace(work: Workload) -> Pace:
    """Return the pace of a recipe for a named data set on this machine, by a few steps on random images."""
    config = work.session.config
    first = timed(work.pipeline, work.device)
    work.settle(work.pipeline)
    taken = take_turns({"pipeline": work.pipeline, "evaluation": work.evaluate}, work.device, TURNS)
    images = num_images(config)
    assert images is not None, "Workload takes named data sets only"
    return Pace(
        step_seconds=taken["pipeline"].seconds,
        first_step_seconds=first,
        evaluate_seconds=taken["evaluation"].seconds / config.evaluate.batch_size,
        num_train=images[0],
        num_val=images[1],
        num_test=images[2],
    )


def pace_of(record: RunRecord) -> Pace:
    """Return the pace that a finished run had."""
    evaluated = sum(metrics.count for point in record.curve for metrics in (point.val, point.test) if metrics)
    return Pace(
        step_seconds=record.run_config().train.batch_size / record.images_per_second,
        first_step_seconds=record.first_step_seconds,
        evaluate_seconds=record.evaluate_seconds / evaluated,
        num_train=record.num_train,
        num_val=record.val.count if record.val else 0,
        num_test=record.test.count,
    )
