"""Augmentation of whole batches on the device, each image with its own draw; usable on anybody's uint8 images.

The names below load torch only when they are asked for, so that `smallvit.augment.config` stays quick to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smallvit.augment.config import AugmentConfig
    from smallvit.augment.pipeline import AugmentParams, apply_augment, normalise, sample_augment

__all__ = ["AugmentConfig", "AugmentParams", "apply_augment", "normalise", "sample_augment"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "config" if name == "AugmentConfig" else "pipeline"
    return getattr(import_module(f"{__name__}.{home}"), name)
