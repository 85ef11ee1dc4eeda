"""What a run tells of its config and its data set before it begins: what is odd, or may not be what is meant."""

import math

import numpy as np

from smallvit.config import MOST_SCALE, RunConfig
from smallvit.data.split import uneven
from smallvit.data.store import Dataset

FEW_STEPS = 1000
"""Under so many a run on pictures of one's own is called short: 100 passes over 3,000 take 1,100 (docs/data.md)."""
FEW_IMAGES = 200
"""Under so many of one's own as val or test a note says how little their accuracy tells."""


def notes_on(config: RunConfig, dataset: Dataset) -> list[str]:
    """Return the notes, those of the data set first."""
    notes = list(dataset.notes)
    if config.augment.horizontal_flip > 0 and not dataset.spec.horizontal_flip:
        known = dataset.spec.horizontal_flip is False
        case = f"{dataset.spec.name} are of another class in the mirror" if known else "for text or signs"
        random = "augment.flip to random and " if config.augment.flip == "alternating" else ""
        notes.append(f"images are mirrored; {case}: set {random}augment.horizontal_flip to 0")
    if config.data.dataset == "folder":
        notes += _on_few_pictures(config, dataset)
    if config.checkpoint.best and dataset.val is None:
        notes.append("checkpoint.best keeps nothing: no val was held out to tell which weights are best")
    return notes


def _on_few_pictures(config: RunConfig, dataset: Dataset) -> list[str]:
    notes: list[str] = []
    steps = config.num_steps(len(dataset.train))
    if config.fork is None and 0 < steps < FEW_STEPS:
        longer = min(math.ceil(config.scale * FEW_STEPS / steps), MOST_SCALE)
        notes.append(f"the run is short, {steps:,} steps: for few pictures consider --scale {longer}")
    counts = np.bincount(dataset.train.labels).tolist()
    if uneven(counts) and config.train.loss == "cross-entropy" and not config.train.logit_adjustment:
        most, least = (f"{of(counts):,} of {dataset.spec.class_names[counts.index(of(counts))]}" for of in (max, min))
        notes.append(
            f"train is uneven, {most} to {least}: for all classes to count alike, set train.logit_adjustment to 1"
        )
    drawn_as_test = 0 if dataset.spec.test_size else len(dataset.test)
    is_drawn = {"val": len(dataset.train) + drawn_as_test < dataset.spec.train_size, "test": bool(drawn_as_test)}
    rests = {"val": "; on them rests the temperature of predict's probabilities, too", "test": ""}
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        if split is not None and (count := len(split)) < FEW_IMAGES:
            one, deviation = 100 / count, 50 / count**0.5  # the latter where half are right, which is the most
            worth = f"one is {one:.1f} points of accuracy, their draw up to {deviation:.0f} of standard deviation"
            more = f"; a larger data.{name}_fraction holds out more" if is_drawn[name] else ""
            notes.append(f"{name} is small, {count} images: {worth}{rests[name]}{more}")
    return notes
