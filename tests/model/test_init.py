"""First weights: the distributions, the seeds, and a golden file of every parameter's mean and deviation.

`pytest tests/model --update-golden` rewrites tests/golden/init_stats.json.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer
from smallvit.recipes import RECIPES

BASELINE = ModelConfig(num_classes=10)
EVERYTHING = ModelConfig(
    num_classes=100,
    embed_dim=96,
    depth=2,
    num_heads=3,
    num_cls_tokens=3,
    num_class_attention_blocks=1,
    position="sincos",
    latent_dim_q=48,
    latent_dim_v=24,
    head="mlp",
)
CONVOLVED = replace(RECIPES["best"]().model, num_classes=10)


def built(config: ModelConfig, seed: int | None = 0) -> VisionTransformer:
    return VisionTransformer(config, generator=None if seed is None else torch.Generator().manual_seed(seed))


def statistics(config: ModelConfig) -> dict[str, Any]:
    """Shape, mean and standard deviation (of the values as a population) of all that the state dict holds."""
    return {
        name: {
            "shape": list(value.shape),
            "mean": float(f"{value.double().mean():.6g}"),
            "std": float(f"{value.double().std(correction=0):.6g}"),
        }
        for name, value in built(config).state_dict().items()
    }


def test_first_weights_are_those_of_the_golden_file(golden: Callable[[str, Any], Any]) -> None:
    """Under the file's torch version the draws are the same; another version may draw other numbers of the same kind.

    Then a mean may be off by 6 standard errors of a difference, 6 * sqrt(2 / n) deviations, and a deviation by the
    fraction 6 / sqrt(n); what is constant must stay constant.
    """
    version = torch.__version__.split("+")[0]
    now = {"torch": version, "baseline": statistics(BASELINE), "everything": statistics(EVERYTHING)}
    wanted = golden("init_stats.json", now)
    for model in ("baseline", "everything"):
        assert list(now[model]) == list(wanted[model])
        for name, stats in now[model].items():
            was = wanted[model][name]
            assert stats["shape"] == was["shape"], name
            slack = 0.0 if version == wanted["torch"] else 6 / math.sqrt(math.prod(was["shape"]))
            # The 6 digits that the file keeps, and a last-bit difference between processors.
            assert abs(stats["mean"] - was["mean"]) <= 1e-8 + 1e-5 * abs(was["mean"]) + 1.42 * slack * was["std"], name
            assert abs(stats["std"] - was["std"]) <= (1e-5 + slack) * was["std"], name


@pytest.mark.parametrize("config", [BASELINE, EVERYTHING, CONVOLVED], ids=["baseline", "everything", "convolved"])
def test_every_kind_of_parameter_has_its_distribution(config: ModelConfig) -> None:
    model = built(config)
    normal: list[torch.Tensor] = [p for n, p in model.named_parameters() if n in {"cls_token", "pos_embed"}]
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Linear):
            normal.append(module.weight)
            assert module.bias is None or (module.bias == 0).all()
        elif isinstance(module, nn.Conv2d):
            # Of torch.nn.Conv2d.reset_parameters, which draws within 1 / sqrt(fan-in) too.
            bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(module.weight)[0])
            for values in (module.weight, module.get_parameter("bias")):
                assert values.abs().max() <= bound
                assert abs(float(values.detach().std()) / (bound / math.sqrt(3)) - 1) < 4 / math.sqrt(values.numel())
    for values in (v.detach() for v in normal):
        count = values.numel()
        assert abs(float(values.mean())) < 4.5 * 0.02 / math.sqrt(count)
        assert abs(float(values.std()) / 0.02 - 1) < 4.5 / math.sqrt(2 * count)
        # Cut at 2, not at 2 deviations: 4.55 % lie outside those.
        assert abs(float((values.abs() > 0.04).double().mean()) - 0.0455) < 4.5 * math.sqrt(0.0455 / count)


def test_equal_seeds_give_equal_weights_whatever_torchs_generator_says() -> None:
    torch.manual_seed(1)
    one = built(EVERYTHING, seed=5).state_dict()
    torch.manual_seed(2)
    other = built(EVERYTHING, seed=5).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    different = built(EVERYTHING, seed=6).state_dict()
    drawn = [name for name, value in one.items() if value.unique().numel() > 2 and name != "pos_embed"]
    assert len(drawn) == 2 + 1 + 3 * (5 + 1 + 2) + 2  # patch_embed; CLS; q and v in two, k, proj, MLP; head
    assert not any(torch.equal(one[name], different[name]) for name in drawn)


def test_a_value_of_the_model_itself_keeps_its_constant() -> None:
    class Scaled(VisionTransformer):
        def _make_positions(self) -> None:
            super()._make_positions()
            self.logit_scale = torch.nn.Parameter(torch.full((1,), 7.0))

    assert Scaled(ModelConfig(num_classes=3)).logit_scale == 7


def test_without_a_generator_torchs_own_decides() -> None:
    config = replace(BASELINE, depth=1, embed_dim=24)
    torch.manual_seed(1)
    one = built(config, seed=None).state_dict()
    torch.manual_seed(1)
    same = built(config, seed=None).state_dict()
    other = built(config, seed=None).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["head.weight"], other["head.weight"])
