"""The whole augmentation of a batch, sampling apart from applying.

The order is the paper's (arXiv 2501.06220): flip, crop, policy, normalise, erase, mix; the resized crop and the small
affine map, which it does not have, come after the crop.
`sample_augment` draws on the CPU with NumPy; `apply_augment` is pure, runs where its images are, and compiles in one
graph.
Legend: B batch, R rows drawn for, H height, W width, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64, Num
from torch import Tensor

from smallvit.augment.config import AugmentConfig
from smallvit.augment.erase import EraseParams, apply_erase, sample_erase
from smallvit.augment.errors import check_draws, check_images, check_labels
from smallvit.augment.geometric import (
    AffineParams,
    FlipCropParams,
    apply_affine,
    apply_flip_crop,
    sample_affine,
    sample_flip_crop,
)
from smallvit.augment.mix import MixParams, apply_mix, sample_mix
from smallvit.augment.params import BatchParams, constants
from smallvit.augment.policy import PolicyParams, apply_policy
from smallvit.augment.resized_crop import ResizedCropParams, apply_resized_crop, sample_resized_crop
from smallvit.augment.sampling import sample_policy
from smallvit.errors import UsageError

_PARTS: tuple[str, ...] = ("flip", "crop", "affine", "policy", "erase", "mix", "resized crop")
"""A part's place is the key of its draws: a new one comes last, or every earlier run's draws are others."""


@dataclass(frozen=True, kw_only=True)
class AugmentParams(BatchParams):
    """One batch's draws; a part that is switched off is None.

    `rows` says which images of the whole batch these draws are applied to: always `images[params.rows]`. For a slice
    with mixing on, the partners follow the slice's own rows, since they may lie anywhere in the batch; they are
    augmented too, and only the slice's own rows come out.
    """

    rows: Int64[Tensor, " R"]
    image_size: tuple[int, int]
    """Height and width in pixels that they were drawn for."""
    flip_crop: FlipCropParams | None
    resized_crop: ResizedCropParams | None
    affine: AffineParams | None
    policy: PolicyParams | None
    erase: EraseParams | None
    mix: MixParams | None

    def __len__(self) -> int:
        """Return how many images come out."""
        return len(self.rows if self.mix is None else self.mix.partner)

    def __getitem__(self, rows: slice | Tensor) -> "AugmentParams":
        """Return the draws of some of the images that come out, with those of their partners."""
        if self.mix is None:
            return super().__getitem__(rows)
        own = torch.arange(len(self), device=self.rows.device)[rows]
        given = torch.cat([own, self.mix.partner[own]])
        mix = replace(self.mix[own], partner=torch.arange(len(own), len(given), device=self.rows.device))
        return replace(replace(self, mix=None).map_tensors(lambda tensor: tensor[given]), mix=mix)


def sample_augment(
    config: AugmentConfig, generator: np.random.Generator, batch_size: int, image_size: tuple[int, int]
) -> AugmentParams:
    """Draw one batch's augmentation, on the CPU; image_size is (height, width) in pixels.

    Each part has a generator of its own, so switching one off leaves the others' draws as they were. Flips are drawn
    whatever `config.flip` is: the alternating ones depend on how often an image was shown (`augment.alternate`).
    """
    check_draws(generator, batch_size, image_size)
    keys = generator.integers(0, 2**64, size=len(_PARTS), dtype=np.uint64)

    def part(name: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=int(keys[_PARTS.index(name)])))

    flips_or_crops = config.horizontal_flip > 0 or config.crop_padding > 0
    erases = config.erase_probability > 0
    ops, resized = config.policy != "none", config.has_resized_crop
    return AugmentParams(
        rows=torch.arange(batch_size, device="cpu"),
        image_size=image_size,
        flip_crop=sample_flip_crop(config, part("flip"), part("crop"), batch_size) if flips_or_crops else None,
        resized_crop=sample_resized_crop(config, part("resized crop"), batch_size, image_size) if resized else None,
        affine=sample_affine(config, part("affine"), batch_size, image_size) if config.has_affine else None,
        policy=sample_policy(config, part("policy"), batch_size, image_size) if ops else None,
        erase=sample_erase(config, part("erase"), batch_size, image_size) if erases else None,
        mix=sample_mix(config, part("mix"), batch_size, image_size) if config.has_mix else None,
    )


def apply_augment(
    images: Num[Tensor, "R ..."],
    labels: Int64[Tensor, " R"],
    params: AugmentParams,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    num_classes: int,
    label_smoothing: float,
) -> tuple[Float32[Tensor, "B 3 H W"], Float32[Tensor, "B C"]]:
    """Return normalised images and soft targets whose rows sum to 1.

    Images are uint8 [R, 3, H, W]; labels are class indices [R]; mean and std are per channel on the scale 0 to 1.
    Raises UsageError where the images are not uint8 with three channels, or they or the labels do not match the draws.
    """
    check_images(images, len(params.rows), params.image_size)
    check_labels(labels, len(params.rows))
    if params.flip_crop is not None:
        images = apply_flip_crop(images, params.flip_crop)
    if params.resized_crop is not None:
        images = apply_resized_crop(images, params.resized_crop)
    if params.affine is not None:
        images = apply_affine(images, params.affine)
    if params.policy is not None:
        images = apply_policy(images, params.policy)
    result = normalise(images, mean, std)
    if params.erase is not None:
        result = apply_erase(result, params.erase, mean)
    targets = torch.nn.functional.one_hot(labels, num_classes).float()
    if params.mix is not None:
        result, targets = apply_mix(result, targets, params.mix)
    return result, smooth(targets, label_smoothing)


def smooth(targets: Float32[Tensor, "B C"], label_smoothing: float) -> Float32[Tensor, "B C"]:
    """Move a share of each target to the uniform distribution, as torch's cross entropy with label smoothing does."""
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]


def compiled_augment(*, on_gpu: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `apply_augment`, compiled, with the same pixels."""
    # Triton would make a product and a sum one rounding, which gives other pixels.
    options: dict[str, str | int | bool | Callable[..., object]] = {"emulate_precision_casts": True} if on_gpu else {}
    return torch.compile(apply_augment, fullgraph=True, dynamic=False, options=options or None)


def normalise(
    images: Num[Tensor, "B ..."], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float32[Tensor, "B 3 H W"]:
    """Scale uint8 images to 0..1 and standardise each channel, in one product and one sum.

    Raises UsageError where the images are not uint8, or they, `mean` or `std` have not three channels.
    """
    check_images(images)
    if not len(mean) == len(std) == 3 or min(std) <= 0:
        raise UsageError(f"mean is {mean} and std {std}, expected three numbers each, and std above 0")
    factor = [1 / (255 * deviation) for deviation in std]
    shift = [-middle / deviation for middle, deviation in zip(mean, std, strict=True)]
    by, to = (constants(values, torch.float32, images.device)[:, None, None] for values in (factor, shift))
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.mul_(by).add_(to)
