"""A finished run measured again: on its own data set, or on other pictures that have been labelled.

Shapes: n images, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from smallvit.checks import require_one_of
from smallvit.classify import classifier_of, temperature_of
from smallvit.data.folder import read_split
from smallvit.data.listing import list_labelled
from smallvit.data.spec import SPECS
from smallvit.data.split import Split, digest
from smallvit.data.store import Dataset, load_dataset
from smallvit.device.choose import torch_kept
from smallvit.errors import SmallvitError, UsageError, line_of
from smallvit.evaluate import Metrics, confidences, confusion, measure
from smallvit.files import exists, expanded
from smallvit.record import RunRecord, mean_class_accuracy
from smallvit.run_folder import record_of
from smallvit.seen import seen_by
from smallvit.session import Session
from smallvit.weights import Which, load_run_weights

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What a finished run's weights say of labelled images."""

    record: RunRecord
    weights: Which
    split: Split
    logits: Float[Tensor, "n C"]
    notes: tuple[str, ...] = ()
    """What the user must be told: files passed over, pictures left out or of which much is lost."""

    @property
    def class_names(self) -> list[str]:
        """The run's."""
        return self.record.class_names

    @property
    def temperature(self) -> float | None:
        """That of the weights, if they have one."""
        return temperature_of(self.record, self.weights)

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """The true classes."""
        return torch.tensor(self.split.labels, device="cpu")

    def metrics(self) -> Metrics:
        """Return those of the plain softmax."""
        return measure(self.logits, self.labels)

    def calibrated(self) -> Metrics | None:
        """Return those at the temperature, if there is one."""
        return None if self.temperature is None else measure(self.logits, self.labels, self.temperature)

    def mean_class_accuracy(self) -> float | None:
        """Return the mean of the classes' accuracies, 0 to 1, where they are uneven in number; else None."""
        return mean_class_accuracy(confusion(self.logits, self.labels).tolist())

    def answers(self) -> Iterator[tuple[str, str, str, float]]:
        """Yield of each image its file within the folder, or its number in the split where there is none, its class,
        the likeliest class, and the probability of that, at the temperature if there is one.
        """
        names = self.split.file_names() or map(str, range(len(self.split)))
        rows = zip(names, *(column.tolist() for column in (self.labels, *self._likeliest)), strict=True)
        for name, label, answer, probability in rows:
            yield name, self.class_names[label], self.class_names[answer], probability

    def sure(self, least: float) -> tuple[int, int]:
        """Return how many answers have a probability of at least `least`, as `answers` has it, and how many of them are
        right.
        """
        answers, highest = self._likeliest
        chosen = highest >= least
        return int(chosen.sum()), int((answers == self.labels)[chosen].sum())

    @cached_property
    def _likeliest(self) -> tuple[Int64[Tensor, " n"], Float64[Tensor, " n"]]:
        """The likeliest classes and their probabilities."""
        return self.logits.argmax(-1), confidences(self.logits, self.temperature)


def evaluate(
    folder: Path | str, split: SplitName, data_root: Path | str | None = None, *, weights: Which = "last"
) -> Measured:
    """Return what a finished run's weights say of a split of its data set; `data_root` stands in for the data folder
    of its config.

    The arithmetic is that of the run: measured anew, `auto` might round otherwise and count otherwise. A run of a GPU
    is measured on a CPU where there is no CUDA, one of a CPU always there. Raises `SmallvitError` where the data are
    not those of the run.
    """
    require_one_of("split", split, get_args(SplitName))
    folder = expanded(Path(folder), "folder")
    record = record_of(folder)
    config = record.run_config()
    device = "cpu" if record.choices.device == "cpu" else "auto"
    own = replace(config.device, device=device, attention="auto", convolution="auto", cuda_graphs="auto")
    config = replace(config, device=own)
    if config.data.cache is not None and not config.data.cache.is_dir():  # of another machine
        config = replace(config, data=replace(config.data, cache=None))
    if data_root is not None:
        config = replace(config, data=replace(config.data, root=Path(data_root)))
    dataset = load_dataset(config.data, image_size=config.model.image_size)
    _require_same_data(record, dataset, folder)
    images = dataset.splits().get(split)
    if images is None:
        raise UsageError(f"{folder} held out no val (data.val_fraction, or too few images): measure on test")
    with torch_kept():
        session = Session(config, dataset, earlier=record.choices)
        load_run_weights(session.average.measured, folder, weights)
        logits = session.predict(split)
    return Measured(record=record, weights=weights, split=images, logits=logits)


