"""torch.compile takes the whole forward pass as one graph and computes the same."""

import shutil

import pytest

from programs import failures

PREPARE = """
import torch
from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

generator = torch.Generator().manual_seed(0)
images = torch.randn(3, 3, 16, 16, generator=generator)
small = dict(image_size=16, num_classes=5, embed_dim=32, num_heads=2, depth=2)
close = torch.testing.assert_close
"""
ONE_GRAPH = """
everything = dict(num_cls_tokens=2, num_class_attention_blocks=1, latent_dim_q=8, position="sincos", head="mlp")
if variants:
    everything = everything | dict(
        depth=1, num_registers=1, position="rotary", tokenizer="conv", mlp_conv="depthwise", pooling="cls+mean",
        qk_norm="rms", locality="lsa", layer_scale=0.1,
    )
model = VisionTransformer(ModelConfig(**(small | everything)), generator=generator)
scale = model.drop_path_scale(torch.rand(len(model.all_blocks), 2, 3, generator=generator))
fast = torch.compile(model, fullgraph=True, backend="aot_eager")
results = []
for forward in (model, fast):
    model.zero_grad()
    logits = forward(images, scale)
    logits.square().sum().backward()
    results.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
close(results[0], results[1], rtol=1e-4, atol=1e-5)
assert fast(images).isfinite().all()  # draws inside the graph
with torch.no_grad():
    model.eval()
    close(fast(images, return_attention=True), model(images, return_attention=True), rtol=1e-5, atol=1e-6)
"""
GENERATED_CODE = """
model = VisionTransformer(ModelConfig(**small), attention="bmm", generator=generator).eval()
with torch.no_grad():
    close(torch.compile(model, fullgraph=True)(images), model(images), rtol=1e-5, atol=1e-6)
"""


@pytest.fixture(scope="module")
def failed() -> dict[str, str]:
    one_graph = {f"variants: {chosen}": f"{PREPARE}variants = {chosen}{ONE_GRAPH}" for chosen in (False, True)}
    return failures({**one_graph, "generated code": PREPARE + GENERATED_CODE})


@pytest.mark.parametrize("variants", [False, True])
def test_every_kind_of_module_goes_into_one_graph_with_equal_values_and_gradients(
    variants: bool, failed: dict[str, str]
) -> None:
    assert failed[f"variants: {variants}"] == ""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
def test_generated_code_gives_the_baselines_values(failed: dict[str, str]) -> None:
    assert failed["generated code"] == ""
