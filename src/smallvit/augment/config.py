"""The augmentation's settings, free of torch so that a command line can show them at once."""

from dataclasses import dataclass

from smallvit.errors import UsageError


def _check_range(field: str, value: int | float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"augment.{field} is {value}, expected a number from {low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to a training batch, in this order: flip, crop, small affine; each is off at its neutral value."""

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

    def __post_init__(self) -> None:
        _check_range("horizontal_flip", self.horizontal_flip, 0, 1)
        _check_range("crop_padding", self.crop_padding, 0, 1024)
        _check_range("affine_degrees", self.affine_degrees, 0, 180)
        _check_range("affine_translate", self.affine_translate, 0, 1)
        _check_range("affine_shear", self.affine_shear, 0, 60)
        low, high = self.affine_scale
        if not 0 < low <= high:
            raise UsageError(f"augment.affine_scale is {self.affine_scale}, expected 0 < smallest <= largest")

    @property
    def has_affine(self) -> bool:
        """Whether the small random affine map can do anything."""
        neutral = (0.0, 0.0, (1.0, 1.0), 0.0)
        return (self.affine_degrees, self.affine_translate, self.affine_scale, self.affine_shear) != neutral
