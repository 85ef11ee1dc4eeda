"""Steps that are recorded, with a graph that runs its function again in the place of a GPU's, which no CPU has.

What a real graph does is for tests/device/test_cuda.py.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from smallvit import rng
from smallvit.augment import AugmentConfig, apply_augment, sample_augment
from smallvit.step_batch import RecordedApply
from smallvit.train.average import WeightAverage
from smallvit.train.graphs import PLAIN_CALLS, Recorded
from smallvit.train.loop import Batch, Learner, StepState, fit
from smallvit.train.muon import Muon
from smallvit.train.schedule import warmup_cosine

BAD = 5
"""The step whose images are no numbers."""


class Again:
    """As a graph: the function works on the arguments held, and its results lie where those of the first launch do."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded

    def replay(self) -> None:
        results = self.recorded._function(*self.recorded._held)
        if self.recorded._results:
            for held, new in zip(self.recorded._results, results, strict=True):
                held.copy_(new)
        else:
            self.recorded._results = results


@pytest.fixture(autouse=True)
def graphs_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(self: Recorded, arguments: tuple[Tensor | None, ...]) -> Again:
        self._held = [None if given is None else given.clone() for given in arguments]
        return Again(self)

    monkeypatch.setattr(Recorded, "_record", record)


def test_a_recorded_function_sees_the_arguments_of_each_call() -> None:
    seen: list[Tensor] = []

    def function(x: Tensor, nothing: None, y: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x)
        return x + y, x * y

    recorded = Recorded(function)
    for call in range(PLAIN_CALLS + 3):
        total, product = recorded(torch.tensor(call), None, torch.tensor(10))
        assert (int(total), int(product)) == (call + 10, call * 10)
    assert len({x.data_ptr() for x in seen[PLAIN_CALLS:]}) == 1, "a graph reads where its first arguments lay"


def test_what_changes_by_step_and_is_no_tensor_is_refused() -> None:
    """A graph would go on with the first one, and nobody would see it."""
    config = AugmentConfig(policy="trivialaugment", erase_probability=0.5, cutmix_alpha=1.0)
    images, labels = torch.arange(8 * 3 * 256).view(8, 3, 16, 16).to(torch.uint8), torch.arange(8)
    settings = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "num_classes": 8, "label_smoothing": 0.1}
    recorded = RecordedApply(apply_augment)
    for step in range(PLAIN_CALLS + 3):
        draws = sample_augment(config, rng.generator(0, "augment", step), 8, (16, 16))
        for ours, plain in zip(
            recorded(images, labels, draws, **settings), apply_augment(images, labels, draws, **settings), strict=True
        ):
            assert torch.equal(ours, plain)
    assert draws.erase is not None
    with pytest.raises(
        RuntimeError, match=r"erase\.fill is 'mean', was 'raw-mean': what changes by step must be a tensor"
    ):
        recorded(images, labels, replace(draws, erase=replace(draws.erase, fill="mean")), **settings)
    with pytest.raises(RuntimeError, match=r"policy\.used is None, was "):
        recorded(images, labels, replace(draws, policy=None), **settings)
    with pytest.raises(RuntimeError, match=r"label_smoothing is 0\.2, was 0\.1"):
        recorded(images, labels, draws, **settings | {"label_smoothing": 0.2})


def states(*, graphs: bool) -> list[StepState]:
    draws = torch.Generator().manual_seed(0)
    first, last = torch.nn.Linear(12, 8), torch.nn.Linear(8, 3)
    model = torch.nn.Sequential(first, torch.nn.GELU(), last)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=draws)

    def rate() -> float | Tensor:
        return torch.tensor(0.0) if graphs else 0.0

    def batch(step: int) -> Batch:
        given = torch.Generator().manual_seed(step)
        images = torch.randn(16, 3, 2, 2, generator=given) * (torch.nan if step == BAD else 1.0)
        return Batch(images, torch.rand(16, 3, generator=given).softmax(-1), None)

    def loss(images: Tensor, targets: Tensor, _: Tensor | None) -> Tensor:
        return F.cross_entropy(model(images.flatten(1)), targets)

    rest = [first.bias, *last.parameters()]
    optimizers: list[torch.optim.Optimizer] = [
        Muon([first.weight], lr=rate(), weight_decay=0.1, dtype=torch.float32),
        torch.optim.AdamW(rest, lr=rate(), fused=True),
    ]
    learner = Learner(loss, optimizers, WeightAverage(model, 0.9), graphs=graphs, clip_norm=1e-3)
    found: Iterator[StepState] = fit(
        learner,
        batch,
        rate=lambda step: 0.05 * warmup_cosine(step, warmup_steps=2.0, total_steps=9),
        total_steps=9,
        max_skips=1,
        prefetch=graphs,
    )
    return list(found)


def test_recorded_steps_are_plain_ones_to_rounding_and_leave_out_what_is_no_number() -> None:
    plain, recorded = states(graphs=False), states(graphs=True)
    assert [state.skipped for state in recorded] == [step == BAD for step in range(9)]
    # Read at the end: each loss is a value of its own, not the place where a graph leaves the newest. The rate is a
    # float32 in one and a float64 in the other.
    for ours, theirs in zip(recorded, plain, strict=True):
        torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=0, equal_nan=True)
    assert len({float(state.loss) for state in plain if not state.skipped}) == 8
