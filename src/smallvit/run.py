"""One whole run: `run(config, folder) -> RunRecord` wires data, augmentation, model, training and evaluation.

The run folder holds config.json, metrics.jsonl (as the run goes), and at the end model.safetensors (the weights of the
last epoch), test.safetensors (logits, labels, and the surest mistakes as pictures) and record.json.
"""

import json
import math
import textwrap
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smallvit.config import RunConfig
from smallvit.data.loader import DeviceSplit
from smallvit.data.store import Dataset, load_dataset
from smallvit.device.choose import hardware, synchronize
from smallvit.errors import SmallvitError, UsageError
from smallvit.evaluate import Metrics, confusion, measure
from smallvit.model.vit import count_macs, count_parameters
from smallvit.progress import RunProgress
from smallvit.record import CurvePoint, RunRecord, replacing, versions, write_atomically
from smallvit.session import Session
from smallvit.strict_json import to_json
from smallvit.train.loop import StepState, fit
from smallvit.train.optim import build_optimizers

LOG_EVERY_STEPS = 20
MISTAKES_SHOWN = 24


def run(config: RunConfig, folder: Path, *, console: Console | None = None) -> RunRecord:
    """Train and measure what `config` says, write it all to `folder`, and return the record.

    Raises `SmallvitError` (and `UsageError`) for what the user can mend: data that is not there, a folder that already
    holds a finished run, a loss that is no longer a number.
    """
    console = console or Console(quiet=True)
    if (folder / "record.json").exists():
        raise UsageError(f"{folder} already holds a finished run: name another folder with --out, or delete it")
    started = datetime.now(UTC)
    dataset = load_dataset(config.data, image_size=config.model.image_size)
    notes = list(dataset.notes)
    if config.augment.horizontal_flip > 0 and not dataset.spec.horizontal_flip:
        known = dataset.spec.horizontal_flip is False
        case = f"{dataset.spec.name} are of another class in the mirror" if known else "for text or signs"
        notes.append(f"images are mirrored at random; {case}: set augment.horizontal_flip to 0")
    if (folder / "config.json").exists():
        notes.append(f"{folder} holds an unfinished run, which is started over")
    for note in notes:
        console.print(f"note: {note}", highlight=False)
    session = Session(config.resolve(dataset.spec.num_classes), dataset)
    console.print(f"{config.recipe} on {_sizes(dataset)}\n{session.choices}", highlight=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmallvitError(f"{folder} cannot be made a run folder: {error.strerror}") from None
    write_atomically(folder / "config.json", json.dumps(session.config.to_json(), indent=1) + "\n")
    training = _train(session, folder, console)
    record = _finish(session, training, folder, started)
    record.save(folder / "record.json")
    return record


def evaluate(folder: Path, split: Literal["val", "test"], data_root: Path | None = None) -> Metrics:
    """Return the metrics of a finished run's weights; `data_root` stands in for the data folder of its config.

    The arithmetic is that of the run: measured anew, `auto` might round otherwise and count otherwise.
    """
    record, weights = RunRecord.load(folder / "record.json"), folder / "model.safetensors"
    config, choices = record.run_config(), record.choices
    device = replace(config.device, precision=choices.precision, attention=choices.attention)
    config = replace(config, device=device)
    if data_root is not None:
        config = replace(config, data=replace(config.data, root=data_root))
    session = Session(config, load_dataset(config.data, image_size=config.model.image_size))
    if split not in session.splits:
        raise UsageError(f"{folder} held out no val (data.val_fraction is 0): measure on test")
    try:
        session.model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise SmallvitError(f"{weights} does not hold this model's weights: {reason}") from None
    return measure(session.predict(split), session.splits[split].labels)


@dataclass
class _Training:
    """What the loop has gathered so far."""

    train_seconds: float = 0.0
    first_step_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    losses: list[Tensor] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    test_logits: Tensor | None = None
    """Of the last point of the curve."""


def _train(session: Session, folder: Path, console: Console) -> _Training:
    config, per_epoch = session.config, session.order.steps_per_epoch
    total = config.train.epochs * per_epoch
    states = fit(
        session.loss_function(),
        build_optimizers(session.model, config.optim),
        session.batch,
        lr=config.optim.lr,
        warmup_steps=config.optim.warmup_epochs * per_epoch,
        total_steps=total,
    )
    training = _Training()
    with RunProgress(console, total, config.train.batch_size) as progress, _Metrics(folder) as metrics:
        start = time.perf_counter()
        for state in states:
            done = state.step + 1
            training.losses.append(state.loss)
            if done == 1 or done % LOG_EVERY_STEPS == 0 or done % per_epoch == 0:
                synchronize(session.choices.device)
                seconds = training.train_seconds + time.perf_counter() - start
                _log_step(state, seconds, training, session, progress, metrics)
            progress.step(done)
            if done % per_epoch == 0:
                training.train_seconds += time.perf_counter() - start
                _measure(done // per_epoch, training, session, progress, metrics)
                start = time.perf_counter()
    return training


def _log_step(
    state: StepState, seconds: float, training: _Training, session: Session, progress: RunProgress, metrics: "_Metrics"
) -> None:
    loss = float(state.loss)
    _check_finite(loss, f"at step {state.step} (rate {state.lr:.3g})")
    if state.step == 0:
        training.first_step_seconds = seconds
    speed = state.step * session.config.train.batch_size / (seconds - training.first_step_seconds or math.inf)
    metrics.write({"step": state.step, "loss": loss, "lr": state.lr, "seconds": seconds, "images_per_second": speed})
    progress.numbers(loss, state.lr, speed)


def _measure(epoch: int, training: _Training, session: Session, progress: RunProgress, metrics: "_Metrics") -> None:
    """Take a point of the curve, if it is time for one."""
    config = session.config
    if epoch % config.evaluate.every_epochs and epoch != config.train.epochs:
        return
    start = time.perf_counter()
    train_loss = float(torch.stack(training.losses).mean())
    _check_finite(train_loss, f"on average up to epoch {epoch}")
    splits = ["val"] if "val" in session.splits else []
    if config.evaluate.test_curve or epoch == config.train.epochs:
        splits.append("test")
    logits = {split: session.predict(split) for split in splits}
    measured = {split: measure(logits[split], session.splits[split].labels) for split in splits}
    point = CurvePoint(
        epoch=epoch,
        images_seen=epoch * session.order.steps_per_epoch * config.train.batch_size,
        train_loss=train_loss,
        seconds=training.train_seconds,
        val=measured.get("val"),
        test=measured.get("test"),
    )
    training.evaluate_seconds += time.perf_counter() - start
    training.losses.clear()
    training.curve.append(point)
    training.test_logits = logits.get("test")
    metrics.write(to_json(point))
    progress.point(point, config.train.epochs)


def _check_finite(loss: float, when: str) -> None:
    if not math.isfinite(loss):
        raise SmallvitError(f"the loss is {loss} {when}: try a lower optim.lr")


def _finish(session: Session, training: _Training, folder: Path, started: datetime) -> RunRecord:
    """Write weights and predictions, and return the record."""
    config, spec, last = session.config, session.dataset.spec, training.curve[-1]
    logits, test = training.test_logits, session.splits["test"]
    assert logits is not None
    assert last.test is not None
    save_atomically(session.model.state_dict(), folder / "model.safetensors")
    save_atomically(_predictions(logits, test), folder / "test.safetensors")
    steps_after_first = config.train.epochs * session.order.steps_per_epoch - 1
    seconds_after_first = training.train_seconds - training.first_step_seconds
    return RunRecord(
        config=config.to_json(),
        config_digest=config.digest(),
        class_names=list(spec.class_names),
        num_train=len(session.splits["train"]),
        dataset_notes=list(session.dataset.notes),
        num_parameters=count_parameters(session.model),
        num_macs=count_macs(config.model),
        choices=session.choices,
        hardware=hardware(),
        versions=versions(),
        started=started.isoformat(timespec="seconds"),
        train_seconds=training.train_seconds,
        first_step_seconds=training.first_step_seconds,
        evaluate_seconds=training.evaluate_seconds,
        images_per_second=steps_after_first * config.train.batch_size / seconds_after_first,
        curve=training.curve,
        val=last.val,
        test=last.test,
        test_read="along the curve" if config.evaluate.test_curve else "once, at the last epoch",
        test_confusion=confusion(logits, test.labels).tolist(),
    )


def _predictions(logits: Tensor, test: DeviceSplit) -> dict[str, Tensor]:
    """Return the test logits and labels, and as pictures the mistakes that the model was surest of."""
    labels = test.labels.cpu()
    confidence = logits.softmax(-1).amax(-1)
    wrong = (logits.argmax(-1) != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)[:MISTAKES_SHOWN]]
    pictures = test.images[worst.to(test.images.device)].cpu()
    return {"logits": logits, "labels": labels, "mistakes": worst, "mistake_images": pictures}


def save_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


class _Metrics:
    """metrics.jsonl: one JSON object a line, each line written at once."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "metrics.jsonl").open("w", buffering=1)

    def __enter__(self) -> "_Metrics":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, allow_nan=False) + "\n")


def _sizes(dataset: Dataset) -> str:
    counts = [(name, split) for name, split in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))]
    parts = [f"{len(split.labels):,} {name}" for name, split in counts if split is not None]
    return f"{dataset.spec.name} ({', '.join(parts)} images)"
