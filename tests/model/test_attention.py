"""Attention weights, the two implementations, and blocks in which only the CLS tokens attend."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smallvit.model.attention import (
    BACK_ENDS,
    Attention,
    AttentionImplementation,
    attend,
    attention_calls,
    implementations,
)
from smallvit.model.block import Block
from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

BuildModel = Callable[..., VisionTransformer]
BASE = ModelConfig(image_size=16, patch_size=4, num_classes=7, embed_dim=24, depth=2, num_heads=3)
VARIANTS = {
    "plain": BASE,
    "mean": replace(BASE, num_cls_tokens=0),
    "class-attention": replace(BASE, num_cls_tokens=3, num_class_attention_blocks=2),
    "low-rank": replace(BASE, num_cls_tokens=2, num_class_attention_blocks=1, latent_dim_q=5, latent_dim_v=8),
}
QUERY_KEY = {
    name: replace(BASE, num_cls_tokens=2, num_registers=1, num_class_attention_blocks=1, **fields)
    for name, fields in {
        "qk-norm": {"qk_norm": "rms"},
        "locality": {"locality": "lsa"},
        "rotary": {"position": "rotary"},
        "all-three": {"qk_norm": "rms", "locality": "lsa", "position": "rotary", "latent_dim_k": 5},
    }.items()
}


def projections(attention: Attention) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The weights and biases of q, k and v, whatever their form."""
    state = {name: value.detach().numpy() for name, value in attention.state_dict().items()}
    if "qkv.weight" in state:
        return np.split(state["qkv.weight"], 3), np.split(state["qkv.bias"], 3)
    weights, biases = [], []
    for p in "qkv":
        low = f"{p}.up.weight" in state
        weights.append(state[f"{p}.up.weight"] @ state[f"{p}.down.weight"] if low else state[f"{p}.weight"])
        biases.append(state[f"{p}.up.bias"] if low else state[f"{p}.bias"])
    return weights, biases


