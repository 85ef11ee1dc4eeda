"""Counts and calibration against scikit-learn and plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from smallvit.commands.inspect import FEW_TO_CALIBRATE, OF_FEW_IMAGES
from smallvit.evaluate import confidences, confusion, fit_temperature, measure, predict
from smallvit.evaluate import probabilities as smallvit_probabilities
from smallvit.report.html import ECE_NOTE


def drawn(seed: int, n: int, classes: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(0, spread, (n, classes)).astype(np.float32))
    return logits, torch.from_numpy(random.integers(0, classes, n))


def probabilities(logits: torch.Tensor) -> np.ndarray:
    exponents = np.exp(logits.double().numpy() - logits.double().numpy().max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


def calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Guo et al., 2017: the bins are ((m - 1) / M, m / M]."""
    p = probabilities(logits)
    confidence, right = p.max(1), p.argmax(1) == labels.numpy()
    total = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if inside.any():
            total += inside.sum() / len(labels) * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("n", [1, 255, 256, 1000])
def test_what_is_worked_out_a_part_at_a_time_is_that_of_all_at_once_bit_for_bit(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smallvit.evaluate._VALUES", 256 * 37)
    logits, labels = drawn(0, n, 37, 3.0)
    whole = (logits.double() / 1.3).log_softmax(-1)
    assert measure(logits, labels, 1.3).negative_log_likelihood == float(-whole.gather(1, labels[:, None]).mean())
    assert torch.equal(confidences(logits, 1.3), smallvit_probabilities(logits, 1.3).amax(-1))


def test_a_thousand_classes_take_no_copies_of_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several copies in float64 were made at the end of a run, where memory that is lacking costs the most."""
    logits, labels = drawn(0, 2000, 1000, 3.0)
    most = 0

    def double(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal most
        most = max(most, tensor.numel())
        return tensor.to(torch.float64)

    monkeypatch.setattr(torch.Tensor, "double", double)
    measure(logits, labels)
    fit_temperature(logits, labels)
    confidences(logits)
    assert len(logits) < most < logits.numel() / 4


@pytest.mark.parametrize(("n", "percent"), [(10_000, 1), (400, 5), (60, 14)])
def test_true_probabilities_have_the_calibration_error_that_pages_tell(n: int, percent: int) -> None:
    """Of models whose images have classes that are drawn by the models' own probabilities."""
    generator = torch.Generator().manual_seed(0)

    def error(sharpness: float, least: float, most: float) -> float:
        logits = sharpness * torch.randn(n, 10, generator=generator)
        labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        found = measure(logits, labels)
        assert least < found.accuracy < most or n < 100
        return 100 * found.calibration_error

    errors = [error(sharpness, 0.45, 0.87) for sharpness in (2.0, 3.0, 4.0, 6.0) * 5]
    assert float(np.mean(errors)) == pytest.approx(percent, rel=0.2)
    assert f"some {percent} % o" in ECE_NOTE
    assert n >= FEW_TO_CALIBRATE or f"some {percent} % on {n}" in OF_FEW_IMAGES
    sure = [error(60.0, 0.94, 1.0) for _ in range(20)]
    assert float(np.mean(sure)) == pytest.approx(percent / 4, rel=0.5)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 200), st.integers(2, 12), st.sampled_from([0.01, 1.0, 5.0, 50.0]))
def test_metrics_equal_the_oracles(seed: int, n: int, classes: int, spread: float) -> None:
    logits, labels = drawn(seed, n, classes, spread)
    metrics = measure(logits, labels)
    predicted = logits.numpy().argmax(1)
    assert metrics.count == n
    assert metrics.correct == accuracy_score(labels, predicted, normalize=False)
    assert metrics.accuracy == accuracy_score(labels, predicted)
    expected = confusion_matrix(labels, predicted, labels=range(classes))
    assert confusion(logits, labels).tolist() == expected.tolist()
    assert int(confusion(logits, labels).trace()) == metrics.correct
    assert metrics.calibration_error == pytest.approx(calibration_error(logits, labels), abs=1e-9)
    if spread <= 5:  # log_loss clips at the smallest probabilities
        oracle = log_loss(labels, probabilities(logits), labels=range(classes))
        assert metrics.negative_log_likelihood == pytest.approx(oracle, rel=1e-9)


@pytest.mark.parametrize("true", [0.3, 0.7, 1.0, 4.0])
def test_the_temperature_of_labels_that_were_drawn_at_one_is_found(true: float) -> None:
    logits = drawn(7, 20_000, 6, 2.0)[0]
    labels = torch.multinomial((logits / true).softmax(-1), 1, generator=torch.Generator().manual_seed(5)).flatten()
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.05)
    assert found == pytest.approx(scikit_temperature(logits.numpy(), labels.numpy()), rel=1e-2)
    before, after = measure(logits, labels), measure(logits / found, labels)
    assert after.correct == before.correct
    assert after.negative_log_likelihood <= before.negative_log_likelihood + 1e-5
    assert after.calibration_error < 0.02


