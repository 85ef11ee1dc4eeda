"""How long the runs of a study will take, by the paces that are known."""

import math
from dataclasses import replace
from functools import cache

from smallvit.bench.pace import Pace, num_images, pace_of
from smallvit.config import RunConfig
from smallvit.device.choose import device_of, hardware, num_threads
from smallvit.model.vit import count_macs
from smallvit.record import RunRecord
from smallvit.strict_json import canonical, to_json
from smallvit.study.tasks import Task
from smallvit.study.watch import checkpoint_step

FORWARD_SHARE = 1 / 3
"""Of a training step's arithmetic."""


class Forecast:
    """What is known of the pace of shapes: all that decides the time of a step.

    Runs of earlier days count where they had this machine's hardware and as many threads.
    """

    def __init__(self) -> None:
        self._paces: dict[str, tuple[Pace, RunConfig]] = {}
        self._glimpses: dict[str, tuple[Pace, RunConfig]] = {}

    def learn_from(self, record: RunRecord) -> None:
        """Take over the pace of a finished run, if it is one of a process of its own on hardware like this; of one that
        was interrupted, whose speed has the time of another compilation in it, if no other of its shape is known.
        """
        config = record.run_config()
        config = replace(config, device=replace(config.device, num_threads=record.choices.num_threads))
        here = record.hardware.items() <= hardware().items() and record.choices.device == device_of(config.device)
        known = record.resumed_at_steps and shape(config) in self._paces
        if here and not known and record.world_size == 1 and record.images_per_second > 0:  # one step has no speed
            self.learn(config, pace_of(record))

    def learn(self, config: RunConfig, pace: Pace) -> None:
        """Take over a pace."""
        self._paces[shape(config)] = pace, config

    def glimpse(self, config: RunConfig, images_per_second: float) -> None:
        """Note the speed of a run that still goes on, for estimates alone."""
        images = num_images(config)
        if images is not None:
            train, val, test = images
            pace = Pace(
                step_seconds=config.train.batch_size / images_per_second,
                first_step_seconds=0.0,
                evaluate_seconds=FORWARD_SHARE / images_per_second,
                num_train=train,
                num_val=val,
                num_test=test,
            )
            self._glimpses[shape(config)] = pace, config

    def seconds(self, task: Task) -> float | None:
        """Return how long what is left of a run takes; None where no run of its shape is known."""
        known = self._paces.get(shape(task.config))
        return None if known is None else known[0].seconds(task.config, checkpoint_step(task.folder))

    def estimate(self, task: Task) -> float | None:
        """Return the same; where no run of its shape is known, by the nearest shape and its arithmetic."""
        seconds = self.seconds(task)
        known = [*self._glimpses.values(), *self._paces.values()]
        if seconds is not None or not known:
            return seconds
        batch, macs = _work(task.config)
        ratios = [(batch / b, macs / m, pace) for pace, (b, m) in ((pace, _work(config)) for pace, config in known)]
        images, each, pace = min(ratios, key=lambda ratio: abs(math.log(ratio[0] * ratio[1])))
        pace = replace(
            pace, step_seconds=pace.step_seconds * images * each, evaluate_seconds=pace.evaluate_seconds * each
        )
        return pace.seconds(task.config, checkpoint_step(task.folder))


def shape(config: RunConfig) -> str:
    """Return what decides the time of a step, as text."""
    model = replace(config.model, num_classes=None)
    train, data = config.train, config.data
    parts = (
        [data.dataset, data.val_fraction, data.test_fraction],
        to_json(config.augment),
        to_json(model),
        [config.optim.optimizer, config.optim.muon_qkv],
        [train.batch_size, train.repeats_in_batch, train.ema_decay > 0, train.loss],
        to_json(replace(config.device, device=device_of(config.device), num_threads=num_threads(config.device))),
    )
    return canonical(parts)


@cache  # a terminal's table asks for every run that waits, once a second
def _work(config: RunConfig) -> tuple[int, int]:
    """Return the images of a step, and the multiply-accumulates of one image."""
    return config.train.batch_size, count_macs(replace(config.model, num_classes=config.model.num_classes or 10))
