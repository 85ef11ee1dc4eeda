"""What a GPU does is what a CPU does, within a stated rounding; these run where there is one (`make gpu-bench`).

The compiled paths run in processes of their own: the tests' import hook wraps functions in checks that no graph holds.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from smallvit.config import RunConfig
from smallvit.device.choose import choose
from smallvit.device.config import DeviceConfig
from smallvit.fork import Origin, take_weights
from smallvit.model.attention import AttentionImplementation, attend
from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer
from smallvit.train.muon import Muon

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

LOSSES = """
import sys
from dataclasses import replace
import torch
from smallvit.bench.workload import Workload
from smallvit.device.config import DeviceConfig
from smallvit.recipes import RECIPES

recipe, mode, graphs = sys.argv[1:]
config = RECIPES[recipe]()
depth = min(config.model.depth, 2)
config = replace(
    config,
    model=replace(config.model, embed_dim=48, num_heads=3, depth=depth),
    optim=replace(config.optim, warmup_epochs=0.0),
    train=replace(config.train, batch_size=64),
)

def losses(**device):
    work = Workload(replace(config, device=DeviceConfig(**device)))
    return torch.stack([next(work._states).loss.cpu() for _ in range(12)])

wanted = losses(device="cpu", precision="float32", attention="bmm", num_threads=2)
found = losses(device="cuda", precision="bfloat16", attention="sdpa", compile_mode=mode, cuda_graphs=graphs)
# bfloat16 keeps 8 bits, 0.4 % of a value; the loss is a mean over 64 images, summed in float32.
torch.testing.assert_close(found, wanted, rtol=5e-3, atol=0)
print("close")
"""


@pytest.mark.parametrize(
    ("recipe", "mode", "graphs"),
    [
        *((recipe, "default", graphs) for recipe in ("baseline", "best", "laptop") for graphs in ("on", "off")),
        ("best", "reduce-overhead", "off"),
    ],
)
def test_the_fast_path_on_cuda_follows_a_cpus_plain_losses(recipe: str, mode: str, graphs: str) -> None:
    command = [sys.executable, "-c", LOSSES, recipe, mode, graphs]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "close\n"


PIXELS = """
import torch
from smallvit import rng
from smallvit.augment import AugmentConfig, apply_augment, sample_augment
from smallvit.augment.pipeline import compiled_augment

labels = torch.arange(256) % 10
settings = dict(mean=(0.0,) * 3, std=(1 / 255,) * 3, num_classes=10, label_smoothing=0.0)
on_gpu = compiled_augment(on_gpu=True)
for policy, size in (("autoaugment-cifar10", 32), ("trivialaugment", 32), ("trivialaugment", 28)):
    images = torch.randint(0, 256, (256, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:128] = images[:128] // 2 + 40
    torch.compiler.reset()
    for step in range(10):
        params = sample_augment(AugmentConfig(policy=policy), rng.generator(0, "augment", step), 256, (size, size))
        wanted, _ = apply_augment(images, labels, params, **settings)
        found, _ = on_gpu(images.cuda(), labels.cuda(), params.to("cuda"), **settings)
        assert torch.equal(found.cpu().round(), wanted.round()), policy
print("the same")
"""


def test_a_compiled_augmentation_on_cuda_has_the_cpus_pixels() -> None:
    done = subprocess.run([sys.executable, "-c", PIXELS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "the same\n"


FORECAST = """
import gc
from smallvit.device.choose import timed
from smallvit.bench.pace import measured_pace
from smallvit.bench.workload import Workload
from smallvit.recipes import RECIPES

for name in ("best", "baseline"):  # each of another shape, with attention measured
    work = Workload(RECIPES[name]())
    told = measured_pace(work).step_seconds
    taken = timed(work.pipeline, "cuda", 300)
    assert work.session.choices.precision == "bfloat16", (name, str(work.session.choices))
    assert 0.8 < told / taken < 1.25, (name, told, taken)
    del work
    gc.collect()
print("foreseen")
"""


def test_a_few_steps_on_cuda_tell_how_long_many_take() -> None:
    done = subprocess.run([sys.executable, "-c", FORECAST], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "foreseen\n"


def test_float32_convolutions_on_cuda_are_float32() -> None:
    config = DeviceConfig(device="cuda", precision="float32", attention="sdpa", convolution="torch")
    choose(config, rows=1, embed_dim=1, attention=_unasked, convolution=_unasked)
    draws = torch.Generator().manual_seed(0)
    images, weights = (torch.randn(*size, generator=draws) for size in ((64, 192, 16, 16), (192, 192, 3, 3)))
    exact = torch.nn.functional.conv2d(images.double(), weights.double())
    found = torch.nn.functional.conv2d(images.cuda(), weights.cuda()).cpu()
    assert (found - exact).norm() / exact.norm() < 1e-5  # TF32 keeps 10 bits of 23: 3e-4


def _unasked(*_: object) -> NoReturn:
    raise AssertionError("it was named")


@pytest.mark.parametrize("name", ["sdpa", "flash", "efficient", "cudnn", "bmm"])
def test_every_attention_on_cuda_is_that_of_two_products_in_float64(name: AttentionImplementation) -> None:
    draws = torch.Generator().manual_seed(0)
    parts = [torch.randn(8, 12, 65, 16, generator=draws, dtype=torch.float64) for _ in range(3)]
    exact = [part.clone().requires_grad_() for part in parts]
    attend(*exact, "bmm").square().sum().backward()
    half = [part.to("cuda", torch.bfloat16).requires_grad_() for part in parts]
    attend(*half, name).float().square().sum().backward()
    for ours, theirs in zip(half, exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        error = (ours.grad.cpu().double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 2e-2, f"{name}: {float(error):.2g}"


def test_muon_on_cuda_is_torchs() -> None:
    def after(kind: type[torch.optim.Optimizer], **options: object) -> list[torch.Tensor]:
        draws = torch.Generator().manual_seed(0)
        sizes = [(96, 32), (96, 32), (32, 32)]
        weights = [torch.nn.Parameter(torch.randn(*size, generator=draws).cuda()) for size in sizes]
        optimizer = kind(weights, lr=0.02, weight_decay=0.1, **options)  # pyright: ignore[reportCallIssue]
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(*weight.shape, generator=draws).cuda()
            optimizer.step()
        return [weight.detach() for weight in weights]

    ours, theirs = after(Muon, dtype=torch.bfloat16), after(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    # A step moves a value by some 0.004; bfloat16 products in another order change that by up to a few hundredths.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-4)


@pytest.mark.parametrize("names", [("new", "9", "0"), ("a", "b")], ids=["some known", "none"])
def test_a_fork_on_cuda_takes_the_last_layers_rows_from_a_file(names: tuple[str, ...], tmp_path: Path) -> None:
    config = RunConfig(model=ModelConfig(embed_dim=16, depth=1, num_heads=2, num_classes=10))
    theirs = VisionTransformer(config.model, generator=torch.Generator().manual_seed(1)).state_dict()
    origin = Origin(folder=tmp_path, weights=theirs, config=config, class_names=tuple("0123456789"))
    own = replace(config.model, num_classes=len(names))
    model = VisionTransformer(own, generator=torch.Generator().manual_seed(0)).to("cuda")
    take_weights(model, origin, config, names)
    for row, name in enumerate(names):
        if name.isdigit():
            assert torch.equal(model.state_dict()["head.weight"][row].cpu(), theirs["head.weight"][int(name)])
    assert model.head.weight.device.type == "cuda"
