"""What a run leaves behind for its readers: one JSON file that holds everything a published number rests on."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smallvit.config import RunConfig
from smallvit.data.split import uneven
from smallvit.device.choose import Choices
from smallvit.errors import SmallvitError
from smallvit.evaluate import Metrics
from smallvit.files import write_json
from smallvit.schema import RECORD_ADDED, RECORD_SCHEMA, upgrade
from smallvit.source import package_version, source_digest
from smallvit.strict_json import digest, from_json, read, to_json


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One measurement on the way."""

    epoch: int
    """Epochs finished."""
    images_seen: int
    """Training images so far, each pass counted."""
    train_loss: float | None
    """Mean loss in nats since the point before, on augmented images with soft targets; None where every step since was
    left out."""
    seconds: float
    """Seconds of training so far, evaluation left out."""
    val: Metrics | None
    test: Metrics | None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run: its config, where it ran, how it went, how good it is."""

    config: dict[str, Any]
    """The whole config as JSON, every default resolved."""
    config_digest: str
    """Identifies the run; equal configs have equal digests."""
    class_names: list[str]
    channel_mean: list[float] | None
    """Of the training pixels, red, green and blue, in units of 0..1: what images are normalised with; None in records
    from before it was kept."""
    channel_std: list[float] | None
    test_sha256: str | None
    """Of the test split's pixels and labels, as `data.split.digest` has it; None in records from before."""
    val_sha256: str | None
    """Of val's; None, too, where none was held out."""
    num_train: int
    """Training images of one pass."""
    dataset_notes: list[str]
    """What was odd about the data."""
    num_parameters: int
    num_macs: int
    """Multiply-accumulates of one image's forward pass."""
    choices: Choices
    hardware: dict[str, str | int]
    versions: dict[str, str]
    started: str
    """Coordinated universal time, ISO 8601."""
    train_seconds: float
    """Seconds of all training steps, the first (and compilation) included, evaluation left out."""
    first_step_seconds: float
    evaluate_seconds: float
    images_per_second: float
    """Training images a second, augmentation included, the first step left out."""
    world_size: int
    """Processes that shared every batch."""
    resumed_at_steps: list[int]
    """Steps done at each checkpoint that the run went on from."""
    skipped_steps: list[int]
    """Steps left out for a loss or gradient that was no finite number."""
    curve: list[CurvePoint]
    val: Metrics | None
    """At the last epoch."""
    test: Metrics
    """At the last epoch."""
    temperature: float | None
    """What logits are divided by so that probabilities are as sure as they are right on val, by
    `evaluate.fit_temperature`; None where no val was held out, and in records from before. With
    `train.logit_adjustment` that is so once the shares that the classes have there are put back."""
    test_calibrated: Metrics | None
    """`test` with its logits divided by the temperature."""
    test_read: Literal["once, at the last epoch", "along the curve"]
    test_confusion: list[list[int]]
    """Images of each class (row) taken for each class (column)."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, with its schema version and a digest over all of it."""
        body = {"schema": RECORD_SCHEMA, **to_json(self)}
        return {**body, "sha256": digest(body)}

    @classmethod
    def from_json(cls, value: Any, where: str = "record") -> "RunRecord":
        """Return the record of `to_json`, of this version or an earlier one's.

        Raises `SmallvitError` if it is no record, of a later version, incomplete or was edited.
        """
        if not (isinstance(value, dict) and {"config_digest", "curve"} <= value.keys()):
            raise SmallvitError(f"{where} is no record of a run, which record.json and seed<k>.json are")
        upgraded = upgrade(value, where, RECORD_ADDED)
        written = upgraded.pop("sha256", None)
        if written != digest({key: item for key, item in value.items() if key != "sha256"}):
            raise SmallvitError(f"{where} was changed after it was written: its digest differs")
        return from_json(cls, upgraded, where)

    def save(self, path: Path) -> None:
        """Write the record whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> "RunRecord":
        """Read a record file; `SmallvitError` where it was edited, or its config is another than its digest says."""
        record = cls.from_json(read(path, "record"), str(path))
        try:
            config = record.run_config()
        except SmallvitError as error:
            raise SmallvitError(f"{path}: {error}") from None
        if config.digest() != record.config_digest:
            changed = "its config, or a field's default, was changed since"
            raise SmallvitError(f"{path}: config_digest is not that of its config: {changed}")
        return record

    def run_config(self) -> RunConfig:
        """Return the config as a value."""
        return RunConfig.from_json(self.config)

    def other_arithmetic(self, here: Choices) -> str | None:
        """Return in what other arithmetic than `here` the run was computed, and which options ask for that, in a line
        for the user; None where it is the same.
        """
        other = other_options(self.choices, here)
        if not other:
            return None
        words = ", ".join(f"{name} {then} (here {now})" for name, (then, now) in other.items())
        options = " ".join(f"--device.{name} {then}" for name, (then, _) in other.items())
        named = "precision" in other and self.run_config().device.precision == "auto"
        digest = " (a run of another digest, as its precision is named)" if named else ""
        how = f"for the same, begin in another folder (--out) with {options}{digest}"
        return f"the record was computed with {words}: numbers round otherwise; {how}"

    def num_test_classes(self) -> int:
        """Return how many classes test has images of."""
        return sum(map(any, self.test_confusion))

    def mean_class_accuracy(self) -> float | None:
        """Return that of test, where its classes are uneven in number; else None."""
        return mean_class_accuracy(self.test_confusion)


def mean_class_accuracy(confusion: Sequence[Sequence[int]]) -> float | None:
    """Return the mean over the classes that have images of their accuracy, 0 to 1, where these are uneven in number;
    else None: `confusion` has a row for each class.
    """
    if not uneven([sum(row) for row in confusion]):
        return None
    shares = [row[index] / sum(row) for index, row in enumerate(confusion) if any(row)]
    return sum(shares) / len(shares)


def other_options(then: Choices, now: Choices) -> dict[str, tuple[str, str]]:
    """Return the options of `device` that were chosen otherwise then than now, each with both values."""
    before, after = _options(then), _options(now)
    if then.device != "cpu":  # whose sums are not the threads'
        del before["num-threads"]
    return {name: (value, after[name]) for name, value in before.items() if value != after[name]}


def _options(choices: Choices) -> dict[str, str]:
    """Return the options of `device` that ask for what was chosen."""
    return {
        "device": choices.device,
        "precision": choices.precision,
        "attention": choices.attention,
        "convolution": choices.convolution,
        "compile": "on" if choices.compile else "off",
        "num-threads": str(choices.num_threads),
    }


SOURCE = "source"
"""Among the versions, that of `source_digest`."""


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    packages = {name: package_version(name) for name in ("smallvit", "torch", "numpy", "pillow")}
    return {"python": platform.python_version(), **packages, SOURCE: source_digest()}
