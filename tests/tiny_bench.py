"""What the tests of measurements share: a tiny config, short turns, the loss of a step, the scripts of benchmarks/."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from smallvit.bench import machine
from smallvit.bench.workload import TrainingStep
from smallvit.config import EvaluateConfig, RunConfig
from smallvit.data.config import DataConfig
from smallvit.device.config import DeviceConfig
from smallvit.model.config import ModelConfig
from smallvit.train.config import TrainConfig

TINY = RunConfig(
    recipe="tiny",
    data=DataConfig(dataset="cifar10"),
    model=ModelConfig(patch_size=16, embed_dim=16, depth=2, num_heads=2),
    train=TrainConfig(batch_size=20),
    evaluate=EvaluateConfig(batch_size=30),
    device=DeviceConfig(device="cpu", precision="float32", num_threads=1),
)


def quick_measurements(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small matrix products and copies, short turns, one thread."""
    monkeypatch.setitem(machine.GEMM_SIDE, "cpu", 64)
    monkeypatch.setitem(machine.COPY_BYTES, "cpu", 2**16)
    monkeypatch.setattr("smallvit.bench.clock.TURN_SECONDS", 0.002)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loss_of(step: TrainingStep) -> float:
    with torch.no_grad():
        return float(step.learner.loss_of(step.batch))


def benchmark_named(name: str) -> ModuleType:
    """Return a script of benchmarks/, which are no part of the package."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module