def evaluate_labelled(folder: Path | str, pictures: Path | str, *, weights: Which = "last") -> Measured:
    """Return what a finished run's weights say of the pictures of a folder of classes, `pictures/<class>/*.png` say.

    Its classes are some of the run's, by name. Pictures are read as those of a folder to train on are, and the
    arithmetic is that of `classify`. Exact copies of pictures of one's own that the weights were trained on are left
    out. Raises `SmallvitError` for a run that is not finished and for what cannot be read, `UsageError` where nothing
    is left.
    """
    folder, pictures = expanded(Path(folder), "folder"), expanded(Path(pictures), "pictures")
    record = record_of(folder)
    classifier = classifier_of(record, folder, weights)
    if not pictures.is_dir():
        what = "is no folder" if exists(pictures) else "is not there"
        raise UsageError(f"{pictures} {what}: name a folder with a folder of pictures for each class")
    try:
        listing = list_labelled(pictures, classifier.class_names)
        split, notes = read_split(listing, "test", classifier.model.config.image_size)
    except OSError as error:
        raise SmallvitError(line_of(error)) from error
    config = record.run_config()
    seen = seen_by(folder, config)
    if config.data.dataset in SPECS:
        title = SPECS[config.data.dataset].title
        notes.append(f"which of these are images of {title} is not known: on those of its train the run is too good")
    if seen is None:
        notes.append(f"{folder} does not know what it was trained on: if on some of these, its accuracy is too good")
    elif split.keys is not None and (trained_on := np.isin(split.keys, seen)).any():
        if trained_on.all():
            raise UsageError(f"{pictures}: the run was trained on all {len(split):,} pictures: measure on others")
        notes.append(split.told(np.flatnonzero(trained_on), "are left out, as the run was trained on them"))
        split = split.take(np.flatnonzero(~trained_on))
    logits = classifier(torch.from_numpy(split.images))
    return Measured(record=record, weights=weights, split=split, logits=logits, notes=(*listing.notes, *notes))


def _require_same_data(record: RunRecord, dataset: Dataset, folder: Path) -> None:
    """Raise `SmallvitError` unless the images are those that the run had, as far as its record can tell: others may
    hold what it was trained on.
    """
    spec, val = dataset.spec, record.val
    moments = record.channel_mean, record.channel_std
    names = list(spec.class_names)
    if record.config["data"]["dataset"] == "folder" and record.test_sha256 is None and not spec.test_size:
        raise SmallvitError(
            f"{folder}/record.json is of a version that did not keep which images test was, and drew it otherwise: "
            "some of today's may have been trained on; train anew"
        )
    same = {
        "classes": names == record.class_names,
        "test images": record.test_sha256 in (None, digest(dataset.test)),
        "val images": (0 if val is None else val.count) == (0 if dataset.val is None else len(dataset.val))
        and (dataset.val is None or record.val_sha256 in (None, digest(dataset.val))),
        "train images": len(dataset.train) == record.num_train
        and moments in ((None, None), (list(spec.mean), list(spec.std))),
    }
    different = [what for what, is_same in same.items() if not is_same]
    if different:
        seen = [f"{name!r} is new" for name in names if name not in record.class_names]
        seen += [f"{name!r} is gone" for name in record.class_names if name not in names]
        sizes = {"train": (record.num_train, dataset.train), "test": (record.test.count, dataset.test)}
        seen += [f"{name} has {len(now):,}, had {then:,}" for name, (then, now) in sizes.items() if len(now) != then]
        what = f"{', '.join(different)}{' (' if seen else ''}{', '.join(seen)}{')' if seen else ''}"
        raise SmallvitError(
            f"{folder} was measured on other data: other {what}; put the data back, or name where they are with "
            "--data.root; if they are unchanged, an earlier smallvit drew them otherwise: train anew (of other "
            "pictures `smallvit evaluate` and `predict` take the folder after RUN)"
        )
