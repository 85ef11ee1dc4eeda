"""The operations' names, and what each implementation means by a magnitude index.

Four public implementations of AutoAugment differ here, in scale, signs, fill and interpolation: DeepVoltaire's port,
the paper's code, torchvision's, and the authors' own (TensorFlow), whose fill is painted at once here and at the end
there, and which has more policies than were published.
Legend: S signs (plus, minus), O ops, M magnitudes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

OPS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "AutoContrast",
    "Invert",
    "Equalize",
    "Solarize",
    "Posterize",
    "Contrast",
    "Color",
    "Brightness",
    "Sharpness",
    "Cutout",
    "Grayscale",
    "GaussianBlur",
)
"""An op's id is its position here. Values: shear in pixels a pixel, translation in pixels, rotation in degrees,
solarize's threshold, posterize's bits, the four enhancers' factor, cutout's side in pixels, the blur's radius."""

ENHANCERS = ("Contrast", "Color", "Brightness", "Sharpness")


@dataclass(frozen=True, kw_only=True)
class Space:
    """How one implementation draws an op, apart from its magnitudes."""

    bicubic_shear: bool
    """Whether a shear is resampled bicubically; every other geometric op takes the nearest pixel."""

    fill: tuple[int, int, int]
    """The colour of what a geometric op brings in from outside the image."""


SPACES = {
    "deepvoltaire": Space(bicubic_shear=True, fill=(128, 128, 128)),
    "paper": Space(bicubic_shear=True, fill=(128, 128, 128)),
    "torchvision": Space(bicubic_shear=False, fill=(0, 0, 0)),
    "tf": Space(bicubic_shear=False, fill=(125, 123, 114)),
    "wide": Space(bicubic_shear=False, fill=(0, 0, 0)),
}
"""By name: AutoAugment's four variants, and TrivialAugment's wide space as torchvision has it."""


def _signed(values: ndarray) -> ndarray:
    return np.stack([values, -values])


def _published(num_bins: int, height: int, width: int) -> dict[str, ndarray]:
    """Return the values [S, M] or [M] that the PyTorch ports share (DeepVoltaire's, and the paper's code)."""
    steps = np.linspace(0, 1, num_bins)
    shift = np.linspace(0, 150 / 331, num_bins)
    values = {name: 1 + _signed(np.linspace(0, 0.9, num_bins)) for name in ENHANCERS}
    return values | {
        "ShearX": _signed(np.linspace(0, 0.3, num_bins)),
        "ShearY": _signed(np.linspace(0, 0.3, num_bins)),
        "TranslateX": _signed(shift * width),
        "TranslateY": _signed(shift * height),
        "Rotate": _signed(np.linspace(0, 30, num_bins)),
        "Posterize": np.round(np.linspace(8, 4, num_bins)),
        "Solarize": np.linspace(256, 0, num_bins),
        "Cutout": np.floor(20 * steps),
    }


def _authors(num_bins: int) -> dict[str, ndarray]:
    """Return the values of the AutoAugment authors' own code for CIFAR, where the last index is 9 tenths of the way.

    They are for images of 32 x 32, and do not depend on the size.
    """
    level = np.arange(num_bins) * 10 / num_bins
    return dict.fromkeys(ENHANCERS, level * 1.8 / 10 + 0.1) | {
        "ShearX": _signed(level * 0.3 / 10),
        "ShearY": _signed(level * 0.3 / 10),
        "TranslateX": _signed(np.trunc(level)),
        "TranslateY": _signed(np.trunc(level)),
        "Rotate": _signed(np.trunc(level * 30 / 10)),
        "Posterize": 4 - np.trunc(level * 4 / 10),
        "Solarize": 256 - np.trunc(level * 256 / 10),
        "Cutout": np.trunc(level * 20 / 10),
    }


def _torchvision(num_bins: int, height: int, width: int, *, wide: bool) -> dict[str, ndarray]:
    """Return torchvision's values; its 32-bit linspace is part of them: a threshold of 170.00002 is not one of 170."""

    def line(first: float, last: float) -> ndarray:
        return torch.linspace(first, last, num_bins).double().numpy()

    shear, turn, gain, posterize = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    shift_x, shift_y = (32.0, 32.0) if wide else (150.0 / 331.0 * width, 150.0 / 331.0 * height)
    posterized = 8 - (torch.arange(num_bins) / ((num_bins - 1) / posterize)).round().double().numpy()
    # A positive shift moves the picture right or down, so its source lies left or above.
    return {name: 1 + _signed(line(0.0, gain)) for name in ENHANCERS} | {
        "ShearX": _signed(line(0.0, shear)),
        "ShearY": _signed(line(0.0, shear)),
        "TranslateX": _signed(-np.trunc(line(0.0, shift_x))),
        "TranslateY": _signed(-np.trunc(line(0.0, shift_y))),
        "Rotate": _signed(line(0.0, turn)),
        "Posterize": posterized,
        "Solarize": line(255.0, 0.0),
        "Cutout": np.floor(np.linspace(0, 20, num_bins)),
    }


@lru_cache(maxsize=64)
def magnitudes(space: str, num_bins: int, image_size: tuple[int, int]) -> Float64[ndarray, "S O M"]:
    """Return every op's value by sign (plus, minus), op id and magnitude index; image_size is (height, width)."""
    if space == "tf":
        values = _authors(num_bins)
    elif space in ("torchvision", "wide"):
        values = _torchvision(num_bins, *image_size, wide=space == "wide")
    else:
        values = _published(num_bins, *image_size)
    if space == "paper":
        values["Rotate"] = np.abs(values["Rotate"])
    table = np.zeros((2, len(OPS), num_bins))
    for name, value in values.items():
        table[:, OPS.index(name)] = value
    table.setflags(write=False)
    return table
