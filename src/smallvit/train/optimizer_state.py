"""The state of optimisers as named tensors, and back, so that a resumed run goes on bit for bit.

A key is `<optimiser>.<parameter>.<entry>`, such as `0.12.exp_avg`: positions in the sequence and in the groups, in
order. Each optimiser also has `<optimiser>.has_state`, which says of each parameter whether it has any yet. Plain
numbers are 0-d int64, float64 or bool tensors. `torch.optim.Optimizer.load_state_dict` is not used: it casts what it
is given to the parameter's type, and accepts missing and unknown entries. What a step sets in `param_groups` is not
kept: no optimiser of `smallvit.train.optim` needs it, the rate comes from the schedule.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from smallvit.errors import SmallvitError

State = dict[str, Any]


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return all state by name; the tensors are the optimisers' own, so write them before the next step.

    Raises `TypeError` for state that is neither a tensor nor a number.
    """
    tensors: dict[str, Tensor] = {}
    for i, optimizer in enumerate(optimizers):
        states = [_state(optimizer, parameter) for parameter in _parameters(optimizer)]
        tensors[f"{i}.has_state"] = torch.tensor([bool(state) for state in states])
        for n, state in enumerate(states):
            for entry, value in state.items():
                tensors[f"{i}.{n}.{entry}"] = _as_tensor(f"{i}.{n}.{entry}", value)
    return tensors


def load_optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Give optimisers the state that `optimizer_tensors` returned; on their parameters' devices, bit for bit.

    Raises `SmallvitError`, and changes nothing, if an entry is missing, not known or of another shape or dtype.
    """
    rest = dict(tensors)
    loaded: list[list[State]] = []
    for i, optimizer in enumerate(optimizers):
        templates = _after_a_step(optimizer)
        has_state = _take(rest, f"{i}.has_state", torch.empty(len(templates), dtype=torch.bool), optimizer).tolist()
        loaded.append(
            [
                {entry: _take(rest, f"{i}.{n}.{entry}", value, optimizer) for entry, value in template.items()}
                if has_state[n]
                else {}
                for n, template in enumerate(templates)
            ]
        )
    if rest:
        raise SmallvitError(f"optimizer state {min(rest)} is not known to {', '.join(map(_name, optimizers))}")
    for optimizer, states in zip(optimizers, loaded, strict=True):
        optimizer.state.clear()
        for parameter, state in zip(_parameters(optimizer), states, strict=True):
            if state:
                optimizer.state[parameter] = state


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> State:
    return cast("State", optimizer.state[parameter]) if parameter in optimizer.state else {}


def _name(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__


def _as_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    for kind, dtype in ((bool, torch.bool), (int, torch.int64), (float, torch.float64)):
        if type(value) is kind:
            return torch.tensor(value, dtype=dtype)
    raise TypeError(f"optimizer state {name} is a {type(value).__name__}, neither a tensor nor a number")


def _after_a_step(optimizer: torch.optim.Optimizer) -> list[State]:
    """Return the state that each parameter of an optimiser has after a step: the entries, shapes, types and devices.

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
    return [_state(twin, parameter) for parameter in _parameters(twin)]


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
