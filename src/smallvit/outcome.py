"""What a training leaves when it has ended: its record, and what its model says of the test images."""

import numpy as np
import torch
from torch import Tensor

from smallvit.device.choose import hardware
from smallvit.evaluate import confidences, confusion, fit_temperature, measure
from smallvit.held_out import MAY_BE_SEEN
from smallvit.model.vit import count_macs, count_parameters
from smallvit.record import RunRecord, versions
from smallvit.session import Session
from smallvit.training import Training

MISTAKES_SHOWN = 24


def finished_record(training: Training) -> RunRecord:
    """Return the record of a training that has taken its last measurement."""
    session = training.session
    config, spec, gathered = session.config, session.dataset.spec, training.gathered
    last, logits, labels = gathered.curve[-1], training.logits, {k: s.labels for k, s in session.splits.items()}
    assert last.test is not None
    temperature = _temperature(logits["val"], labels["val"], session) if "val" in logits else None
    calibrated = None if temperature is None else measure(logits["test"], labels["test"], temperature)
    seconds_after_first = gathered.train_seconds - gathered.first_step_seconds
    return RunRecord(
        config=config.to_json(),
        config_digest=config.digest(),
        class_names=list(spec.class_names),
        channel_mean=list(spec.mean),
        channel_std=list(spec.std),
        test_sha256=session.test_sha256,
        val_sha256=session.val_sha256,
        num_train=len(labels["train"]),
        dataset_notes=[*session.dataset.notes, *(MAY_BE_SEEN[split] for split in training.may_be_seen)],
        num_parameters=count_parameters(session.model),
        num_macs=count_macs(config.model),
        choices=session.choices,
        hardware=hardware(),
        versions=versions(),
        started=gathered.started,
        train_seconds=gathered.train_seconds,
        first_step_seconds=gathered.first_step_seconds,
        evaluate_seconds=gathered.evaluate_seconds,
        images_per_second=(training.total_steps - 1) * config.train.batch_size / seconds_after_first,
        world_size=training.world.size,
        resumed_at_steps=gathered.resumed_at_steps,
        skipped_steps=gathered.skipped_steps,
        curve=gathered.curve,
        val=last.val,
        test=last.test,
        temperature=temperature,
        test_calibrated=calibrated,
        test_read="along the curve" if config.evaluate.test_curve else "once, at the last epoch",
        test_confusion=confusion(logits["test"], labels["test"]).tolist(),
    )


def _temperature(logits: Tensor, labels: Tensor, session: Session) -> float:
    adjustment = session.adjustment
    return fit_temperature(logits, labels, None if adjustment is None else adjustment.lacking(labels))


def predictions(logits: Tensor, session: Session, temperature: float | None) -> dict[str, Tensor]:
    """Return the test logits and labels, and as pictures the mistakes that the model was surest of.

    And of a folder's pictures the files, a row of UTF-8 each, filled up with zeros.
    """
    test, files = session.splits["test"], session.dataset.test.files
    labels = test.labels.cpu()
    confidence = confidences(logits, temperature)
    wrong = (logits.argmax(-1) != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)[:MISTAKES_SHOWN]]
    pictures = test.images[worst.to(test.images.device)].cpu()
    kept = {"logits": logits, "labels": labels, "mistakes": worst, "mistake_images": pictures}
    if files is not None:
        kept["files"] = torch.from_numpy(np.array(files).view(np.uint8).reshape(len(files), -1))
    return kept
