"""A model's weights as files: safetensors, written whole or not at all, read strictly."""

import os
import textwrap
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from smallvit.errors import SmallvitError
from smallvit.files import replacing

MODEL, BEST = "model.safetensors", "best.safetensors"
"""The weights of the last epoch, in a run folder, and those that were best on val."""


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, flushed to the disk."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Give a model the weights of a file; one that is not there, damaged or another model's is a `SmallvitError`."""
    try:
        model.load_state_dict(load(Path(path).read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise SmallvitError(f"{path} does not hold this model's weights: {reason}") from None
