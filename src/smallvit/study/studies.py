"""The studies by name."""

from collections.abc import Callable

from smallvit.study.rows import Study
from smallvit.study.small_budget import augmentation, cls_tokens_small, latents_small

STUDIES: dict[str, Callable[[], Study]] = {
    "augmentation": augmentation,
    "cls-tokens-small": cls_tokens_small,
    "latents-small": latents_small,
}
