"""Before something is measured, what was measured before counts as free memory."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from smallvit.bench import cost, floors, sweep
from smallvit.bench.measure import measure_recipe
from smallvit.bench.workload import Workload
from tiny_bench import TINY, quick_measurements


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from quick_measurements(monkeypatch)


def test_what_torch_keeps_on_a_gpu_for_tensors_to_come_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (100, 1000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 700)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda: 200)
    assert floors.memory_available("cuda") == 600


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many workloads there are whenever memory is asked for; each refers to itself, as what is compiled does."""
    made, counts = list[weakref.ref[Workload]](), list[int]()
    own = Workload.__init__

    def init(self: Workload, config: Any) -> None:
        made.append(weakref.ref(self))
        vars(self)["itself"] = self
        own(self, config)

    def available(device: str) -> float:
        counts.append(sum(each() is not None for each in made))
        return 2.0**40

    monkeypatch.setattr(Workload, "__init__", init)
    monkeypatch.setattr(floors, "memory_available", available)
    gc.collect()
    gc.disable()
    yield counts
    gc.enable()


def test_a_recipe_before_is_gone_when_the_next_is_measured(alive: list[int]) -> None:
    for _ in range(3):
        cost.cost(TINY)
    assert alive == [1, 1, 1]


def test_a_point_before_is_gone_when_the_next_is_measured(alive: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SWEEP", {"train.batch_size": (10, 30, 40)})
    config = replace(TINY, device=replace(TINY.device, attention="sdpa"))
    measure_recipe(config, turns=1, sweep_seconds=1e6)
    assert alive == [0, 0, 0]
