"""A whole run as one value: the stations' configs put together, cross-checked, JSON in and out, a digest."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Fixed, Positional, Suppress, arg

from smallvit.augment.config import AugmentConfig
from smallvit.checks import is_number, require, require_flag, require_whole
from smallvit.data.config import DataConfig
from smallvit.data.spec import SPECS
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError
from smallvit.model.config import ModelConfig
from smallvit.schema import CONFIG_ADDED, CONFIG_SCHEMA, upgrade
from smallvit.strict_json import digest, from_json, read, to_json
from smallvit.train.config import CheckpointConfig, OptimConfig, TrainConfig

MOST_SCALE = 1000
"""Times its full length that a run may take."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """When and how a run measures itself."""

    every_epochs: int = 5
    """Epochs between two measurements on val."""
    test_curve: bool = False
    """Measure on test, too, whenever val is measured; otherwise test is read once, at the end."""
    batch_size: int = field(default=500, metadata={"digest": False})
    """Images in a forward pass of the evaluation; but for rounding it does not change the result."""

    def __post_init__(self) -> None:
        for name in ("every_epochs", "batch_size"):
            require_whole(f"evaluate.{name}", getattr(self, name), 1)
        require_flag("evaluate.test_curve", self.test_curve)


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a run is, its scale applied."""

    epochs: int
    passes_per_epoch: int
    warmup_epochs: float
    every_epochs: int
    """Epochs between two measurements."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's result."""

    recipe: Annotated[
        Positional[str],
        arg(
            metavar="RECIPE",
            help_behavior_hint="(the defaults below are its, or without one quickstart's, of bench baseline's)",
        ),
    ] = field(default="custom", metadata={"digest": False})
    """Recipe that the run starts from, the first word after the command (`smallvit recipes` lists them), or a run's
    config.json or record, to run it again."""
    seed: int = 0
    """Seed of the weights, the order, the augmentation and stochastic depth."""
    scale: float = field(default=1.0, metadata={"digest": "unless default"})
    """How much of its full length the run takes, more than 1 for a longer one: epochs, warm-up and the time between
    measurements alike."""
    data: DataConfig = field(default_factory=DataConfig)
    """What to train on."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What happens to training images."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser and its rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long, in which batches."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """When to measure."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata={"digest": False})
    """When to save what is needed to go on."""
    device: DeviceConfig = field(default_factory=DeviceConfig)
    """Where and how arithmetic is done."""
    fork: Suppress[Fixed[str | None]] = field(default=None, metadata={"digest": "unless default"})
    """The sha256 of the weights that the run started from, if it was forked; `train --fork` fills it in."""

    def __post_init__(self) -> None:
        require(self.recipe[:1] != "-", "recipe", self.recipe, "a name that begins with - would be an option")
        require_whole("seed", self.seed, 0, most=None)
        warmup, epochs = self.optim.warmup_epochs, self.train.epochs
        most = f"it must be at most train.epochs, {epochs}; lower it, too"
        require(warmup <= epochs, "optim.warmup_epochs", warmup, most)
        passes = self.train.epochs * self.train.passes_per_epoch
        ok = is_number(self.scale, 0, MOST_SCALE) and round(self.scale * passes) >= 1
        allowed = f"a number up to {MOST_SCALE}, and of {passes} passes at least one must be left"
        require(ok, "scale", self.scale, allowed)
        spec = SPECS.get(self.data.dataset)
        if spec is not None:
            self._check_classes(spec.num_classes)

    def resolve(self, num_classes: int) -> "RunConfig":
        """Return the config with the data set's number of classes filled in."""
        self._check_classes(num_classes)
        return dataclasses.replace(self, model=dataclasses.replace(self.model, num_classes=num_classes))

    @property
    def length(self) -> Length:
        """How long the run is: whole epochs of the recipe's, or a single one of fewer passes."""
        epochs, passes = self.train.epochs, self.train.passes_per_epoch
        if self.scale * epochs >= 1:
            scaled = round(self.scale * epochs)
        else:
            scaled, passes = 1, max(1, round(self.scale * epochs * passes))
        return Length(
            epochs=scaled,
            passes_per_epoch=passes,
            warmup_epochs=self.optim.warmup_epochs * scaled / epochs,
            every_epochs=max(1, round(self.evaluate.every_epochs * scaled / epochs)),
        )

    def num_steps(self, num_train: int) -> int:
        """Return the steps of the whole run on so many training images."""
        length = self.length
        return length.epochs * (num_train * length.passes_per_epoch // self.train.batch_size)

    def _check_classes(self, num_classes: int) -> None:
        given, name = self.model.num_classes, self.data.dataset
        allowed = f"{name} has {num_classes}; leave it out, or give a run that is to go on its images back"
        require(given in (None, num_classes), "model.num_classes", given, allowed)

    def digest(self) -> str:
        """Return the sha256 that identifies the run: of every field but those that say where bytes lie, how a device
        is used, or what follows from the data set.

        It is that of the config as it loads again, so that 2 and 2.0 in a field of type float are one run.
        """
        return digest(_identity(from_json(RunConfig, to_json(self))))

    def differences(self, other: "RunConfig") -> list[str]:
        """Return what makes `other` another run: `train.epochs is 10, not 20`, its value last, for each field."""
        pairs = zip(leaves(self), leaves(other), strict=True)
        return [
            f"{name} is {mine}, not {theirs}"
            for (name, mine, counts), (_, theirs, _) in pairs
            if counts and mine != theirs
        ]

    def other_test(self, other: "RunConfig") -> str:
        """Return why a run of `other` has other test images, as far as configs can tell; nothing if it has the same."""
        mine, theirs = self.data, other.data
        if mine.dataset != theirs.dataset:
            return f"data.dataset is {mine.dataset} and {theirs.dataset}"
        spec = SPECS.get(mine.dataset)
        if spec is None or spec.test_size == 0:  # test is, or may be, drawn out of train
            for name in ("test_fraction", "split_seed"):
                if getattr(mine, name) != getattr(theirs, name):
                    return f"data.{name} is {getattr(mine, name)} and {getattr(theirs, name)}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return the config with every default, and its schema version, as JSON values."""
        return {"schema": CONFIG_SCHEMA, **to_json(self)}

    @classmethod
    def from_json(cls, value: Any) -> "RunConfig":
        """Return the config of `to_json`, of this version or an earlier one's.

        An unknown, missing or mistyped key is a `SmallvitError` that names it.
        """
        return from_json(cls, upgrade(value, "config", CONFIG_ADDED))

    @classmethod
    def load(cls, path: Path | str) -> "RunConfig":
        """Read a config file."""
        value = read(path, "config")
        try:
            return cls.from_json(value)
        except SmallvitError as error:
            raise SmallvitError(f"{path}: {error}") from None


def _identity(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return to_json(value)
    kept: dict[str, Any] = {}
    for each in dataclasses.fields(value):
        item = getattr(value, each.name)
        counts = each.metadata.get("digest", True)
        if counts is True or (counts == "unless default" and item != each.default):
            kept[each.name] = _identity(item)
    return kept


def leaves(config: Any, prefix: str = "", *, counts: bool = True) -> Iterator[tuple[str, Any, bool]]:
    """Yield every field by its dotted name, its value, and whether it takes part in the digest."""
    for each in dataclasses.fields(config):
        name, value = prefix + each.name, getattr(config, each.name)
        decides = counts and each.metadata.get("digest", True) is not False
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{name}.", counts=decides)
        else:
            yield name, value, decides