def test_the_temperature_of_adjusted_logits_leaves_the_classes_frequency_out() -> None:
    logits = drawn(7, 20_000, 6, 2.0)[0]
    adjustment = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.02]).double().log()
    p = (logits / 0.5 + adjustment).softmax(-1)
    labels = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(5)).flatten()
    assert fit_temperature(logits, labels, adjustment) == pytest.approx(0.5, rel=0.05)
    assert fit_temperature(logits, labels) > 0.6
    absent = adjustment.clone()
    absent[0] = -torch.inf
    others = labels != 0
    assert fit_temperature(logits[others], labels[others], absent) == pytest.approx(0.5, rel=0.05)


def scikit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """What scikit-learn divides the scores of a classifier by whose scores are its inputs."""
    classes = logits.shape[1]
    scores = LogisticRegression().fit(logits, labels)
    scores.coef_, scores.intercept_ = np.eye(classes), np.zeros(classes)
    fitted = CalibratedClassifierCV(FrozenEstimator(scores), method="temperature").fit(logits, labels)
    p = fitted.predict_proba(logits[:1])[0]
    return float((logits[0, 0] - logits[0, 1]) / np.log(p[0] / p[1]))


@pytest.mark.parametrize(
    ("n", "wrong", "least", "most"), [(1, 0, 0.9, 1), (2, 1, 1, 1.2), (9, 0, 0.7, 0.9), (99, 0, 0.4, 0.7)]
)
def test_a_few_images_change_little(n: int, wrong: int, least: float, most: float) -> None:
    logits, labels = torch.zeros(n, 10), torch.arange(n) % 10
    logits[torch.arange(n), labels] = 3.0
    logits[:wrong] = logits[:wrong].roll(1, dims=1)
    assert least < fit_temperature(logits, labels) < most


@pytest.mark.parametrize(("scale", "found"), [(1e-3, 0.02), (1e3, 50.0)])
def test_a_temperature_has_its_bounds(scale: float, found: float) -> None:
    logits, labels = drawn(7, 20_000, 6, 2.0)
    labels[::2] = logits[::2].argmax(-1)
    assert fit_temperature(scale * logits, labels) == pytest.approx(found, rel=0.01)


def test_logits_that_tell_nothing_are_left_as_they_are() -> None:
    assert fit_temperature(torch.zeros(50, 3), torch.arange(50) % 3) == pytest.approx(1, abs=1e-4)


@given(st.permutations(range(12)))
def test_the_order_of_images_does_not_matter(order: list[int]) -> None:
    logits, labels = drawn(3, 12, 4, 2.0)
    one, other = measure(logits, labels), measure(logits[order], labels[order])
    assert one.correct == other.correct
    assert one.negative_log_likelihood == pytest.approx(other.negative_log_likelihood, rel=1e-12)
    assert one.calibration_error == pytest.approx(other.calibration_error, rel=1e-9)


def test_a_tie_counts_for_the_first_class_everywhere() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert measure(logits, torch.tensor([0, 1])).correct == 1
    assert confusion(logits, torch.tensor([0, 1])).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_logits_that_differ_by_less_than_their_softmax_can_show_still_count() -> None:
    logits = torch.tensor([[0.0, 1e-30]])
    assert measure(logits, torch.tensor([1])).correct == 1
    assert confusion(logits, torch.tensor([1])).trace() == 1


def test_far_logits_give_finite_numbers() -> None:
    metrics = measure(torch.tensor([[-1e30, 1e30], [1e30, -1e30]]), torch.tensor([0, 0]))
    assert metrics.correct == 1
    assert metrics.negative_log_likelihood == pytest.approx(1e30, rel=1e-6)
    assert metrics.calibration_error == pytest.approx(0.5)


@pytest.mark.parametrize("m", range(8, 15))
def test_bins_end_at_the_fifteenths(m: int) -> None:
    """One right and one wrong answer cancel within a bin, but not across its edge."""
    edge = m / 15

    def gap(right: float, wrong: float) -> float:
        p = torch.tensor([[right, 1 - right], [1 - wrong, wrong]])
        return measure(p.log(), torch.tensor([0, 0])).calibration_error

    assert gap(edge - 2e-5, edge - 1e-5) == pytest.approx(edge - 0.5, abs=1e-4)
    assert gap(edge + 1e-5, edge + 2e-5) == pytest.approx(edge - 0.5, abs=1e-4)
    assert gap(edge - 1e-5, edge + 1e-5) == pytest.approx(0.5, abs=1e-4)


def test_certainty_falls_into_the_last_bin() -> None:
    assert measure(torch.tensor([[100.0, 0.0]]), torch.tensor([0])).calibration_error == pytest.approx(0, abs=1e-12)
    assert measure(torch.tensor([[100.0, 0.0]]), torch.tensor([1])).calibration_error == pytest.approx(1)


@given(st.integers(1, 40), st.integers(1, 50))
def test_predict_keeps_the_order_whatever_the_batch(n: int, batch_size: int) -> None:
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 2, 2)
    weight = torch.ones((), requires_grad=True)
    logits = predict(lambda part: weight * part[:, :, 0, 0].bfloat16(), images, batch_size)
    assert logits.dtype == torch.float32
    assert logits[:, 0].tolist() == list(range(n))
    assert not logits.requires_grad
