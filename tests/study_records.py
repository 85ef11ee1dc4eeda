"""Records of studies that never ran: whole and valid, of accuracies that the caller names."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from smallvit.config import RunConfig
from smallvit.evaluate import Metrics
from smallvit.record import CurvePoint, RunRecord
from smallvit.study.rows import Study

TEMPLATE = Path(__file__).parents[1] / "results" / "runs" / "augment-all" / "seed0.json"
NUM_TEST = 10_000


def fake_record(config: RunConfig, accuracy: float, *, seconds: float = 100.0, **changes: object) -> RunRecord:
    """Return a record of `config` with `accuracy`, in percent of 10,000 test images, at its last epoch."""
    template = _template()
    along, classes = config.evaluate.test_curve, template.class_names
    last, every = config.length.epochs, config.length.every_epochs
    epochs = sorted({*range(every, last + 1, every), last})
    test = _metrics(accuracy)
    points = [
        CurvePoint(
            epoch=epoch,
            images_seen=45_000 * config.length.passes_per_epoch * epoch,
            train_loss=1.0 + 1 / epoch,
            seconds=seconds * epoch / last,
            val=None if config.data.val_fraction == 0 else _metrics(accuracy * (1 - 0.5 / epoch)),
            test=test if epoch == last else _metrics(accuracy * (1 - 0.5 / epoch) + 0.3) if along else None,
        )
        for epoch in epochs
    ]
    model = config.model
    size = model.embed_dim**2 * model.depth
    record = dataclasses.replace(
        template,
        config=config.to_json(),
        config_digest=config.digest(),
        train_seconds=seconds,
        num_macs=1_000 * size - sum(10_000 * (model.embed_dim - (dim or model.embed_dim)) for dim in model.latent_dims),
        num_parameters=10 * size,
        curve=points,
        val=points[-1].val,
        test=test,
        test_read="along the curve" if along else "once, at the last epoch",
        test_confusion=_confusion(test.correct, len(classes)),
    )
    return dataclasses.replace(record, **changes)  # pyright: ignore[reportArgumentType]


def write_study(
    study: Study, folder: Path, accuracy: Callable[[str, int], float], seeds: Mapping[str, int] | None = None
) -> None:
    """Write records of all the study's rows as run folders: of its own seeds, or as many as `seeds` has for a row.

    A run that is there, since another study has it as well, is left as it is.
    """
    for number, row in enumerate(study.rows):
        for seed in study.seeds[: (seeds or {}).get(row.label, len(study.seeds))]:
            place = folder / row.folder / f"seed{seed}"
            if place.exists():
                continue
            place.mkdir(parents=True)
            record = fake_record(row.at(seed), accuracy(row.label, seed), seconds=100.0 + 10 * number + seed)
            record.save(place / "record.json")


def noisy(level: float = 60.0, spread: float = 0.3) -> Callable[[str, int], float]:
    """Return accuracies that differ by row and seed, the same ones in every process."""

    def accuracy(label: str, seed: int) -> float:
        random = np.random.default_rng([seed, *label.encode()])
        effect = np.random.default_rng([*label.encode()]).normal(scale=2.0)
        return round(float(np.clip(level + effect + random.normal(scale=spread), 0, 100)), 2)

    return accuracy


@cache
def _template() -> RunRecord:
    return RunRecord.load(TEMPLATE)


def _metrics(accuracy: float) -> Metrics:
    correct = round(accuracy * NUM_TEST / 100)
    return Metrics(correct=correct, count=NUM_TEST, negative_log_likelihood=1.0, calibration_error=0.1)


def _confusion(correct: int, classes: int) -> list[list[int]]:
    each = NUM_TEST // classes
    right = [correct // classes + (label < correct % classes) for label in range(classes)]
    matrix = np.zeros((classes, classes), dtype=int)
    for label, count in enumerate(right):
        matrix[label, label] = count
        matrix[label, (label + 1) % classes] += each - count
    return matrix.tolist()
