"""Which optimiser updates what, and which parameters decay."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import lion_pytorch
import pytest
import torch
from torch import nn

from smallvit.errors import UsageError
from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer
from smallvit.recipes import RECIPES
from smallvit.train.config import OptimConfig, Optimizer
from smallvit.train.optim import build_optimizers, set_learning_rate

NAMES: tuple[Optimizer, ...] = get_args(Optimizer)


@pytest.fixture
def model() -> VisionTransformer:
    config = ModelConfig(
        num_classes=3, patch_size=16, embed_dim=8, depth=2, num_heads=2, num_cls_tokens=2,
        num_class_attention_blocks=1, latent_dim_q=4, head="mlp",
    )  # fmt: skip
    return VisionTransformer(config, generator=torch.Generator().manual_seed(0))


def taken(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decay_on", ["all", "matrices"])
def test_every_parameter_belongs_to_exactly_one_optimiser(
    model: VisionTransformer, name: Optimizer, decay_on: Literal["all", "matrices"]
) -> None:
    optimizers = build_optimizers(model, OptimConfig(optimizer=name, decay_on=decay_on))
    ids = [id(p) for optimizer in optimizers for p in taken(optimizer)]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_decay_on_all_or_on_the_weights_of_linear_and_convolution_layers(
    model: VisionTransformer, name: Optimizer
) -> None:
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    weights = {id(module.weight) for module in model.modules() if isinstance(module, layers)}
    for decay_on, decayed in (("all", {id(p) for p in model.parameters()}), ("matrices", weights)):
        optimizers = build_optimizers(model, OptimConfig(optimizer=name, decay_on=decay_on, weight_decay=0.3))
        decay = {id(p): group["weight_decay"] for o in optimizers for group in o.param_groups for p in group["params"]}
        assert {key for key, value in decay.items() if value == 0.3} == decayed
        assert {value for key, value in decay.items() if key not in decayed} <= {0.0}


def test_muon_takes_exactly_the_matrices_in_the_blocks(model: VisionTransformer) -> None:
    muon, rest = build_optimizers(model, OptimConfig(optimizer="muon"))
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(rest, torch.optim.AdamW)
    linears = [
        m for stack in (model.blocks, model.cls_blocks) for m in stack.modules() if isinstance(m, torch.nn.Linear)
    ]
    assert {id(p) for p in taken(muon)} == {id(layer.weight) for layer in linears}


def test_a_table_in_a_block_is_no_matrix_to_muon(model: VisionTransformer) -> None:
    """One of relative positions, say: its rows are looked up, not multiplied."""
    before = [id(p) for p in taken(build_optimizers(model, OptimConfig(optimizer="muon"))[0])]
    model.blocks[0].attn.relative = torch.nn.Parameter(torch.zeros(9, 2))
    assert [id(p) for p in taken(build_optimizers(model, OptimConfig(optimizer="muon"))[0])] == before


def test_muon_takes_a_tokenizers_residual_convolutions_too() -> None:
    config = ModelConfig(num_classes=3, embed_dim=8, depth=1, num_heads=2, tokenizer="conv", tokenizer_depth=2)
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    muon, _ = build_optimizers(model, OptimConfig(optimizer="muon"))
    names = {name for name, p in model.named_parameters() if any(p is taken_ for taken_ in taken(muon))}
    inside = {name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
    assert names - inside == {"patch_embed.layers.1.conv.weight", "patch_embed.layers.5.conv.weight"}


def test_muon_takes_all_but_the_first_convolution_of_a_tokenizer_that_pools() -> None:
    config = ModelConfig(num_classes=3, embed_dim=8, depth=1, num_heads=2, tokenizer="conv-pool")
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    muon, _ = build_optimizers(model, OptimConfig(optimizer="muon"))
    weights = {id(p) for name, p in model.patch_embed.named_parameters() if p.ndim in (2, 4)}
    first = model.patch_embed.first_convolution
    assert first is not None
    assert weights - {id(p) for p in taken(muon)} == {id(first.weight)}


def test_each_name_is_the_class_it_says(model: VisionTransformer) -> None:
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "lion": lion_pytorch.Lion}
    for name, kind in kinds.items():
        (optimizer,) = build_optimizers(model, OptimConfig(optimizer=name))
        assert type(optimizer) is kind


def test_queries_keys_and_values_apart_are_three_matrices_to_muon() -> None:
    config = ModelConfig(num_classes=3, patch_size=16, embed_dim=8, depth=2, num_heads=2)
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    muon, _ = build_optimizers(model, OptimConfig(optimizer="muon", muon_qkv="apart"))
    by_parts = {group.get("parts", 1): group["params"] for group in muon.param_groups}
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].rsplit(".", 2)[-2] for p in by_parts[3]} == {"qkv"}
    assert not any("qkv" in names[id(p)] for p in by_parts[1])
    whole, _ = build_optimizers(model, OptimConfig(optimizer="muon"))
    assert {id(p) for p in taken(muon)} == {id(p) for p in taken(whole)}


def test_lamb_is_the_published_one() -> None:
    """You et al., 2020, algorithm 2, as its version 3 has it: moments without a correction of their bias."""
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(6, 5)
    config = OptimConfig(optimizer="lamb", lr=1e-2, weight_decay=0.1)
    (optimizer,) = build_optimizers(model, config)
    x = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    m, v = ({name: torch.zeros_like(value) for name, value in x.items()} for _ in range(2))
    for _ in range(4):
        for name, p in model.named_parameters():
            p.grad = torch.randn(p.shape, generator=generator)
            gradient = p.grad.double()
            m[name] = 0.9 * m[name] + 0.1 * gradient
            v[name] = 0.999 * v[name] + 0.001 * gradient**2
            update = m[name] / (v[name].sqrt() + 1e-6) + 0.1 * x[name]
            x[name] = x[name] - 1e-2 * x[name].norm() / update.norm() * update
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach().double(), x[name], rtol=1e-5, atol=1e-6)


def test_betas_are_the_methods_own_unless_given(model: VisionTransformer) -> None:
    def betas(config: OptimConfig) -> list[tuple[float, float]]:
        return [group["betas"] for group in build_optimizers(model, config)[-1].param_groups]

    assert betas(OptimConfig()) == [(0.9, 0.999)]
    assert betas(OptimConfig(optimizer="lion")) == [(0.9, 0.99)]
    for name in NAMES:
        assert betas(OptimConfig(optimizer=name, betas=(0.8, 0.95))) == [(0.8, 0.95)]


def test_the_rate_reaches_every_group(model: VisionTransformer) -> None:
    optimizers = build_optimizers(model, OptimConfig(optimizer="muon", decay_on="matrices"))
    set_learning_rate(optimizers, 0.123)
    assert {group["lr"] for optimizer in optimizers for group in optimizer.param_groups} == {0.123}


def test_muons_own_rate_and_decay(model: VisionTransformer) -> None:
    config = OptimConfig(optimizer="muon", lr=1e-3, weight_decay=0.1, muon_lr=4e-3, muon_weight_decay=0.3)
    muon, rest = build_optimizers(model, config)
    assert {group["weight_decay"] for group in muon.param_groups} == {0.3}
    assert {group["weight_decay"] for group in rest.param_groups} == {0.1}
    set_learning_rate([muon, rest], 1e-4)  # a tenth of the highest rate
    assert [group["lr"] for group in muon.param_groups] == [pytest.approx(4e-4)]
    assert {group["lr"] for group in rest.param_groups} == {1e-4}
    # The matrices move as under a run whose only rate and decay are these.
    twin = copy.deepcopy(model)
    alone, _ = build_optimizers(twin, OptimConfig(optimizer="muon", lr=4e-4, weight_decay=0.3))
    generator = torch.Generator().manual_seed(1)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        p.grad = torch.randn(p.shape, generator=generator)
        q.grad = p.grad.clone()
    muon.step()
    alone.step()
    for p, q in zip(taken(muon), taken(alone), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("name", ["adamw", "adam", "lion", "muon"])
def test_a_step_moves_every_parameter_by_about_the_rate(model: VisionTransformer, name: Optimizer) -> None:
    """They are scaled so that one rate fits: AdamW's and Lion's first steps are the rate, Muon's like AdamW's.

    LAMB's is a share of the parameter's size.
    """
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizers = build_optimizers(model, OptimConfig(optimizer=name, lr=1e-2, weight_decay=0.0))
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    for optimizer in optimizers:
        optimizer.step()
    for key, p in model.named_parameters():
        moved = (p.detach() - before[key]).square().mean().sqrt().item()
        assert 1e-3 < moved < 1.1e-2, key


def test_muons_own_decay_may_be_none_at_all(model: VisionTransformer) -> None:
    muon, rest = build_optimizers(model, OptimConfig(optimizer="muon", weight_decay=0.1, muon_weight_decay=0.0))
    assert {group["weight_decay"] for group in muon.param_groups} == {0.0}
    assert {group["weight_decay"] for group in rest.param_groups} == {0.1}


def test_muon_begins_at_its_own_rate(model: VisionTransformer) -> None:
    """For loops, and schedulers of torch's, that never call `set_learning_rate`."""
    muon, rest = build_optimizers(model, OptimConfig(optimizer="muon", lr=2e-3, muon_lr=8e-3))
    assert {group["lr"] for group in muon.param_groups} == {8e-3}
    assert {group["lr"] for group in rest.param_groups} == {2e-3}
    torch.optim.lr_scheduler.LambdaLR(muon, lambda _: 1.0)
    assert {group["lr"] for group in muon.param_groups} == {8e-3}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("wrap", [torch.compile, nn.Sequential], ids=["compiled", "sequential"])
def test_a_wrapped_model_is_divided_alike(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = VisionTransformer(replace(RECIPES["laptop"]().model, num_classes=10))
    config = OptimConfig(optimizer="muon")
    plain, wrapped = ([taken(each) for each in build_optimizers(m, config)] for m in (model, wrap(model)))
    assert [[id(p) for p in part] for part in plain] == [[id(p) for p in part] for part in wrapped]


def test_nothing_to_train_is_told(model: VisionTransformer) -> None:
    with pytest.raises(UsageError, match="'muon': the model has no matrix to train in its `blocks`; take another"):
        build_optimizers(nn.Linear(3, 2), OptimConfig(optimizer="muon"))
    with pytest.raises(UsageError, match="'adamw': the model has no parameter to train for adamw"):
        build_optimizers(model.requires_grad_(False), OptimConfig(optimizer="adamw"))
