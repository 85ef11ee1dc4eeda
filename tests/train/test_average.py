"""The moving average of the weights: torch's own, its start, and that it is what is measured and kept."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from outcomes import assert_measured
from smallvit.augment.config import AugmentConfig
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.device.config import DeviceConfig
from smallvit.fork import read_origin
from smallvit.measured import evaluate
from smallvit.model.config import ModelConfig
from smallvit.run import run
from smallvit.train.average import WeightAverage, decay_at
from smallvit.train.config import CheckpointConfig, OptimConfig, TrainConfig
from smallvit.train.loop import Learner

TOY = RunConfig(
    recipe="toy",
    data=DataConfig(dataset="digits"),
    augment=AugmentConfig(horizontal_flip=0.0),
    model=ModelConfig(patch_size=16, embed_dim=16, depth=1, num_heads=2),
    optim=OptimConfig(lr=1e-2, warmup_epochs=0.0),
    train=TrainConfig(epochs=2, passes_per_epoch=1, batch_size=200, ema_decay=0.9),
    device=DeviceConfig(device="cpu", precision="float32", attention="bmm", num_threads=1),
)


def wandering(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("decay", [0.5, 0.05])
def test_after_the_first_steps_it_is_torchs_average(decay: float) -> None:
    model = nn.Linear(3, 2)
    ours = WeightAverage(model, decay)
    for step in range(12):
        wandering(model, step)
        ours.update(step)
    theirs = AveragedModel(ours.measured, multi_avg_fn=get_ema_multi_avg_fn(decay))
    theirs.n_averaged += 1  # torch's first update would copy
    for step in range(12, 20):
        wandering(model, step)
        ours.update(step)
        theirs.update_parameters(model)
    for mine, other in zip(ours.measured.parameters(), theirs.module.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert not any(parameter.requires_grad for parameter in ours.measured.parameters())


def test_the_first_update_copies_whatever_the_model_was_made_with() -> None:
    """A fork's weights, and what rank 0 sends to the others, come after the model is made."""
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.999)
    wandering(model, 0)
    average.update(0)
    assert torch.equal(average.measured.get_parameter("weight"), model.weight)


def test_the_decay_rises_and_stays_below_its_limit() -> None:
    found = [decay_at(step, 0.9) for step in range(200)]
    assert found[0] == 0
    assert found[1:11] == [(1 + n) / (10 + n) for n in range(10)]
    assert found == sorted(found)
    assert found[-1] == 0.9


def test_without_a_decay_nothing_is_kept_beside_the_model() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.0)
    average.update(0)
    assert average.measured is model
    assert set(average.tensors()) == {"model"}


def test_what_is_saved_and_loaded_is_the_same_to_the_bit() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    for step in range(5):
        wandering(model, step)
        average.update(step)
    saved = copy.deepcopy(average.tensors())
    assert not torch.equal(saved["model"]["weight"], saved["average"]["weight"])
    other = WeightAverage(nn.Linear(3, 2), 0.9)
    other.load(saved)
    for one in (average, other):
        wandering(one.model, 5)
        one.update(5)
    assert torch.equal(average.measured.get_parameter("weight"), other.measured.get_parameter("weight"))


def test_the_average_is_what_a_run_measures_and_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    update = WeightAverage.update

    def noted(self: WeightAverage, step: int) -> None:
        update(self, step)
        seen.append(self.model.get_parameter("head.weight").detach().clone())

    with monkeypatch.context() as patch:
        patch.setattr(WeightAverage, "update", noted)
        averaged = run(TOY, tmp_path / "averaged")
    plain = run(replace(TOY, train=replace(TOY.train, ema_decay=0.0)), tmp_path / "plain")
    kept, last = (load_file(tmp_path / name / "model.safetensors") for name in ("averaged", "plain"))
    assert kept.keys() == last.keys()
    by_hand = seen[0]
    for step, weight in enumerate(seen):
        share = min(0.9, step / (step + 9))
        by_hand = share * by_hand + (1 - share) * weight
    assert len(seen) == 2 * 6
    torch.testing.assert_close(kept["head.weight"], by_hand)
    assert torch.equal(last["head.weight"], seen[-1])
    assert (kept["head.weight"] - last["head.weight"]).abs().max() > 1e-4
    assert averaged.curve[-1].train_loss == plain.curve[-1].train_loss, "the steps are the same"
    assert averaged.test != plain.test
    assert_measured(evaluate(tmp_path / "averaged", "test"), averaged)
    assert torch.equal(read_origin(tmp_path / "averaged").weights["head.weight"], kept["head.weight"])


def test_the_best_weights_are_the_averaged_ones(tmp_path: Path) -> None:
    run(replace(TOY, train=replace(TOY.train, epochs=1), checkpoint=CheckpointConfig(best=True)), tmp_path)
    assert (tmp_path / "best.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_it_follows_in_a_step_that_leaves_the_weights_as_they_are() -> None:
    """Or the first one, left out, would leave in it what the model was made with."""
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.999)
    learner = Learner(lambda *_: torch.zeros(()), [torch.optim.SGD(model.parameters())], average)
    wandering(model, 0)
    learner.update(0, weights=False)
    assert torch.equal(average.measured.get_parameter("weight"), model.weight)
