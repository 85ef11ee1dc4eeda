"""A wrong value is one line that names the field, the value, and what is allowed."""

import importlib.util
from typing import Any

import pytest

import smallvit.model.config
from smallvit.errors import UsageError


def as_users_get_it() -> type:
    """ModelConfig without the tests' import hook, whose own type check would come before the message."""
    spec = importlib.util.spec_from_file_location("unhooked_model_config", smallvit.model.config.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


ModelConfig = as_users_get_it()

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"image_size": 0}, "model.image_size is 0", "from 1 to 4096"),
    ({"image_size": 32.0}, "model.image_size is 32.0", "whole number"),
    ({"num_classes": 1}, "model.num_classes is 1", "at least 2"),
    ({"num_classes": "10"}, "model.num_classes is '10'", "whole number"),
    ({"patch_size": -4}, "model.patch_size is -4", "at least 1"),
    ({"patch_size": 5}, "model.patch_size is 5", "divide image_size, 32"),
    ({"patch_size": 64}, "model.patch_size is 64", "divide image_size, 32"),
    ({"embed_dim": 0}, "model.embed_dim is 0", "at least 1"),
    ({"embed_dim": None}, "model.embed_dim is None", "at least 1"),
    ({"embed_dim": 1, "num_heads": 1}, "model.embed_dim is 1", "at least 2: the norm of a single channel is 0"),
    ({"embed_dim": 6, "num_heads": 1, "position": "sincos"}, "model.embed_dim is 6", "multiple of 4"),
    ({"depth": 0}, "model.depth is 0", "at least 1"),
    ({"depth": True}, "model.depth is True", "whole number"),
    ({"num_heads": 0}, "model.num_heads is 0", "at least 1"),
    ({"num_heads": 7}, "model.num_heads is 7", "divide embed_dim, 192"),
    ({"num_heads": 384}, "model.num_heads is 384", "divide embed_dim, 192"),
    ({"mlp_ratio": 0.0}, "model.mlp_ratio is 0.0", "at least 1"),
    ({"mlp_ratio": -2}, "model.mlp_ratio is -2", "at least 1"),
    ({"mlp_ratio": float("nan")}, "model.mlp_ratio is nan", "at most"),
    ({"mlp_ratio": float("inf")}, "model.mlp_ratio is inf", "at most"),
    ({"mlp_ratio": 1e307}, "model.mlp_ratio is 1e+307", "at most 1e+12"),
    ({"mlp_ratio": "2"}, "model.mlp_ratio is '2'", "at most"),
    ({"num_cls_tokens": -1}, "model.num_cls_tokens is -1", "at least 0"),
    ({"num_class_attention_blocks": -1}, "model.num_class_attention_blocks is -1", "at least 0"),
    (
        {"num_class_attention_blocks": 2, "num_cls_tokens": 0},
        "model.num_class_attention_blocks is 2",
        "must be 0 where num_cls_tokens is 0",
    ),
    ({"position": "sine"}, "model.position is 'sine'", "did you mean sincos? allowed are learned, sincos, rotary"),
    ({"patch_init": "white"}, "model.patch_init is 'white'", "allowed are random, whiten, whiten-paper"),
    ({"head": "lienar"}, "model.head is 'lienar'", "did you mean linear? allowed are linear, mlp"),
    ({"latent_dim_q": 0}, "model.latent_dim_q is 0", "from 1 to embed_dim, 192, or None"),
    ({"latent_dim_k": 193}, "model.latent_dim_k is 193", "from 1 to embed_dim, 192, or None"),
    ({"latent_dim_v": 2.5}, "model.latent_dim_v is 2.5", "from 1 to embed_dim, 192, or None"),
    ({"num_registers": -1}, "model.num_registers is -1", "at least 0"),
    ({"tokenizer": "cnn"}, "model.tokenizer is 'cnn'", "allowed are patch, conv, conv-pool, shifted"),
    ({"tokenizer": "conv", "patch_size": 1}, "model.patch_size is 1", "power of 2"),
    ({"tokenizer": "conv", "patch_size": 6, "image_size": 24}, "model.patch_size is 6", "power of 2"),
    ({"tokenizer": "conv-pool", "patch_size": 1}, "model.patch_size is 1", "tokenizer conv-pool needs 2, 4, 8"),
    ({"tokenizer": "conv-pool", "tokenizer_depth": 2}, "model.tokenizer_depth is 2", "1 with tokenizer conv-pool"),
    ({"tokenizer_depth": 2}, "model.tokenizer_depth is 2", "it must be 1 with tokenizer patch"),
    ({"tokenizer": "conv", "tokenizer_depth": 0}, "model.tokenizer_depth is 0", "at least 1"),
    ({"tokenizer": "shifted", "patch_size": 1}, "model.patch_size is 1", "at least 2"),
    ({"tokenizer": "conv", "patch_size": 16, "embed_dim": 12}, "model.embed_dim is 12", "needs at least 16"),
    ({"tokenizer": "conv-pool", "embed_dim": 4, "num_heads": 1}, "model.embed_dim is 4", "needs at least 8"),
    (
        {"tokenizer": "conv", "patch_init": "whiten-paper"},
        "model.patch_init is 'whiten-paper'",
        "conv allowed are random, whiten",
    ),
    ({"tokenizer": "shifted", "patch_init": "whiten"}, "model.patch_init is 'whiten'", "shifted allowed are random"),
    ({"qk_norm": "layer"}, "model.qk_norm is 'layer'", "allowed are none, rms"),
    ({"locality": "yes"}, "model.locality is 'yes'", "allowed are none, lsa"),
    (
        {"locality": "lsa", "num_cls_tokens": 0, "patch_size": 32},
        "model.locality is 'lsa'",
        "there must be at least 2",
    ),
    ({"mlp_conv": "full"}, "model.mlp_conv is 'full'", "allowed are none, depthwise"),
    ({"mlp_conv": "depthwise", "depth": 1}, "model.mlp_conv is 'depthwise'", "the only block would not have it"),
    ({"layer_scale": -0.1}, "model.layer_scale is -0.1", "at least 0 and at most 1e+15, or None"),
    ({"layer_scale": float("inf")}, "model.layer_scale is inf", "a number"),
    ({"pooling": "max"}, "model.pooling is 'max'", "allowed are cls, mean, cls+mean"),
    ({"pooling": "mean"}, "model.pooling is 'mean'", "num_cls_tokens must be 0"),
    ({"pooling": "cls+mean", "num_cls_tokens": 0}, "model.pooling is 'cls+mean'", "num_cls_tokens must be at least 1"),
    ({"position": "rotary", "num_heads": 32}, "model.num_heads is 32", "width of a head, 6, that is a multiple of 4"),
    ({"init": "zero"}, "model.init is 'zero'", "allowed are normal, spectral, mimetic"),
    ({"init": "spectral"}, "model.init is 'spectral'", "set latent_dim_q, latent_dim_k or latent_dim_v"),
    ({"init": "mimetic", "latent_dim_k": 48}, "model.init is 'mimetic'", "latent_dim_v of None"),
    ({"drop_path_rate": 1.0}, "model.drop_path_rate is 1.0", "a number, at least 0 and at most 0.999"),
    ({"drop_path_rate": -0.1}, "model.drop_path_rate is -0.1", "a number, at least 0 and at most 0.999"),
    ({"drop_path_rate": float("nan")}, "model.drop_path_rate is nan", "a number, at least 0 and at most 0.999"),
    ({"drop_path_rate": "0.1"}, "model.drop_path_rate is '0.1'", "a number, at least 0 and at most 0.999"),
]


