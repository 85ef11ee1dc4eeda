"""The state of optimisers as named tensors, and back, so that a resumed run goes on bit for bit.

A key is `<optimiser>.<parameter>.<entry>`, such as `0.12.exp_avg`: positions in the sequence and in the groups, in
order. What a step adds to a parameter group itself, as LAMB its count of steps, is `<optimiser>.group<n>.<entry>`, a
0-d tensor; the rate and the other options are the config's and the schedule's.

`torch.optim.Optimizer.load_state_dict` is not used: it casts what it is given to the parameter's type, and accepts
missing and unknown entries.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smallvit.errors import SmallvitError
from smallvit.train.optim import LR_RATIO

_OPTIONS = {"params", "parts", LR_RATIO}
"""What a group holds that its optimiser's defaults do not name, and no step adds."""


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return all state by name; the tensors are the optimisers' own, so write them before the next step."""
    tensors: dict[str, Tensor] = {}
    for i, optimizer in enumerate(optimizers):
        for n, parameter in enumerate(_parameters(optimizer)):
            for entry, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{i}.{n}.{entry}"] = value.detach()
        for n, group in enumerate(optimizer.param_groups):
            for entry in group.keys() - _OPTIONS - optimizer.defaults.keys():
                tensors[f"{i}.group{n}.{entry}"] = torch.tensor(group[entry])
    return tensors


def load_optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Give optimisers, new ones of the same kind for the same model, the state that `optimizer_tensors` returned: on
    their parameters' devices, bit for bit. Raises `SmallvitError` for an entry without a place, and where not all
    parameters of an optimiser have the same entries.
    """
    parameters = [_parameters(optimizer) for optimizer in optimizers]
    for name, saved in tensors.items():
        try:
            i, owner, entry = name.split(".")
            if owner.startswith("group"):
                optimizers[int(i)].param_groups[int(owner.removeprefix("group"))][entry] = saved.item()
            else:
                parameter = parameters[int(i)][int(owner)]
                optimizers[int(i)].state[parameter][entry] = _beside(parameter, saved)
        except (IndexError, ValueError):
            raise SmallvitError(f"optimizer state {name} is of another model or optimiser") from None
    for i, optimizer in enumerate(optimizers):
        if len({frozenset(optimizer.state.get(parameter, {})) for parameter in parameters[i]}) > 1:
            raise SmallvitError(f"optimizer state {i} is not whole: its parameters have different entries")


def _parameters(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _beside(parameter: Tensor, saved: Tensor) -> Tensor:
    """Return a copy on the parameter's device, in its order in memory; `ValueError` for another shape or type."""
    if saved.ndim == 0:
        return saved.clone().to(parameter.device)
    if (saved.shape, saved.dtype) != (parameter.shape, parameter.dtype):
        raise ValueError
    return torch.empty_like(parameter).copy_(saved)
