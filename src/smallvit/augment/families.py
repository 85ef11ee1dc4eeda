"""One op for each image of a batch: ops of one shape are run together, and there are three shapes.

Tables (a value decides its new value), blends (with a degenerate copy), and moves (a pixel comes from elsewhere).
Legend: B batch, H height, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from smallvit.augment import blend, resample, tables
from smallvit.augment.ops import OPS, Space
from smallvit.augment.params import BatchParams


@dataclass(frozen=True, kw_only=True)
class StepParams(BatchParams):
    """One op for each image, as `PolicyParams` has a sequence of them."""

    op: Int64[Tensor, " B"]
    value: Float64[Tensor, " B"]
    numbers: Int64[Tensor, "B 6"]
    space: Space


_Make = Callable[[Tensor, StepParams], Tensor]


@dataclass(frozen=True)
class Kind:
    """Ops that one function computes: a table, a degenerate copy, or the moved images, by shape."""

    names: tuple[str, ...]
    make: _Make

    def members(self, step: StepParams) -> Bool[Tensor, " B"]:
        """Return which images draw one of these ops."""
        first, *others = (OPS.index(name) for name in self.names)
        member = step.op == first
        for other in others:
            member = member | (step.op == other)
        return member


@dataclass(frozen=True)
class Families:
    """The kinds that a policy can draw, by shape."""

    tables: tuple[Kind, ...]
    blends: tuple[Kind, ...]
    moves: tuple[Kind, ...]


_TABLES = (
    Kind(("Invert", "Solarize", "Posterize"), lambda _, step: tables.pointwise_table(step.op, step.value)),
    Kind(("AutoContrast",), lambda images, _: tables.autocontrast_table(images)),
    Kind(("Equalize",), lambda images, _: tables.equalize_table(images)),
)
_BLENDS = (
    Kind(("Brightness",), lambda pixels, _: pixels.new_zeros(())),
    Kind(("Contrast",), lambda pixels, _: blend.mean_grey(pixels)),
    Kind(("Color",), lambda pixels, _: blend.grey(pixels)),
    Kind(("Sharpness",), lambda pixels, _: blend.smoothed(pixels)),
)
_SHEARS = ("ShearX", "ShearY")
_SHIFTS = ("TranslateX", "TranslateY", "Rotate")
_OTHERS = (
    Kind(("Cutout",), lambda images, step: resample.apply_cutout(images, step.numbers[:, :4], step.space.fill)),
    Kind(("Grayscale",), lambda images, _: blend.apply_grayscale(images)),
    Kind(("GaussianBlur",), lambda images, step: blend.apply_gaussian_blur(images, step.numbers[:, :3])),
)


def _nearest(images: Tensor, step: StepParams) -> Tensor:
    return resample.apply_nearest(images, step.numbers, step.space.fill)


def _bicubic(images: Tensor, step: StepParams) -> Tensor:
    return resample.apply_bicubic_shear(images, step.op, step.value, step.space.fill)


def families(used: tuple[str, ...], space: Space) -> Families:
    """Return the kinds that hold at least one of the ops used."""
    nearest = _SHIFTS if space.bicubic_shear else (*_SHIFTS, *_SHEARS)
    geometric = (Kind(nearest, _nearest), *((Kind(_SHEARS, _bicubic),) if space.bicubic_shear else ()))

    def in_use(kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(kind for kind in kinds if any(name in used for name in kind.names))

    return Families(in_use(_TABLES), in_use(_BLENDS), in_use(geometric + _OTHERS))


def run_step(images: UInt8[Tensor, "B 3 H W"], step: StepParams, chosen: Families) -> UInt8[Tensor, "B 3 H W"]:
    """Run one op on each image; the images given stay as they are.

    Every kind is computed for all images: to know how many draw it, the device would have to be waited for and the
    graph broken.
    """
    images = tables.stored(images)
    if chosen.tables:
        table = torch.arange(256, dtype=torch.uint8, device=images.device).expand(len(images), 3, 256)
        for kind in chosen.tables:
            table = torch.where(kind.members(step)[:, None, None], kind.make(images, step), table)
        images = tables.stored(tables.look_up(images, table))
    if chosen.blends:
        pixels = images.to(torch.float32)
        # An image that draws none of these is blended with black by a factor of 1: itself.
        base, factor = pixels.new_zeros(()), torch.ones_like(step.value)
        for kind in chosen.blends:
            member = kind.members(step)
            base = torch.where(member[:, None, None, None], kind.make(pixels, step), base)
            factor = torch.where(member, step.value, factor)
        images = tables.stored(blend.blended(base, pixels, factor))
    for kind in chosen.moves:
        images = tables.stored(torch.where(kind.members(step)[:, None, None, None], kind.make(images, step), images))
    return images
