"""The loss against torch's, the loop against one written by hand."""

import copy
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from smallvit.augment.pipeline import smooth
from smallvit.errors import SmallvitError
from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer
from smallvit.train.average import WeightAverage
from smallvit.train.config import LossName, OptimConfig
from smallvit.train.loop import Batch, Learner, NonFiniteError, drop_path_uniform, fit
from smallvit.train.losses import LOSSES, LogitAdjustment, soft_binary_cross_entropy, soft_cross_entropy
from smallvit.train.optim import build_optimizers


@settings(max_examples=40)
@given(st.integers(1, 20), st.integers(2, 12), st.floats(0, 0.9), st.integers(0, 1000))
def test_soft_cross_entropy_equals_torchs(n: int, classes: int, smoothing: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator)
    labels = torch.randint(classes, (n,), generator=generator)
    smooth = F.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(soft_cross_entropy(logits, smooth), expected)
    mixed = torch.rand(n, classes, generator=generator).softmax(-1)
    torch.testing.assert_close(soft_cross_entropy(logits, mixed), F.cross_entropy(logits, mixed))


@settings(max_examples=20)
@given(st.integers(1, 20), st.integers(2, 12), st.integers(0, 1000))
def test_soft_binary_cross_entropy_is_the_formula(n: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    targets = torch.rand(n, classes, generator=generator).softmax(-1)
    p = logits.sigmoid()
    wanted = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum() / (n * classes)
    torch.testing.assert_close(soft_binary_cross_entropy(logits.float(), targets), wanted.float())
    assert LOSSES["bce"] is soft_binary_cross_entropy
    assert LOSSES["cross-entropy"] is soft_cross_entropy


def test_every_loss_that_a_config_can_name_is_there() -> None:
    assert set(LOSSES) == set(get_args(LossName))


@pytest.mark.parametrize(("name", "expected"), [("cross-entropy", 4.54e-5), ("bce", 6.715e-3)])
def test_the_loss_of_bfloat16_logits_is_float32(name: LossName, expected: float) -> None:
    logits = torch.tensor([[5.0, -5.0]]).bfloat16()
    loss = LOSSES[name](logits, torch.tensor([[1.0, 0.0]]))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(expected, rel=1e-3)


CLASSES = st.lists(st.integers(1, 500), min_size=2, max_size=12)


@given(CLASSES, st.floats(0, 0.9), st.floats(0, 10), st.integers(0, 1000))
def test_the_logit_adjustment_is_the_formula(counts: list[int], smoothing: float, times: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    loss = LogitAdjustment(labels, len(counts), times=times, label_smoothing=smoothing, device="cpu")
    logits, one_hot = torch.randn(len(labels), len(counts), generator=generator), F.one_hot(labels).double()
    mixed = 0.7 * one_hot + 0.3 * one_hot[torch.randperm(len(labels), generator=generator)]
    shares = mixed.mean(0)
    wanted = F.cross_entropy(logits + times * shares.log(), (1 - smoothing) * mixed + smoothing * shares)
    torch.testing.assert_close(loss(logits, smooth(mixed.float(), smoothing)), wanted.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_with_it_a_model_answers_as_if_the_classes_were_as_frequent(smoothing: float) -> None:
    """Four kinds of images, and of each class what part of its images is of which: the logits of each kind are free."""
    of_class = torch.tensor([[0.7, 0.1, 0.2, 0.0], [0.0, 0.3, 0.7, 0.0], [0.0, 0.6, 0.0, 0.4]])
    counts = (of_class * torch.tensor([9000, 900, 100])[:, None]).round().int().flatten()
    classes, kinds = torch.arange(3).repeat_interleave(4), torch.arange(4).repeat(3)
    classes, kinds = classes.repeat_interleave(counts), kinds.repeat_interleave(counts)
    targets = smooth(F.one_hot(classes).float(), smoothing)
    adjusted = LogitAdjustment(classes, 3, times=1.0, label_smoothing=smoothing, device="cpu")

    def answers(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[int]:
        logits = torch.zeros(4, 3, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            value = loss(logits[kinds], targets)
            value.backward()
            return value

        optimizer.step(closure)
        return logits.argmax(-1).tolist()

    assert answers(soft_cross_entropy) == [0, 0, 0, 2]
    assert answers(adjusted) == of_class.argmax(0).tolist() == [0, 2, 1, 2]


def test_adjusted_logits_lack_the_shares_that_they_were_not_given_and_those_of_the_images_to_answer() -> None:
    """Of a class that these have not, all of it; it may be the last."""
    adjusted = LogitAdjustment(torch.tensor([0, 0, 0, 1, 2, 2]), 3, times=3.0, label_smoothing=0.1, device="cpu")
    expected = 2 * torch.tensor([1 / 2, 1 / 6, 1 / 3]).double().log() + torch.tensor([1 / 4, 3 / 4, 0]).double().log()
    torch.testing.assert_close(adjusted.lacking(torch.tensor([0, 1, 1, 1])), expected, rtol=1e-6, atol=0)


def small_model() -> VisionTransformer:
    config = ModelConfig(num_classes=3, image_size=8, embed_dim=8, depth=2, num_heads=2)
    return VisionTransformer(config, generator=torch.Generator().manual_seed(0))


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(4, 3, 8, 8, generator=generator)
    targets = torch.rand(4, 3, generator=generator).softmax(-1)
    return Batch(images, targets, torch.ones(2, 2, 4))


@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_fit_equals_a_loop_written_by_hand(clip_norm: float | None) -> None:
    ours, theirs = small_model(), small_model()
    config = OptimConfig(lr=3e-3, weight_decay=0.1)

    def loss(images: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        return soft_cross_entropy(ours(images, scale), targets)

    learner = Learner(loss, build_optimizers(ours, config), WeightAverage(ours, 0.0), clip_norm=clip_norm)
    rates = [1e-3, 3e-3, 2.5e-3, 1.5e-3, 1e-4]
    states = list(fit(learner, batch, rate=rates.__getitem__, total_steps=5))

    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    norms: list[float] = []
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        data = batch(step)
        optimizer.zero_grad()
        value = F.cross_entropy(theirs(data.images, data.branch_scale), data.targets)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm or torch.inf)
        optimizer.step()
        assert states[step].step == step
        norms.append(float(norm))
        assert states[step].lr == optimizer.param_groups[0]["lr"]
        torch.testing.assert_close(states[step].loss, value.detach())
    assert [state.gradient_norm for state in states] == pytest.approx(norms, rel=1e-5)
    assert min(norms) < 0.3 < max(norms)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_a_parameter_that_nothing_uses_is_named_before_the_first_update() -> None:
    model = small_model()
    model.blocks[1].attn.gate = torch.nn.Linear(8, 8)
    learner = Learner(
        lambda images, targets, scale: soft_cross_entropy(model(images, scale), targets),
        build_optimizers(model, OptimConfig()),
        WeightAverage(model, 0.0),
    )
    first = copy.deepcopy(model.state_dict())
    said = r"no gradient reaches blocks\.1\.attn\.gate\.weight, blocks\.1\.attn\.gate\.bias: the model's forward pass"
    with pytest.raises(SmallvitError, match=said):
        next(fit(learner, batch, rate=lambda _: 1e-3, total_steps=9))
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    model.blocks[1].attn.gate.requires_grad_(False)
    next(fit(learner, batch, rate=lambda _: 1e-3, total_steps=9))


def test_the_gradients_of_every_optimiser_are_looked_at() -> None:
    """Of Muon's two, AdamW has the norms."""
    model = small_model()
    model.blocks[0].norm1.bias.register_hook(lambda gradient: gradient * torch.nan)
    learner = Learner(
        lambda images, targets, scale: soft_cross_entropy(model(images, scale), targets),
        build_optimizers(model, OptimConfig(optimizer="muon")),
        WeightAverage(model, 0.0),
    )
    with pytest.raises(NonFiniteError, match="the gradient's norm is nan"):
        next(fit(learner, batch, rate=lambda _: 1e-3, total_steps=9))


def test_fit_is_lazy_and_leaves_no_graph_or_gradients_behind() -> None:
    model = small_model()
    first = copy.deepcopy(model.state_dict())
    seen: list[int] = []

    def watched(step: int) -> Batch:
        seen.append(step)
        return batch(step)

    def loss(images: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        return soft_cross_entropy(model(images, scale), targets)

    learner = Learner(loss, build_optimizers(model, OptimConfig()), WeightAverage(model, 0.0))
    states = fit(learner, watched, rate=lambda _: 1e-3, total_steps=9)
    assert seen == []
    state = next(states)
    assert seen == [0]
    assert not state.loss.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert any(not torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_drop_path_draws_are_a_function_of_seed_and_step() -> None:
    draws = drop_path_uniform(3, 5, 4, 100)
    assert draws.shape == (4, 2, 100)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert torch.equal(draws, drop_path_uniform(3, 5, 4, 100))
    assert not torch.equal(draws, drop_path_uniform(3, 6, 4, 100))
    assert not torch.equal(draws, drop_path_uniform(4, 5, 4, 100))
