"""Small Vision Transformers, trained from scratch on small images.

>>> from smallvit import RECIPES
>>> from smallvit.run import run
>>> record = run(RECIPES["quickstart"](), "runs/mine")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smallvit.config import RunConfig
    from smallvit.errors import SmallvitError, UsageError
    from smallvit.model.config import ModelConfig
    from smallvit.model.vit import VisionTransformer
    from smallvit.recipes import RECIPES
    from smallvit.record import RunRecord

__all__ = ["RECIPES", "ModelConfig", "RunConfig", "RunRecord", "SmallvitError", "UsageError", "VisionTransformer"]

_HOMES = {
    "RECIPES": "recipes",
    "ModelConfig": "model.config",
    "RunConfig": "config",
    "RunRecord": "record",
    "SmallvitError": "errors",
    "UsageError": "errors",
    "VisionTransformer": "model.vit",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that the command line's help need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'smallvit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"smallvit.{_HOMES[name]}"), name)
