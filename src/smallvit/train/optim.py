"""Optimisers by name: torch's Adam, AdamW and Muon, Lion from lion-pytorch, LAMB from pytorch-optimizer."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, assert_never

import torch
from lion_pytorch import Lion
from torch import Tensor, nn

from smallvit.errors import UsageError
from smallvit.train.config import OptimConfig
from smallvit.train.muon import Muon

WEIGHT_NDIMS = (2, 4)
"""Linear and convolution weights; CLS tokens and positions have three dimensions, biases and norms one."""

LR_RATIO = "lr_ratio"
"""Key of a parameter group's rate as a multiple of the others'."""


def build_optimizers(
    model: nn.Module, config: OptimConfig, dtype: torch.dtype = torch.float32, *, recordable: bool = False
) -> list[torch.optim.Optimizer]:
    """Return the optimisers that together update every parameter of `model` once a step.

    One, but for Muon: it takes the linear layers' matrices inside the blocks (Jordan et al., 2024; a fused `qkv` is one
    matrix unless `config.muon_qkv` is apart) and a convolutional tokenizer's `MatrixConv`s, with its updates scaled to
    the size of AdamW's, and AdamW takes the rest. `dtype` is that of Muon's matrix products. With `recordable` those
    that can be recorded as a CUDA graph are made for that, on the parameters' GPU: their rate is a tensor. LAMB and
    Lion cannot. Rates are `config.lr` and `config.muon_lr`; `config.scaled_lr` and the schedule are for whoever sets
    them anew (`set_learning_rate`).

    Raises `UsageError` for a model without a parameter for one of them.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if config.optimizer != "muon":
        return [_elementwise(config.optimizer, [p for _, p in named], config, recordable=recordable)]
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    hidden = {name: p for name, p in named if _is_hidden(name) and id(p) in matrices}
    rest = [p for name, p in named if name not in hidden]
    decay = config.weight_decay if config.muon_weight_decay is None else config.muon_weight_decay
    if not hidden:
        raise UsageError("optim.optimizer is 'muon': the model has no matrix to train in its `blocks`; take another")
    lr = _rate(config, list(hidden.values())) if recordable else config.lr
    fused = [name for name in hidden if config.muon_qkv == "apart" and name.endswith("qkv.weight")]
    whole = [p for name, p in hidden.items() if name not in fused]
    groups = [{"params": whole}, {"params": [hidden[name] for name in fused], "parts": 3}]
    muon = Muon([group for group in groups if group["params"]], lr=lr, weight_decay=decay, dtype=dtype)
    if config.muon_lr is not None:
        for group in muon.param_groups:
            group[LR_RATIO] = config.muon_lr / config.lr
        set_learning_rate([muon], config.lr)
    return [muon, _elementwise("adamw", rest, config, recordable=recordable)]


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """Set the rate of every parameter group, times the group's own ratio where it has one."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = lr * group.get(LR_RATIO, 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def _is_hidden(name: str) -> bool:
    return "blocks." in name or "patch_embed.layers." in name


def _rate(config: OptimConfig, parameters: Sequence[nn.Parameter]) -> Tensor:
    return torch.tensor(float(config.lr), device=parameters[0].device)


def _elementwise(
    name: Literal["adamw", "adam", "lion", "lamb"],
    parameters: Sequence[nn.Parameter],
    config: OptimConfig,
    *,
    recordable: bool,
) -> torch.optim.Optimizer:
    groups = _groups(parameters, config)
    if not groups:
        raise UsageError(f"optim.optimizer is {config.optimizer!r}: the model has no parameter to train for {name}")
    options: dict[str, Any] = {"lr": config.lr}
    if config.betas is not None:
        options["betas"] = tuple(map(float, config.betas))
    if name == "lion":
        return Lion(groups, **options)
    if name == "lamb":
        from pytorch_optimizer import Lamb  # takes seconds to import

        # Its own defaults decay outside of the trust ratio, and divide by the bias what that ratio has normalised.
        return Lamb(groups, weight_decouple=False, adam_debias=True, **options)
    if recordable:
        options |= {"lr": _rate(config, parameters), "capturable": True}
    if name == "adamw":
        return _recordable(torch.optim.AdamW(groups, fused=True, **options))
    if name == "adam":
        return _recordable(torch.optim.Adam(groups, fused=True, **options))
    assert_never(name)


def _recordable(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return an optimiser that does not warn of the steps before the one that is recorded."""
    vars(optimizer)["_warned_capturable_if_run_uncaptured"] = True
    return optimizer


def _groups(parameters: Iterable[nn.Parameter], config: OptimConfig) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in parameters:
        (decayed if config.decay_on == "all" or parameter.ndim in WEIGHT_NDIMS else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
