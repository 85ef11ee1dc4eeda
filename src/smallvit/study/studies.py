"""The studies by name."""

from collections.abc import Callable
from functools import cache

from smallvit.study.changes import changes
from smallvit.study.grids import batch, cifar100, cls_tokens, latents, mixing, patches
from smallvit.study.paper import paper
from smallvit.study.rows import Study
from smallvit.study.small_budget import augmentation, cls_tokens_small, latents_small

STUDIES: dict[str, Callable[[], Study]] = {
    "paper": cache(paper),
    "latents": cache(latents),
    "cls-tokens": cache(cls_tokens),
    "mixing": cache(mixing),
    "batch": cache(batch),
    "cifar100": cache(cifar100),
    "patches": cache(patches),
    "augmentation": cache(augmentation),
    "cls-tokens-small": cache(cls_tokens_small),
    "latents-small": cache(latents_small),
    "changes": cache(changes),
}
