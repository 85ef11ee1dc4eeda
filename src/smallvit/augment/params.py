"""What one batch's draws are kept in: frozen records of tensors whose leading dimension is the batch.

Row i of every tensor belongs to image i alone, so that a slice of the record is the record of the slice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

# Not typing.Self, which the tests' run-time checker cannot follow inside methods.
Params = TypeVar("Params", bound="BatchParams")


@dataclass(frozen=True, kw_only=True)
class BatchParams:
    """A record of per-image tensors, nested records and plain settings, moved and indexed together."""

    def map_tensors(self: Params, change: Callable[[Tensor], Tensor]) -> Params:
        """Return the record with every tensor in it, nested ones too, changed."""
        changed: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
            elif isinstance(value, BatchParams):
                changed[field.name] = value.map_tensors(change)
        return replace(self, **changed)

    def tensors(self) -> list[Tensor]:
        """Return every tensor in the record, nested ones too, in the order of the fields."""
        found: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map_tensors(keep)
        return found

    def settings(self) -> dict[str, object]:
        """Return every field that is no tensor, nested records' too, by its dotted name."""
        found: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, BatchParams):
                found |= {f"{field.name}.{name}": each for name, each in value.settings().items()}
            elif not isinstance(value, Tensor):
                found[field.name] = value
        return found

    def to(self: Params, device: torch.device | str) -> Params:
        """Return the same draws on another device."""
        return self.map_tensors(lambda tensor: sent(tensor, device))

    def __getitem__(self: Params, rows: slice | Tensor) -> Params:
        """Return the draws of some of the images."""
        return self.map_tensors(lambda tensor: tensor[rows])


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a CPU tensor on a device; a GPU of CUDA need not have finished its earlier work."""
    # MPS may read a tensor that is freed before it has got to it.
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def constants(values: Sequence[float | int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return values as a tensor that is made on its device: one that is sent there can be in no CUDA graph."""
    return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])
