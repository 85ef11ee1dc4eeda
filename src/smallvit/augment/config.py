"""The augmentation's settings, free of torch so that a command line can show them at once."""

from dataclasses import dataclass, field
from typing import Any, Literal

from smallvit.checks import is_number, require, require_number, require_whole, require_words

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
Flip = Literal["random", "alternating"]


def _require_pair(name: str, pair: Any, least: float, most: int) -> None:
    whole = isinstance(pair, tuple) and len(pair) == 2 and all(is_number(end, least, most) for end in pair)
    ordered = whole and 0 < pair[0] <= pair[1]
    allowed = f"it must be a tuple of two numbers, {f'{least:g} <=' if least else '0 <'} smallest <= largest <= {most}"
    require(ordered, f"augment.{name}", pair, allowed)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to a training batch, in this order: flip, crop, resized crop, small affine, policy, normalise,
    erase, mix.

    Each part is off at its neutral value; the paper's ablation switches them one by one.
    """

    horizontal_flip: float = 0.5
    """Probability of mirroring an image left to right; 0 switches it off."""

    flip: Flip = field(default="random", metadata={"digest": "unless default"})
    """Whether each mirroring is drawn, or an image is mirrored in every other pass, one half of the images first and
    the other half then (alternating; Jordan, 2024)."""

    crop_padding: int = 4
    """Pixels of black padding on each side before a random crop back to the image's size; 0 switches it off."""

    resized_crop_area: tuple[float, float] = field(default=(1.0, 1.0), metadata={"digest": "unless default"})
    """Smallest and largest random part of an image that is cut out and resized to the whole, as a fraction of its area;
    where both are 1, it is off. ImageNet's customary 0.08 and 1 are for large photographs. (torchvision's
    RandomResizedCrop, which stands in place of a padded crop: set crop_padding to 0.)"""

    resized_crop_aspect: tuple[float, float] = field(default=(3 / 4, 4 / 3), metadata={"digest": "unless default"})
    """Smallest and largest width of such a part over its height."""

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
        for name in ("horizontal_flip", "affine_translate", "erase_probability", "mix_probability"):
            require_number(f"augment.{name}", getattr(self, name), least=0, most=1)
        require_number("augment.affine_degrees", self.affine_degrees, least=0, most=180)
        require_number("augment.affine_shear", self.affine_shear, least=0, most=60)
        for name in ("cutmix_alpha", "mixup_alpha"):
            require_number(f"augment.{name}", getattr(self, name), least=0, most=1024)
        require_whole("augment.crop_padding", self.crop_padding, 0, 1024)
        require_whole("augment.randaugment_num_ops", self.randaugment_num_ops, 1, 14)
        require_whole("augment.randaugment_magnitude", self.randaugment_magnitude, 0, 30)
        _require_pair("affine_scale", self.affine_scale, 0.001, 1000)
        _require_pair("resized_crop_area", self.resized_crop_area, 0.0, 1)
        _require_pair("resized_crop_aspect", self.resized_crop_aspect, 0.001, 1000)
        _require_pair("erase_area", self.erase_area, 0.0, 1)
        _require_pair("erase_aspect", self.erase_aspect, 0.0, 1024)
        require_words("augment", self)
        fits = self.flip == "random" or self.horizontal_flip == 0.5
        require(fits, "augment.flip", self.flip, "it mirrors half of the time, so horizontal_flip must be 0.5")

    @property
    def has_resized_crop(self) -> bool:
        """Whether less than the whole of an image can be cut out."""
        return self.resized_crop_area != (1.0, 1.0)

    @property
    def has_affine(self) -> bool:
        """Whether the small random affine map can do anything."""
        neutral = (0.0, 0.0, (1.0, 1.0), 0.0)
        return (self.affine_degrees, self.affine_translate, self.affine_scale, self.affine_shear) != neutral

    @property
    def has_mix(self) -> bool:
        """Whether CutMix or MixUp can happen."""
        return self.mix_probability > 0 and (self.cutmix_alpha > 0 or self.mixup_alpha > 0)