@pytest.mark.parametrize(("fields", "value", "allowed"), WRONG, ids=[wrong[1] for wrong in WRONG])
def test_a_wrong_value_is_named_with_what_is_allowed(fields: dict[str, Any], value: str, allowed: str) -> None:
    with pytest.raises(UsageError) as caught:
        ModelConfig(**fields)
    message = str(caught.value)
    assert message.startswith(value + ":")
    assert allowed in message
    assert "\n" not in message
    assert len(message) < 120


def test_every_field_has_a_wrong_value_here() -> None:
    missing = set(ModelConfig.__dataclass_fields__) - {name for fields, _, _ in WRONG for name in fields}
    assert not missing, f"WRONG, above, has no wrong value of {missing}: see CONTRIBUTING.md, a new field"


def test_the_limits_themselves_are_allowed() -> None:
    ModelConfig(num_classes=2, mlp_ratio=1 / 192, drop_path_rate=0, latent_dim_q=1, latent_dim_k=192)
    ModelConfig(image_size=4, patch_size=4, embed_dim=4, num_heads=4, depth=1, position="sincos", mlp_ratio=1)
    ModelConfig(image_size=4, embed_dim=4, num_heads=1, position="rotary", locality="lsa", layer_scale=0)
    ModelConfig(patch_size=2, tokenizer="conv", num_cls_tokens=0, pooling="mean", num_registers=4)
    ModelConfig(patch_size=2, embed_dim=2, num_heads=1, tokenizer="conv-pool")
    ModelConfig(patch_size=16, embed_dim=16, num_heads=1, tokenizer="conv")
    ModelConfig(depth=1, mlp_conv="depthwise", num_cls_tokens=0)
    ModelConfig(depth=1, mlp_conv="depthwise", num_class_attention_blocks=1)
