"""The studies by name."""

from collections.abc import Callable

from smallvit.study.changes import changes
from smallvit.study.grids import batch, cifar100, cls_tokens, latents, mixing, patches
from smallvit.study.paper import paper
from smallvit.study.rows import Study
from smallvit.study.small_budget import augmentation, cls_tokens_small, latents_small

STUDIES: dict[str, Callable[[], Study]] = {
    "paper": paper,
    "latents": latents,
    "cls-tokens": cls_tokens,
    "mixing": mixing,
    "batch": batch,
    "cifar100": cifar100,
    "patches": patches,
    "augmentation": augmentation,
    "cls-tokens-small": cls_tokens_small,
    "latents-small": latents_small,
    "changes": changes,
}