def naive_attention(attention: Attention, x: np.ndarray, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Loops over images, heads, and tokens that ask: the output before `proj`, and the weights."""
    (wq, wk, wv), (bq, bk, bv) = projections(attention)
    heads, images, tokens, width = attention.num_heads, *x.shape
    size = width // heads
    outputs = np.zeros((images, num_queries, width))
    weights = np.zeros((images, heads, num_queries, tokens))
    for b in range(images):
        for h in range(heads):
            rows = slice(h * size, (h + 1) * size)
            keys = [wk[rows] @ x[b, n] + bk[rows] for n in range(tokens)]
            values = [wv[rows] @ x[b, n] + bv[rows] for n in range(tokens)]
            for m in range(num_queries):
                query = wq[rows] @ x[b, m] + bq[rows]
                scores = np.array([math.exp(sum(query * key) / math.sqrt(size)) for key in keys])
                weights[b, h, m] = scores / scores.sum()
                outputs[b, m, rows] = sum(w * v for w, v in zip(weights[b, h, m], values, strict=True))
    return outputs, weights


def naive_norm(norm: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def naive_linear(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    return x @ layer.get_parameter("weight").detach().numpy().T + layer.get_parameter("bias").detach().numpy()


def naive_gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("implementation", ["bmm", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_returned_weights_are_those_of_a_naive_loop(
    rough_model: BuildModel, images: Tensor, variant: str, implementation: str
) -> None:
    config = VARIANTS[variant]
    model = rough_model(config, attention=implementation)
    seen: list[Tensor] = []
    for block in model.all_blocks:
        block.attn.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    logits, weights = model(images, return_attention=True)
    assert torch.equal(logits, model(images))
    tokens = config.num_cls_tokens + config.num_patches
    asking = [tokens] * config.depth + [config.num_cls_tokens] * config.num_class_attention_blocks
    assert [tuple(w.shape) for w in weights] == [(4, 3, m, tokens) for m in asking]
    for block, x, returned in zip(model.all_blocks, seen, weights, strict=False):
        torch.testing.assert_close(returned.sum(-1), torch.ones_like(returned[..., 0]), rtol=0, atol=1e-13)
        _, wanted = naive_attention(block.attn, x.numpy(), returned.shape[2])
        np.testing.assert_allclose(returned.detach().numpy(), wanted, rtol=0, atol=1e-12)
        assert returned.max() > 3 / tokens, "far from uniform, or the test could not tell"


@pytest.mark.parametrize("variant", VARIANTS | QUERY_KEY)
def test_bmm_and_sdpa_agree_in_values_and_gradients(rough_model: BuildModel, images: Tensor, variant: str) -> None:
    results = []
    for implementation in ("bmm", "sdpa"):
        model = rough_model((VARIANTS | QUERY_KEY)[variant], attention=implementation)
        logits = model(images)
        (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
        results.append((logits.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (one, one_gradients), (other, other_gradients) = results
    torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    for name, gradient in one_gradients.items():
        torch.testing.assert_close(
            gradient, other_gradients[name], rtol=0, atol=1e-10 * float(gradient.abs().max() + 1)
        )


def test_a_named_back_end_is_that_one_or_an_error() -> None:
    q, k, v = torch.randn(3, 2, 3, 9, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attend(q, k, v, "flash"), attend(q, k, v, "bmm"), rtol=1e-5, atol=1e-6)
    for name in ("efficient", "cudnn"):  # which are for GPUs
        with pytest.raises(RuntimeError):
            attend(q, k, v, name)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_agrees_in_values() -> None:
    """Its backward pass is for GPUs alone."""
    q, k, v = torch.randn(3, 2, 3, 9, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attend(q, k, v, "flex"), attend(q, k, v, "bmm"), rtol=1e-5, atol=1e-6)


def test_what_is_measured_goes_forward_and_backward() -> None:
    qkv = torch.randn(2, 5, 3 * 8, generator=torch.Generator().manual_seed(0))
    calls = attention_calls(implementations("cpu", compiled=False, masked=False), qkv, 2, compiled=False)
    assert list(calls) == ["sdpa", "native", "bmm"]
    gradients = [calls[name]() for name in ("sdpa", "bmm")]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0][0].shape == qkv.shape


def test_flex_attention_is_for_compiled_steps_on_a_gpu() -> None:
    assert implementations("cuda", compiled=True, masked=False) == (
        "sdpa",
        "flash",
        "efficient",
        "cudnn",
        "flex",
        "bmm",
    )
    assert "flex" not in implementations("cuda", compiled=False, masked=False)
    assert (
        implementations("cpu", compiled=True, masked=True)
        == implementations("mps", compiled=False, masked=False)
        == ("sdpa", "bmm")
    )
    assert implementations("cpu", compiled=True, masked=False) == ("sdpa", "native", "bmm")


@pytest.mark.parametrize("implementation", ["bmm", "sdpa"])
@pytest.mark.parametrize("config", [VARIANTS["low-rank"], QUERY_KEY["all-three"]], ids=["low-rank", "all-three"])
def test_bfloat16_autocast_stays_near_float32(images: Tensor, config: ModelConfig, implementation: str) -> None:
    model = VisionTransformer(config, attention=implementation, generator=torch.Generator().manual_seed(0)).eval()
    exact = model(images.float())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images.float())
    # bfloat16 keeps 8 bits; a handful of layers lose a few of them.
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.03 * float(exact.detach().abs().max()))


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("widths", [(None, None, None), (5, None, 8)])
def test_a_class_attention_block_is_a_naive_loop_over_the_cls_tokens(
    tokens: int, widths: tuple[int | None, int | None, int | None]
) -> None:
    torch.manual_seed(0)
    block = Block(Attention(24, 3, widths, num_queries=tokens, implementation="bmm"), 24, 2.0).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    x = torch.randn(2, tokens + 6, 24, dtype=torch.float64)
    output = block(x).detach()
    assert torch.equal(output[:, tokens:], x[:, tokens:]), "the patch tokens pass unchanged"
    assert (output[:, :tokens] - x[:, :tokens]).abs().min() > 0
    attended, _ = naive_attention(block.attn, naive_norm(block.norm1, x.numpy()), tokens)
    wanted = x[:, :tokens].numpy() + naive_linear(block.attn.proj, attended)
    hidden = naive_gelu(naive_linear(block.mlp.fc1, naive_norm(block.norm2, wanted)))
    wanted = wanted + naive_linear(block.mlp.fc2, hidden)
    np.testing.assert_allclose(output[:, :tokens].numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("named", "few"),
    [("sdpa", "sdpa"), ("bmm", "bmm"), ("native", "bmm"), *((name, "sdpa") for name in (*BACK_ENDS, "flex"))],
)
def test_where_cls_tokens_alone_ask_no_back_end_is_named(named: AttentionImplementation, few: str) -> None:
    """On a GPU cuDNN refuses a single query."""
    model = VisionTransformer(VARIANTS["class-attention"], attention=named, generator=torch.Generator())
    assert [block.attn.implementation for block in model.all_blocks] == [named] * 2 + [few] * 2


def test_class_attention_comes_after_the_blocks_in_which_every_token_attends(
    rough_model: BuildModel, images: Tensor
) -> None:
    with_blocks = rough_model(replace(BASE, num_cls_tokens=2, num_class_attention_blocks=2))
    without = rough_model(replace(BASE, num_cls_tokens=2))
    without.load_state_dict(with_blocks.state_dict(), strict=False)
    ours, plain = with_blocks.forward_features(images), without.forward_features(images)
    assert torch.equal(ours[:, 2:], plain[:, 2:])
    assert (ours[:, :2] - plain[:, :2]).abs().max() > 0.01
