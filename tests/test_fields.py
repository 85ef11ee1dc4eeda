"""Every field of the training makes another run: one that nobody reads, or hands on, would have a digest of its own and
the other run's weights.
"""

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from smallvit.config import RunConfig, leaves
from smallvit.data.store import load_dataset
from smallvit.recipes import quickstart
from smallvit.session import Session
from smallvit.stop import Stop
from smallvit.study.rows import changed
from smallvit.training import Training

TINY = changed(
    quickstart(),
    {
        "model.patch_size": 16, "model.embed_dim": 8, "model.num_heads": 2, "model.depth": 1,
        "optim.optimizer": "adamw", "optim.warmup_epochs": 0.5, "train.epochs": 1, "train.batch_size": 250,
        "device.device": "cpu", "device.precision": "float32", "device.attention": "bmm", "device.num_threads": 1,
    },
)  # fmt: skip
MUON = {"optim.optimizer": "muon"}
OTHERS: dict[str, tuple[dict[str, Any], Any]] = {
    "optim.optimizer": ({}, "lion"),
    "optim.lr": ({}, 4e-3),
    "optim.weight_decay": ({}, 0.5),
    "optim.decay_on": ({}, "matrices"),
    "optim.betas": ({}, (0.8, 0.9)),
    "optim.warmup_epochs": ({}, 0.0),
    "optim.schedule": ({}, "linear"),
    "optim.clip_norm": ({}, 1e-3),
    "optim.lr_scaling": ({}, "linear"),
    "optim.muon_lr": (MUON, 8e-3),
    "optim.muon_weight_decay": (MUON, 0.5),
    "optim.muon_qkv": (MUON, "apart"),
    "train.epochs": ({}, 2),
    "train.passes_per_epoch": ({}, 2),
    "train.batch_size": ({}, 125),
    "train.repeats_in_batch": ({}, 2),
    "train.label_smoothing": ({}, 0.3),
    "train.loss": ({}, "bce"),
    "train.logit_adjustment": ({}, 1.0),
    "train.ema_decay": ({}, 0.9),
}
"""By field what it needs beside it, and another value than it has then."""
AFTER_NO_NUMBER = {"train.on_nonfinite", "train.max_skips"}


@functools.cache
def learned(config: RunConfig) -> list[Tensor]:
    session = Session(config.resolve(10), load_dataset(config.data))
    with TemporaryDirectory() as folder:
        Training(session, Path(folder), Stop()).run(Console(quiet=True))
    return list(session.average.measured.state_dict().values())


def test_every_field_of_the_training_is_here() -> None:
    fields = {name for name, _, counts in leaves(RunConfig()) if counts and name.startswith(("optim.", "train."))}
    assert {*OTHERS, *AFTER_NO_NUMBER} == fields, "a new field needs a line in OTHERS: see CONTRIBUTING.md, a new field"


@pytest.mark.parametrize("field", OTHERS)
def test_another_value_makes_other_weights(field: str) -> None:
    beside, value = OTHERS[field]
    config = changed(TINY, beside)
    other = changed(config, {field: value})
    assert other.digest() != config.digest()
    assert not all(torch.equal(a, b) for a, b in zip(learned(config), learned(other), strict=True))
