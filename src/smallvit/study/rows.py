"""Studies as data: each is a function that returns its rows, whole configs that differ in one place."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from smallvit.augment.config import AugmentConfig
from smallvit.config import RunConfig
from smallvit.device.config import DeviceConfig
from smallvit.recipes import baseline, small


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a study's table."""

    label: str
    """What a reader calls it."""
    config: RunConfig
    """Its run, at any seed; the recipe's name is the folder of its records."""

    def at(self, seed: int) -> RunConfig:
        """Return its run at a seed."""
        return replace(self.config, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table to be: rows, seeds, and the row that the others are compared with."""

    name: str
    title: str
    budget: str
    """What every run may spend, in a sentence."""
    reference: str
    """Label of the row that the others are compared with."""
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]


def augmentation() -> Study:
    """What each part of the paper's augmentation does at a small fixed budget: none, one at a time, all."""
    base = replace(small(), device=DeviceConfig(precision="float32"))
    base = replace(
        base, model=replace(base.model, patch_size=8, depth=6), train=replace(base.train, epochs=12, passes_per_epoch=1)
    )
    plain, full = base.augment, baseline().augment
    parts: dict[str, tuple[str, AugmentConfig]] = {
        "none": ("none", replace(plain, horizontal_flip=0.0, crop_padding=0)),
        "crop-flip": ("crop and flip", plain),
        "autoaugment": (
            "+ AutoAugment",
            replace(plain, policy=full.policy, policy_variant=full.policy_variant),
        ),
        "cutmix": ("+ CutMix", replace(plain, cutmix_alpha=full.cutmix_alpha)),
        "mixup": ("+ MixUp", replace(plain, mixup_alpha=full.mixup_alpha)),
        "erase": ("+ random erasing", replace(plain, erase_probability=full.erase_probability)),
        "all": ("all of them", full),
    }
    return Study(
        name="augmentation",
        title="What each augmentation does at a small budget",
        budget=(
            "CIFAR-10, 12 passes over 45,000 images (540,000 images seen), width 96, depth 6, 3 heads, 2 CLS tokens, "
            "patches of 8 x 8, Muon at 2e-3, batch 256, float32"
        ),
        reference="crop and flip",
        rows=tuple(
            Row(label=label, config=replace(base, recipe=f"augment-{name}", augment=augment))
            for name, (label, augment) in parts.items()
        ),
        seeds=(0, 1),
    )


STUDIES: dict[str, Callable[[], Study]] = {f.__name__: f for f in (augmentation,)}
