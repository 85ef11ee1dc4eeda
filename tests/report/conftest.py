"""Run folders as `smallvit.run` leaves them, of any number of classes, without training."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.device.choose import Choices
from smallvit.evaluate import confusion, measure
from smallvit.recipes import RECIPES
from smallvit.record import CurvePoint, RunRecord
from smallvit.strict_json import to_json

MakeRun = Callable[..., RunRecord]


def make_run(
    folder: Path,
    *,
    classes: int = 10,
    count: int = 300,
    wrong: float = 0.1,
    val: bool = True,
    test_curve: bool = False,
    names: list[str] | None = None,
    draw: int = 0,
    **changes: Any,
) -> RunRecord:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(classes)
    labels = torch.from_numpy(random.permutation(np.arange(count) % classes))
    random = np.random.default_rng((classes, draw))  # another draw answers otherwise, to the same images
    logits = torch.from_numpy(random.normal(size=(count, classes)).astype("float32"))
    logits[torch.arange(count), labels] += 20.0
    misled = torch.from_numpy(np.flatnonzero(random.random(count) < wrong))
    others = torch.from_numpy(random.integers(1, min(classes, 4), len(misled)))
    logits[misled, (labels[misled] + others) % classes] += torch.from_numpy(
        21.0 + 5 * random.random(len(misled))
    ).float()
    # Ties aside, an image is wrong if it was misled.
    config = run_config(test_curve=test_curve)
    record = RunRecord(
        config=config.to_json(),
        config_digest=config.digest(),
        world_size=1,
        resumed_at_steps=[],
        skipped_steps=[],
        class_names=names or [f"class {index}" for index in range(classes)],
        channel_mean=[0.5, 0.5, 0.5],
        channel_std=[0.25, 0.25, 0.25],
        test_sha256=64 * "a",
        val_sha256=64 * "b" if val else None,
        num_train=1295,
        dataset_notes=["7 images were grey: made RGB"],
        num_parameters=209738,
        num_macs=16519424,
        choices=Choices(
            device="cpu",
            precision="float32",
            attention="bmm",
            convolution="torch",
            compile=False,
            num_threads=2,
            reason="as asked",
        ),
        hardware={"processor": "A Processor", "cores": 2, "platform": "Linux", "memory_gib": 24},
        versions={"python": "3.11.7", "smallvit": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "pillow": "13.0.0"},
        started="2026-11-22T09:47:20+00:00",
        train_seconds=135.79253270899972,
        first_step_seconds=0.24613262399998348,
        evaluate_seconds=0.6998908749999373,
        images_per_second=188.39305200275803,
        curve=_curve(logits, labels, val=val, test_curve=test_curve),
        val=measure(logits[: count // 2], labels[: count // 2]) if val else None,
        test=measure(logits, labels),
        temperature=0.5 if val else None,
        test_calibrated=measure(logits / 0.5, labels) if val else None,
        test_read="along the curve" if test_curve else "once, at the last epoch",
        test_confusion=confusion(logits, labels).tolist(),
    )
    record = dataclasses.replace(record, **changes)
    record.save(folder / "record.json")
    _write_metrics(folder / "metrics.jsonl", record)
    _write_predictions(folder / "test.safetensors", logits, labels)
    return record


def run_config(*, test_curve: bool) -> RunConfig:
    recipe = RECIPES["quickstart"]()
    evaluate = dataclasses.replace(recipe.evaluate, test_curve=test_curve)
    # A folder's classes are counted when it is read, so a config of it goes with any number of them.
    return dataclasses.replace(recipe, data=DataConfig(dataset="folder", root=Path("pictures")), evaluate=evaluate)


def _curve(logits: torch.Tensor, labels: torch.Tensor, *, val: bool, test_curve: bool) -> list[CurvePoint]:
    points: list[CurvePoint] = []
    for epoch in (5, 10, 15, 20):
        then = logits * (1 if epoch == 20 else -1 if epoch == 5 else 1)
        then = then if epoch == 20 else then + (20 - epoch) * torch.eye(logits.shape[1])[0]
        points.append(
            CurvePoint(
                epoch=epoch,
                images_seen=1280 * epoch,
                train_loss=2.5 - epoch / 12,
                seconds=6.8 * epoch,
                val=measure(then[: len(then) // 2], labels[: len(then) // 2]) if val else None,
                test=measure(then, labels) if test_curve or epoch == 20 else None,
            )
        )
    return points


def _write_metrics(path: Path, record: RunRecord) -> None:
    steps = [{"step": step, "loss": 2.5 - step / 250, "lr": 1e-3, "seconds": step / 3} for step in range(19, 400, 20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*steps, *map(to_json, record.curve)]))


def _write_predictions(path: Path, logits: torch.Tensor, labels: torch.Tensor) -> None:
    confidence, predicted = logits.softmax(-1).max(-1)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)[:24]]
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (len(labels), 3, 32, 32)).astype("uint8"))[
        worst
    ]
    save_file({"logits": logits, "labels": labels, "mistakes": worst, "mistake_images": images}, path)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read a page's words: to draw its figures takes longer than all else."""
    for name in ("page.learning_curve", "page.confusion_matrix", "compare.learning_curves"):
        monkeypatch.setattr(f"smallvit.report.{name}", lambda *_: "<svg></svg>")


@pytest.fixture
def run_folder() -> MakeRun:
    """Return `make_run(folder, ...) -> RunRecord`."""
    return make_run
