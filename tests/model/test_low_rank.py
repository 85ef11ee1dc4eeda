"""Low-rank projections: merging them, and comparing them with the plain layer."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

BuildModel = Callable[..., VisionTransformer]
SMALL = ModelConfig(image_size=16, patch_size=4, num_classes=7, embed_dim=24, depth=2, num_heads=3)
WIDTHS = [widths for widths in product((None, 5), (None, 8), (None, 24)) if any(widths)]  # every subset, own widths


def low_rank(base: ModelConfig, widths: tuple[int | None, int | None, int | None]) -> ModelConfig:
    return replace(base, latent_dim_q=widths[0], latent_dim_k=widths[1], latent_dim_v=widths[2])


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("class_blocks", [0, 1])
def test_merging_gives_a_plain_model_with_equal_outputs(
    rough_model: BuildModel, images: Tensor, widths: tuple[int | None, int | None, int | None], class_blocks: int
) -> None:
    base = replace(SMALL, num_class_attention_blocks=class_blocks)
    model = rough_model(low_rank(base, widths))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merged = model.merge_low_rank()
    torch.testing.assert_close(merged(images), model(images), rtol=0, atol=1e-11)
    plain = rough_model(base)
    assert {n: v.shape for n, v in merged.state_dict().items()} == {n: v.shape for n, v in plain.state_dict().items()}
    assert merged.config == base
    plain.load_state_dict(merged.state_dict(), strict=True)
    torch.testing.assert_close(plain(images), model(images), rtol=0, atol=1e-11)
    assert before.keys() == model.state_dict().keys(), "the model itself stays as it was"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        merged.head.weight.zero_()
        merged.get_parameter("blocks.0.attn.qkv.weight").zero_()
    assert torch.equal(model.head.weight, before["head.weight"]), "the copy shares no storage"


def test_merging_keeps_what_is_frozen_and_draws_nothing(rough_model: BuildModel) -> None:
    model = rough_model(low_rank(SMALL, (4, None, 8))).eval().requires_grad_(False)
    model.head.requires_grad_(True)
    state = torch.get_rng_state()
    merged = model.merge_low_rank()
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, each in merged.named_parameters() if each.requires_grad] == ["head.weight", "head.bias"]
    assert not any(module.training for module in merged.modules())
    with torch.no_grad():
        trained = model.requires_grad_(True).train().merge_low_rank()
    assert all(each.requires_grad for each in trained.parameters())
    assert all(module.training for module in trained.modules())


def test_merging_leaves_spectral_first_weights_behind(images: Tensor) -> None:
    config = replace(low_rank(SMALL, (5, None, 8)), init="spectral")
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0)).double().eval()
    merged = model.merge_low_rank()
    assert merged.config == SMALL
    torch.testing.assert_close(merged(images), model(images), rtol=0, atol=1e-11)


def test_merging_a_plain_model_changes_nothing(rough_model: BuildModel, images: Tensor) -> None:
    model = rough_model(SMALL)
    merged = model.merge_low_rank()
    assert merged is not model
    assert torch.equal(merged(images), model(images))


def test_the_merged_matrix_is_the_product_of_the_factors_row_by_row(rough_model: BuildModel) -> None:
    model = rough_model(low_rank(SMALL, (5, None, 8)))
    state, merged = model.state_dict(), model.merge_low_rank().state_dict()
    for block in ("blocks.0.attn.", "blocks.1.attn."):
        wanted = torch.cat(
            [
                torch.einsum("or,ri->oi", state[block + "q.up.weight"], state[block + "q.down.weight"]),
                state[block + "k.weight"],
                torch.einsum("or,ri->oi", state[block + "v.up.weight"], state[block + "v.down.weight"]),
            ]
        )
        torch.testing.assert_close(merged[block + "qkv.weight"], wanted)
        bias = torch.cat([state[block + name] for name in ("q.up.bias", "k.bias", "v.up.bias")])
        assert torch.equal(merged[block + "qkv.bias"], bias)


@pytest.mark.parametrize("full", [(24, 24, 24), (24, None, None), (None, 24, 24)])
def test_a_latent_width_of_embed_dim_with_an_identity_down_is_the_plain_layer(
    rough_model: BuildModel, images: Tensor, full: tuple[int | None, int | None, int | None]
) -> None:
    plain, wide = rough_model(SMALL), rough_model(low_rank(SMALL, full))
    state = wide.state_dict()
    for name, value in plain.state_dict().items():
        if ".qkv." not in name:
            state[name] = value
            continue
        prefix, kind = name.split("qkv.")
        for letter, width, part in zip("qkv", full, value.chunk(3), strict=True):
            state[f"{prefix}{letter}.{kind}" if width is None else f"{prefix}{letter}.up.{kind}"] = part
            if width is not None:
                state[f"{prefix}{letter}.down.weight"] = torch.eye(24, dtype=torch.float64)
    wide.load_state_dict(state, strict=True)
    torch.testing.assert_close(wide(images), plain(images), rtol=0, atol=1e-11)
