"""Weights and other tensors as files: safetensors, written whole or not at all, read strictly."""

import textwrap
from pathlib import Path
from typing import Literal, get_args

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from smallvit.checks import require_one_of
from smallvit.errors import SmallvitError, UsageError
from smallvit.files import write_atomically
from smallvit.train.checkpoint_format import tensor_bytes

MODEL, BEST = "model.safetensors", "best.safetensors"
"""The weights of the last epoch, in a run folder, and those that were best on val."""
Which = Literal["last", "best"]


def save_tensors(tensors: dict[str, Tensor], path: Path | str) -> None:
    """Write tensors as safetensors, flushed to the disk."""
    write_atomically(Path(path), tensor_bytes(tensors))


def read_tensors(path: Path | str, what: str) -> dict[str, Tensor]:
    """Return a file's tensors; one that is not there or damaged is a `SmallvitError`: it does not hold `what`."""
    try:
        return load(Path(path).read_bytes())
    except (OSError, SafetensorError) as error:
        raise SmallvitError(f"{path} does not hold {what}: {error}") from None


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Give a model the weights of a file; one that is not there, damaged or another model's is a `SmallvitError`."""
    tensors = read_tensors(path, "this model's weights")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise SmallvitError(f"{path} does not hold this model's weights: {reason}") from None


def load_run_weights(model: nn.Module, folder: Path, which: Which) -> None:
    """Give a model the weights of a finished run; `UsageError` where those that were best on val were not kept."""
    require_one_of("weights", which, get_args(Which))
    if which == "best" and not (folder / BEST).exists():
        raise UsageError(f"weights is 'best': {folder} has no {BEST}, which a run with checkpoint.best keeps")
    load_weights(model, folder / (MODEL if which == "last" else BEST))
