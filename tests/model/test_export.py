"""Models leave for other programs whole: exported for any batch, copied, refused what they were not made for."""

import copy
import io
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

PLAIN = ModelConfig(image_size=8, num_classes=5, patch_size=2, embed_dim=16, depth=2, num_heads=2)
MODELS = {
    "CLS tokens and registers": replace(PLAIN, num_cls_tokens=2, num_registers=1),
    "class attention": replace(PLAIN, num_cls_tokens=2, num_class_attention_blocks=1),
    "no prefix": replace(PLAIN, num_cls_tokens=0, tokenizer="conv-pool", mlp_conv="depthwise", pooling="mean"),
    "masked and rotary": replace(PLAIN, locality="lsa", position="rotary", qk_norm="rms"),
}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_an_exported_model_takes_any_batch(config: ModelConfig) -> None:
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0)).eval()
    images = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (images[:2],), dynamic_shapes={"images": {0: batch}}).module()
    for count in (1, 2, 7):
        torch.testing.assert_close(exported(images[:count]), model(images[:count]))


def test_images_of_another_shape_are_refused() -> None:
    """Some would have as many tokens, and some would be cut to size, without a word."""
    shapes = [(2, 3, 16, 16), (2, 3, 4, 16), (2, 3, 9, 9), (2, 1, 8, 8)]
    # Without the tests' run-time checker, which would speak first.
    code = f"""
import torch
from smallvit.errors import UsageError
from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer
model = VisionTransformer(ModelConfig(image_size=8, num_classes=5, patch_size=2, embed_dim=16, depth=1, num_heads=2))
for shape in {shapes}:
    try:
        model(torch.zeros(shape))
    except UsageError as error:
        print(error)"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [f"images have shape {shape}, expected (batch, 3, 8, 8)" for shape in shapes]


def test_a_copy_and_a_pickle_answer_alike() -> None:
    model = VisionTransformer(MODELS["class attention"]).eval()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    images = torch.randn(2, 3, 8, 8)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(images), model(images))
