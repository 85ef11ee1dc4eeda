"""CutMix (Yun et al., ICCV 2019) and MixUp (Zhang et al., ICLR 2018), one draw a batch as the paper or one an image.

Both are one record: a partner, a box taken from it, and a share that it has everywhere else.
Legend: B images mixed, R images given (the partners among them), C classes, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from smallvit.augment.boxes import image_mask
from smallvit.augment.config import AugmentConfig
from smallvit.augment.params import BatchParams


@dataclass(frozen=True, kw_only=True)
class MixParams(BatchParams):
    """Each image's partner, as a row of the images given; the box that the partner fills; and the image's own shares.

    `share` is the image's share of each pixel outside the box, `label_share` its share of the target.
    """

    partner: Int64[Tensor, " B"]
    box: Int64[Tensor, "B 4"]
    share: Float32[Tensor, " B"]
    label_share: Float32[Tensor, " B"]


def sample_mix(
    config: AugmentConfig, generator: np.random.Generator, batch_size: int, image_size: tuple[int, int]
) -> MixParams:
    """Draw CutMix, MixUp or neither, and a random permutation of the batch as partners (an image may meet itself)."""
    draws = 1 if config.mix_per == "batch" else batch_size
    partner = generator.permutation(batch_size)
    uniform = generator.random((draws, 4))
    cutmix_share = generator.beta(config.cutmix_alpha or 1, config.cutmix_alpha or 1, draws)
    mixup_share = generator.beta(config.mixup_alpha or 1, config.mixup_alpha or 1, draws)
    mixes = uniform[:, 0] < config.mix_probability
    cuts = uniform[:, 1] < (config.cutmix_alpha > 0) / ((config.cutmix_alpha > 0) + (config.mixup_alpha > 0))
    box = cutmix_box(cutmix_share, uniform[:, 2:], image_size) * (mixes & cuts)[:, None]
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    share = np.where(mixes & ~cuts, mixup_share, 1.0)
    label_share = np.where(cuts, 1 - area / (image_size[0] * image_size[1]), share)

    def rows(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.repeat(batch_size // draws, axis=0))

    return MixParams(
        partner=torch.from_numpy(partner),
        box=rows(box),
        share=rows(share.astype(np.float32)),
        label_share=rows(label_share.astype(np.float32)),
    )


def cutmix_box(share: np.ndarray, centre: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Return boxes of about 1 - share of the image about a uniform centre, cut off at the borders; source: CutMix."""
    size = np.array(image_size)
    half = (size * np.sqrt(1 - share)[:, None]).astype(np.int64) // 2
    middle = (centre * size).astype(np.int64)
    return np.concatenate([np.clip(middle - half, 0, size), np.clip(middle + half, 0, size)], axis=1)


def apply_mix(
    images: Float32[Tensor, "R 3 H W"], targets: Float32[Tensor, "R C"], params: MixParams
) -> tuple[Float32[Tensor, "B 3 H W"], Float32[Tensor, "B C"]]:
    """Mix the first B images and targets with their partners; the memory given may be used for the result."""
    count = len(params.partner)
    label_share = params.label_share[:, None]
    mixed_targets = targets[:count] * label_share + targets[params.partner] * (1 - label_share)
    own, share = images[:count], params.share[:, None, None, None]
    # On an accelerator, and when compiled, the values of the draws are not looked at.
    box = params.box.numpy() if images.device.type == "cpu" and not torch.compiler.is_compiling() else None
    if box is not None and (box == box[0]).all() and (params.share.numpy() == 1).all():
        # One box for the whole batch, or nothing at all.
        top, left, bottom, right = box[0].tolist()
        window = images[:, :, top:bottom, left:right].index_select(0, params.partner)
        own[:, :, top:bottom, left:right] = window
        return own, mixed_targets
    if box is None or box.any():
        share = torch.where(image_mask(params.box, images), 0.0, share)
    # One pass, in the partners' place; exact where the share is 0 or 1.
    return images.index_select(0, params.partner).lerp_(own, share), mixed_targets
