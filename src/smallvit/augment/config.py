"""The augmentation's settings, free of torch so that a command line can show them at once."""

from dataclasses import dataclass
from typing import Literal, get_args

from smallvit.errors import UsageError

PolicyName = Literal[
    "none",
    "autoaugment-cifar10",
    "autoaugment-svhn",
    "autoaugment-imagenet",
    "randaugment",
    "trivialaugment",
    "three-augment",
]
Variant = Literal["deepvoltaire", "paper", "torchvision", "tf"]
EraseFill = Literal["raw-mean", "mean", "noise"]
MixPer = Literal["batch", "image"]


def _check_range(field: str, value: int | float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"augment.{field} is {value}, expected a number from {low:g} to {high:g}")


def _check_pair(field: str, pair: tuple[float, float], high: int) -> None:
    if not 0 < pair[0] <= pair[1] <= high:
        raise UsageError(f"augment.{field} is {pair}, expected 0 < smallest <= largest <= {high:g}")


def _check_choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"augment.{field} is {value!r}, expected one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to a training batch, in this order: flip, crop, small affine, policy, normalise, erase, mix.

    Each part is off at its neutral value; the paper's ablation switches them one by one.
    """

    horizontal_flip: float = 0.5
    """Probability of mirroring an image left to right; 0 switches it off."""

    crop_padding: int = 4
    """Pixels of black padding on each side before a random crop back to the image's size; 0 switches it off."""

    affine_degrees: float = 0.0
    """Largest rotation of the small random affine map, in degrees, to either side."""

    affine_translate: float = 0.0
    """Largest shift of the small random affine map, as a fraction of the image's height and width."""

    affine_scale: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest magnification of the small random affine map."""

    affine_shear: float = 0.0
    """Largest horizontal shear of the small random affine map, in degrees, to either side."""

    policy: PolicyName = "none"
    """Automatic augmentation, drawn for each image."""

    policy_variant: Variant = "deepvoltaire"
    """Whose magnitudes, signs, fill and interpolation an autoaugment policy has; the other policies are torchvision's
    and DeiT's."""

    randaugment_num_ops: int = 2
    """Operations in sequence, for policy randaugment."""

    randaugment_magnitude: int = 9
    """Magnitude of every operation, from 0 to 30, for policy randaugment."""

    erase_probability: float = 0.0
    """Probability of erasing a box of an image after normalisation; 0 switches it off."""

    erase_area: tuple[float, float] = (0.02, 0.4)
    """Smallest and largest erased box, as a fraction of the image's area."""

    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Smallest and largest height of an erased box over its width."""

    erase_fill: EraseFill = "raw-mean"
    """What fills the box: the channel means before normalisation, as the paper's code has it by accident; the mean; or
    normal noise for each value."""

    cutmix_alpha: float = 0.0
    """Both parameters of CutMix's beta distribution; 0 switches it off."""

    mixup_alpha: float = 0.0
    """Both parameters of MixUp's beta distribution; 0 switches it off. With both on, each has half of the draws."""

    mix_probability: float = 0.5
    """Probability that a draw mixes at all."""

    mix_per: MixPer = "batch"
    """Whether CutMix and MixUp draw once for the whole batch, as the paper, or once for each image."""

    def __post_init__(self) -> None:
        _check_range("horizontal_flip", self.horizontal_flip, 0, 1)
        _check_range("crop_padding", self.crop_padding, 0, 1024)
        _check_range("affine_degrees", self.affine_degrees, 0, 180)
        _check_range("affine_translate", self.affine_translate, 0, 1)
        _check_range("affine_shear", self.affine_shear, 0, 60)
        _check_pair("affine_scale", self.affine_scale, 1024)
        _check_choice("policy", self.policy, get_args(PolicyName))
        _check_choice("policy_variant", self.policy_variant, get_args(Variant))
        _check_range("randaugment_num_ops", self.randaugment_num_ops, 1, 14)
        _check_range("randaugment_magnitude", self.randaugment_magnitude, 0, 30)
        _check_range("erase_probability", self.erase_probability, 0, 1)
        _check_pair("erase_area", self.erase_area, 1)
        _check_pair("erase_aspect", self.erase_aspect, 1024)
        _check_choice("erase_fill", self.erase_fill, get_args(EraseFill))
        _check_range("cutmix_alpha", self.cutmix_alpha, 0, 1024)
        _check_range("mixup_alpha", self.mixup_alpha, 0, 1024)
        _check_range("mix_probability", self.mix_probability, 0, 1)
        _check_choice("mix_per", self.mix_per, get_args(MixPer))

    @property
    def has_affine(self) -> bool:
        """Whether the small random affine map can do anything."""
        neutral = (0.0, 0.0, (1.0, 1.0), 0.0)
        return (self.affine_degrees, self.affine_translate, self.affine_scale, self.affine_shear) != neutral

    @property
    def has_mix(self) -> bool:
        """Whether CutMix or MixUp can happen."""
        return self.mix_probability > 0 and (self.cutmix_alpha > 0 or self.mixup_alpha > 0)
