"""The state of optimisers as named tensors, and back, so that a resumed run goes on bit for bit.

A key is `<optimiser>.<parameter>.<entry>`, such as `0.12.exp_avg`: positions in the sequence and in the groups, in
order. What a step adds to a parameter group itself, as LAMB its count of steps, is `<optimiser>.group<n>.<entry>`; the
rate and the other options are the config's and the schedule's. `<optimiser>.has_state` says of each parameter, then of
each group, whether it has any yet. Plain numbers are 0-d int64, float64 or bool tensors.

`torch.optim.Optimizer.load_state_dict` is not used: it casts what it is given to the parameter's type, and accepts
missing and unknown entries.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smallvit.errors import SmallvitError
from smallvit.train.optim import LR_RATIO

State = dict[str, Any]


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return all state by name; the tensors are the optimisers' own, so write them before the next step.

    Raises `TypeError` for state that is neither a tensor nor a number.
    """
    tensors: dict[str, Tensor] = {}
    for i, optimizer in enumerate(optimizers):
        states = _states(optimizer)
        tensors[f"{i}.has_state"] = torch.tensor([bool(state) for state in states.values()])
        for owner, state in states.items():
            for entry, value in state.items():
                tensors[f"{i}.{owner}.{entry}"] = _as_tensor(f"{i}.{owner}.{entry}", value)
    return tensors


def load_optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Give optimisers the state that `optimizer_tensors` returned; on their parameters' devices, bit for bit.

    Raises `SmallvitError`, and changes nothing, if an entry is missing, not known or of another shape or dtype.
    """
    rest = dict(tensors)
    loaded: list[dict[str, State]] = []
    for i, optimizer in enumerate(optimizers):
        templates = _states_after_a_step(optimizer)
        has_state = _take(rest, f"{i}.has_state", torch.empty(len(templates), dtype=torch.bool), optimizer).tolist()
        loaded.append(
            {
                owner: {
                    entry: _take(rest, f"{i}.{owner}.{entry}", value, optimizer) for entry, value in template.items()
                }
                for (owner, template), has in zip(templates.items(), has_state, strict=True)
                if has
            }
        )
    if rest:
        raise SmallvitError(f"optimizer state {min(rest)} is not known to {', '.join(map(_name, optimizers))}")
    for optimizer, states in zip(optimizers, loaded, strict=True):
        _replace(optimizer, states)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _states(optimizer: torch.optim.Optimizer) -> dict[str, State]:
    """Return what a step has made, by its owner: parameters by number, then groups."""
    states: dict[str, State] = {}
    for n, parameter in enumerate(_parameters(optimizer)):
        states[str(n)] = optimizer.state.get(parameter, {})
    for n, group in enumerate(optimizer.param_groups):
        states[f"group{n}"] = {entry: group[entry] for entry in _added(optimizer, group)}
    return states


def _added(optimizer: torch.optim.Optimizer, group: State) -> list[str]:
    """Return what a group has beside its parameters and the settings with defaults: what steps have added, and Muon's
    `parts`.
    """
    options = {"params", "param_names", "initial_lr", LR_RATIO, *optimizer.defaults}
    return [entry for entry in group if entry not in options]


def _replace(optimizer: torch.optim.Optimizer, states: dict[str, State]) -> None:
    optimizer.state.clear()
    for n, parameter in enumerate(_parameters(optimizer)):
        if str(n) in states:
            optimizer.state[parameter] = states[str(n)]
    for n, group in enumerate(optimizer.param_groups):
        for entry in _added(optimizer, group):
            del group[entry]
        group.update(states.get(f"group{n}", {}))


def _name(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__


def _as_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    for kind, dtype in ((bool, torch.bool), (int, torch.int64), (float, torch.float64)):
        if type(value) is kind:
            return torch.tensor(value, dtype=dtype)
    raise TypeError(f"optimizer state {name} is a {type(value).__name__}, neither a tensor nor a number")


def _states_after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, State]:
    """Return the state that an optimiser has after a step, for its entries, shapes, types and devices.

    Optimisers make their state in their first step and nowhere say what it is, so a twin takes one, on zeros.
    """
    twin = object.__new__(type(optimizer))
    twin.__dict__.update(optimizer.__dict__)
    twin.state = defaultdict(dict)
    twin.param_groups = [
        {**group, "params": [nn.Parameter(torch.zeros_like(p)) for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    for parameter in _parameters(twin):
        parameter.grad = torch.zeros_like(parameter)
    type(optimizer).step(twin)
    return _states(twin)


def _take(rest: dict[str, Tensor], name: str, template: Any, optimizer: torch.optim.Optimizer) -> Any:
    """Take an entry out of `rest` in the template's form: a tensor of its device and strides, or a number."""
    saved = rest.pop(name, None)
    if saved is None:
        raise SmallvitError(f"optimizer state {name} is missing: {_name(optimizer)} has it")
    expected = _as_tensor(name, template)
    if (saved.shape, saved.dtype) != (expected.shape, expected.dtype):
        raise SmallvitError(f"optimizer state {name} is {_kind(saved)}: {_name(optimizer)} has {_kind(expected)}")
    return torch.empty_like(expected).copy_(saved) if isinstance(template, Tensor) else saved.item()


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
