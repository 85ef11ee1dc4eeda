"""With our weights, timm's VisionTransformer of the same shape is the same function."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from smallvit.bench.peers import PEERS
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.fork import read_origin, take_weights
from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

SMALL = ModelConfig(image_size=16, patch_size=4, num_classes=7, embed_dim=48, depth=3, num_heads=4, drop_path_rate=0.0)
SHAPES = {
    "one-cls": SMALL,
    "mean": replace(SMALL, num_cls_tokens=0),
    "patch-2": replace(SMALL, patch_size=2),
    "patch-8": replace(SMALL, patch_size=8),
    "sincos": replace(SMALL, position="sincos"),
    "one-head-wide-mlp": replace(SMALL, num_heads=1, mlp_ratio=4.0),
}
BuildModel = Callable[..., VisionTransformer]


def timm_twin(timm: ModuleType, config: ModelConfig) -> nn.Module:
    return PEERS["timm"].build(timm.models.vision_transformer, config)


def gradients(model: nn.Module, output: Tensor) -> dict[str, Tensor]:
    """Gradients of a fixed random projection of the output."""
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (output * weight.to(output)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_baseline_as_initialised_gives_timms_logits_and_gradients_in_float32(timm: ModuleType) -> None:
    config = ModelConfig(num_classes=10, drop_path_rate=0.0)
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0)).eval()
    twin = timm_twin(timm, config).eval()
    twin.load_state_dict(model.state_dict(), strict=True)
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ours, theirs = model(pictures), twin(pictures)
    assert (ours - theirs).abs().max() <= 1e-5
    ours, theirs = gradients(model, ours), gradients(twin, theirs)
    assert ours.keys() == theirs.keys() == dict(model.named_parameters()).keys()
    for name, gradient in ours.items():
        # Float32 sums of some 1e3 terms in another order: about sqrt(1e3) * 1.2e-7 of the largest gradient at most.
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=5e-6 * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize("implementation", ["bmm", "sdpa"])
@pytest.mark.parametrize("shape", SHAPES)
def test_large_weights_give_timms_logits_and_gradients_in_float64(
    timm: ModuleType, rough_model: BuildModel, images: Tensor, shape: str, implementation: str
) -> None:
    model = rough_model(SHAPES[shape], attention=implementation)
    twin = timm_twin(timm, SHAPES[shape]).double().eval()
    twin.load_state_dict(model.state_dict(), strict=True)
    ours, theirs = model(images), twin(images)
    assert ours.std() > 0.1, "the logits must be large enough to tell"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    ours, theirs = gradients(model, ours), gradients(twin, theirs)
    assert ours.keys() == dict(model.named_parameters()).keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=1e-11 * float(gradient.abs().max() + 1))


def test_a_fork_starts_from_weights_that_timm_saved(timm: ModuleType, images: Tensor, tmp_path: Path) -> None:
    """Of other classes, and perhaps of larger images."""
    twin = timm_twin(timm, replace(SMALL, num_classes=1000)).eval()
    save_file(twin.state_dict(), tmp_path / "model.safetensors")
    for size, more in ((16, []), (8, ["the positions are interpolated: the weights to start from are of images of"])):
        config = RunConfig(data=DataConfig(dataset="folder", root=tmp_path), model=replace(SMALL, image_size=size))
        model = VisionTransformer(config.model, generator=torch.Generator().manual_seed(0)).eval()
        notes = take_weights(model, read_origin(tmp_path), config, tuple("abcdefg"))
        expected = ["the last layer is new: the weights to start from are of other classes", *more]
        assert [note[: len(start)] for note, start in zip(notes, expected, strict=True)] == expected
        if size == SMALL.image_size:
            ours, theirs = model.forward_features(images.float()), twin.forward_features(images.float())
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [2, 4])
def test_several_cls_tokens_are_timms_cls_and_register_tokens(
    timm: ModuleType, rough_model: BuildModel, images: Tensor, tokens: int
) -> None:
    config = replace(SMALL, num_cls_tokens=tokens)
    model, twin = rough_model(config), timm_twin(timm, config).double().eval()
    state = model.state_dict()
    state["cls_token"], state["reg_token"] = state["cls_token"].split([1, tokens - 1], dim=1)
    state["head.weight"] = state["head.weight"][:, : config.embed_dim]  # timm's head reads one token, ours all
    twin.load_state_dict(state, strict=True)
    ours, theirs = model.forward_features(images), twin.forward_features(images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    flat = ours[:, :tokens].reshape(len(images), -1)
    torch.testing.assert_close(model(images), flat @ model.head.weight.T + model.head.bias, rtol=0, atol=1e-11)
    ours, theirs = gradients(model, ours), gradients(twin, theirs)
    theirs["cls_token"] = torch.cat([theirs["cls_token"], theirs.pop("reg_token")], dim=1)
    assert ours.keys() == theirs.keys() == dict(model.named_parameters()).keys() - {"head.weight", "head.bias"}
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=1e-11 * float(gradient.abs().max() + 1))


def test_stochastic_depth_is_timms_when_timm_draws(timm: ModuleType, rough_model: BuildModel, images: Tensor) -> None:
    """timm's training-mode draws are read off its DropPath modules and given to our model as uniform draws."""
    config = replace(SMALL, depth=6, drop_path_rate=0.6)
    model, twin = rough_model(config), timm_twin(timm, config).double().train()
    twin.load_state_dict(model.state_dict(), strict=True)
    uniform = torch.full((config.depth, 2, len(images)), 0.999)

    def record(place: tuple[int, int]) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(_: nn.Module, __: tuple[Tensor], output: Tensor) -> None:
            uniform[place][output.flatten(1).abs().sum(1) == 0] = 0.0

        return hook

    for index, block in enumerate(twin.get_submodule("blocks").children()):
        for which in (0, 1):
            block.get_submodule(f"drop_path{which + 1}").register_forward_hook(record((index, which)))
    torch.manual_seed(0)
    for _ in range(5):
        uniform.fill_(0.999)
        with torch.no_grad():
            theirs = twin(images)
            ours = model(images, model.drop_path_scale(uniform))
        assert (uniform == 0).any(), "timm must have skipped something"
        # Our factors 1 / P(kept) are float32.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))
