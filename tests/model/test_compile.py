"""torch.compile takes the whole forward pass as one graph and computes the same.

In a process of its own: the import hook of the tests wraps every function in checks that no graph can hold.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import torch
from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

generator = torch.Generator().manual_seed(0)
small = dict(image_size=16, num_classes=5, embed_dim=32, num_heads=2, depth=2)
everything = dict(num_cls_tokens=2, num_class_attention_blocks=1, latent_dim_q=8, position="sincos", head="mlp")
images = torch.randn(3, 3, 16, 16, generator=generator)


def check(config, backend, attention):
    torch.compiler.reset()
    model = VisionTransformer(config, attention=attention, generator=generator)
    scale = model.drop_path_scale(torch.rand(len(model.all_blocks), 2, 3, generator=generator))
    fast = torch.compile(model, fullgraph=True, backend=backend)
    results = []
    for forward in (model, fast):
        model.zero_grad()
        logits = forward(images, scale)
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            fast(images, return_attention=True), model(images, return_attention=True), rtol=1e-5, atol=1e-6
        )
    model.train()
    assert fast(images).isfinite().all()  # draws inside the graph


check(ModelConfig(**small, **everything), "aot_eager", "sdpa")
check(ModelConfig(**small), "aot_eager", "bmm")
if sys.argv[1] == "compiler":
    torch.compiler.reset()
    model = VisionTransformer(ModelConfig(**small, **everything), attention="bmm", generator=generator).eval()
    with torch.no_grad():
        fast = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(fast(images), model(images), rtol=1e-5, atol=1e-6)
print("equal")
"""


def test_a_compiled_model_equals_the_eager_one(tmp_path: Path) -> None:
    # Graph capture and its gradients are checked everywhere, generated code where there is a C++ compiler.
    compiler = "compiler" if shutil.which("g++") or shutil.which("clang++") else "none"
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, compiler], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "equal\n"
