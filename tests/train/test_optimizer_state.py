"""A loaded optimiser goes on bit for bit; what does not fit is refused by name."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from smallvit.errors import SmallvitError
from smallvit.train.checkpoint import Checkpoint, load_newest, save_checkpoint
from smallvit.train.config import OptimConfig, Optimizer
from smallvit.train.optim import build_optimizers, set_learning_rate
from smallvit.train.optimizer_state import load_optimizer_tensors, optimizer_tensors
from smallvit.train.schedule import warmup_cosine

Optimizers = Sequence[torch.optim.Optimizer]
Build = Callable[[nn.Module], Optimizers]


def model(seed: int = 0) -> nn.Module:
    """Matrices inside and outside of blocks, a convolution, biases, and CLS tokens."""
    torch.manual_seed(seed)
    blocks = nn.Sequential(nn.Linear(12, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 12))
    parts = {"patch_embed": nn.Conv2d(3, 12, 2, stride=2), "blocks": blocks, "head": nn.Linear(12, 5)}
    net = nn.ModuleDict(parts)
    net.register_parameter("cls_token", nn.Parameter(torch.randn(1, 2, 12)))
    return net


def train(net: Any, optimizers: Optimizers, steps: range) -> None:
    """As `smallvit.train.loop.fit` does: the rate is set at each step."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        set_learning_rate(optimizers, 0.01 * warmup_cosine(step, warmup_steps=3.0, total_steps=10))
        patches = net["patch_embed"](torch.rand(4, 3, 4, 4, generator=generator)).flatten(2).mT
        tokens = torch.cat([net.cls_token.expand(4, -1, -1), patches], 1)
        loss = net["head"](tokens + net["blocks"](tokens)).square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def from_config(name: str, **options: Any) -> Build:
    return lambda net: build_optimizers(net, OptimConfig(optimizer=name, weight_decay=0.05, **options))


BUILDS = {
    **{name: from_config(name) for name in get_args(Optimizer)},
    "adamw, only matrices decay": from_config("adamw", decay_on="matrices"),
    "muon, only matrices decay": from_config("muon", decay_on="matrices"),
}


def assert_equal_state(first: Any, second: Any) -> None:
    """Values, types, dtypes and strides alike, however deep."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert (first.dtype, first.device, first.stride()) == (second.dtype, second.device, second.stride())
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_equal_state(value, second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal_state(one, other)
    else:
        assert first == second


def state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All but the rate, which the schedule sets at each step."""
    whole = optimizer.state_dict()
    for group in whole["param_groups"]:
        del group["lr"]
    return whole


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("interrupted_at", [0, 1, 5])
def test_stopped_and_loaded_is_as_not_stopped(tmp_path: Path, name: str, interrupted_at: int) -> None:
    build, straight = BUILDS[name], model()
    optimizers = build(straight)
    train(straight, optimizers, range(10))

    first = model()
    before = build(first)
    train(first, before, range(interrupted_at))
    tensors = {"model": dict(first.state_dict()), "optimizer": optimizer_tensors(before)}
    save_checkpoint(tmp_path, Checkpoint(step=interrupted_at, tensors=tensors, state={}, texts={}))

    loaded = load_newest(tmp_path)[0]
    assert loaded is not None
    second = model(seed=1)
    second.load_state_dict(loaded.tensors["model"])
    after = build(second)
    load_optimizer_tensors(after, loaded.tensors["optimizer"])
    for one, other in zip(before, after, strict=True):
        assert_equal_state(state(one), state(other))
    train(second, after, range(interrupted_at, 10))
    assert_equal_state(dict(straight.state_dict()), dict(second.state_dict()))
    for one, other in zip(optimizers, after, strict=True):
        assert_equal_state(state(one), state(other))


def test_loading_leaves_the_weights_and_shares_no_memory() -> None:
    net = model()
    optimizers = BUILDS["adamw"](net)
    train(net, optimizers, range(2))
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizers).items()}
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    load_optimizer_tensors(optimizers, tensors)
    assert_equal_state(before, dict(net.state_dict()))
    assert all(parameter.grad is None for parameter in net.parameters())
    train(net, optimizers, range(2, 3))
    assert_equal_state(kept, tensors)


NOT_WHOLE = "0 is not whole: its parameters have different entries"


def trained(name: str) -> tuple[Optimizers, dict[str, Tensor]]:
    net = model()
    optimizers = BUILDS[name](net)
    train(net, optimizers, range(2))
    return optimizers, optimizer_tensors(optimizers)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: {**t, "0.11.exp_avg": torch.ones(3)}, "0.11.exp_avg is of another model or optimiser"),
        (lambda t: {**t, "1.0.exp_avg": torch.ones(3)}, "1.0.exp_avg is of another model or optimiser"),
        (lambda t: {**t, "0.group2.step": torch.tensor(3)}, "0.group2.step is of another model or optimiser"),
        (lambda t: {**t, "0.0.exp_avg": torch.ones(3)}, "0.0.exp_avg is of another model or optimiser"),
        (lambda t: {**t, "momentum": torch.ones(3)}, "momentum is of another model or optimiser"),
        (lambda t: {**t, "0.0.exp_avg": t["0.0.exp_avg"].double()}, "0.0.exp_avg is of another model or optimiser"),
        (lambda t: {key: t[key] for key in t if not key.startswith("0.3.")}, NOT_WHOLE),
        (lambda t: {key: t[key] for key in t if key != "0.3.exp_avg"}, NOT_WHOLE),
        (lambda t: {**t, "0.3.extra": torch.ones(())}, NOT_WHOLE),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, said: str) -> None:
    tensors = change(trained("adamw")[1])
    with pytest.raises(SmallvitError) as error:
        load_optimizer_tensors(BUILDS["adamw"](model()), tensors)
    assert str(error.value) == "optimizer state " + said


@pytest.mark.parametrize(("saved", "now"), [("adamw", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimiser_is_refused(saved: str, now: str) -> None:
    with pytest.raises(SmallvitError, match=r"optimizer state .* is (of another|not whole)"):
        load_optimizer_tensors(BUILDS[now](model()), trained(saved)[1])
