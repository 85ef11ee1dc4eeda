"""Augmentation of whole batches on the device, each image with its own draw; usable on anybody's uint8 images.

The names below load torch only when they are asked for, so that `smallvit.augment.config` stays quick to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smallvit.augment.config import AugmentConfig
    from smallvit.augment.ops import OPS, SPACES
    from smallvit.augment.pipeline import AugmentParams, apply_augment, normalise, sample_augment
    from smallvit.augment.policy import PolicyParams, apply_policy, encode_ops
    from smallvit.augment.sampling import sample_autoaugment, sample_policy
    from smallvit.augment.subpolicies import Policy, read_policy

__all__ = [
    "OPS",
    "SPACES",
    "AugmentConfig",
    "AugmentParams",
    "Policy",
    "PolicyParams",
    "apply_augment",
    "apply_policy",
    "encode_ops",
    "normalise",
    "read_policy",
    "sample_augment",
    "sample_autoaugment",
    "sample_policy",
]

_HOME = {
    "config": ("AugmentConfig",),
    "ops": ("OPS", "SPACES"),
    "pipeline": ("AugmentParams", "apply_augment", "normalise", "sample_augment"),
    "policy": ("PolicyParams", "apply_policy", "encode_ops"),
    "sampling": ("sample_autoaugment", "sample_policy"),
    "subpolicies": ("Policy", "read_policy"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
