"""How fast this machine is: measured training steps, and what a recipe will take by them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.table import Table

from smallvit.config import RunConfig
from smallvit.data.loader import Order
from smallvit.data.spec import SPECS
from smallvit.data.split import Split
from smallvit.data.store import Dataset
from smallvit.device.choose import synchronize
from smallvit.model.vit import count_macs, count_parameters
from smallvit.progress import duration
from smallvit.session import Session
from smallvit.train.loop import fit
from smallvit.train.optim import build_optimizers

TIMED_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a recipe costs."""

    num_parameters: int
    num_macs: int
    train_seconds: float
    """Estimated from measured steps; compilation and evaluation left out."""


def cost(config: RunConfig) -> Cost:
    """Return the size of a recipe for a named data set, and its training time on this machine.

    Takes a few steps on random images, with no data set needed.
    """
    spec = SPECS[config.data.dataset]
    size, batch = config.model.image_size, config.train.batch_size
    random = np.random.default_rng(0)
    split = Split(
        images=random.integers(0, 256, (batch, 3, size, size), dtype=np.uint8),
        labels=random.integers(0, spec.num_classes, batch),
    )
    dataset = Dataset(spec=spec, train=split, val=None, test=split, notes=())
    session = Session(config.resolve(spec.num_classes), dataset)
    states = fit(
        session.loss_function(),
        build_optimizers(session.model, config.optim),
        session.batch,
        lr=config.optim.lr,
        warmup_steps=0.0,
        total_steps=1 + TIMED_STEPS,
    )
    seconds: list[float] = []
    start = time.perf_counter()
    for _ in states:
        synchronize(session.choices.device)
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    held_out = spec.train_size * config.data.val_fraction
    if not spec.test_size:
        held_out = spec.train_size * (1 - (1 - config.data.test_fraction) * (1 - config.data.val_fraction))
    order = Order(
        round(spec.train_size - held_out),
        batch_size=config.train.batch_size,
        passes_per_epoch=config.train.passes_per_epoch,
        seed=config.seed,
    )
    return Cost(
        num_parameters=count_parameters(session.model),
        num_macs=count_macs(session.config.model),
        train_seconds=config.train.epochs * order.steps_per_epoch * statistics.median(seconds[1:]),
    )


def recipe_table(recipes: Mapping[str, Callable[[], RunConfig]]) -> Table:
    """Return the recipes with parameters, multiply-accumulates and estimated training time on this machine."""
    table = Table("recipe", "data set", box=box.SIMPLE, pad_edge=False)
    for heading in ("parameters", "MACs", "time here"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what it is")
    for name, recipe in recipes.items():
        config = recipe()
        costs = cost(config)
        table.add_row(
            name,
            config.data.dataset,
            f"{costs.num_parameters / 1e6:.2f} M",
            f"{costs.num_macs / 1e6:,.0f} M",
            duration(costs.train_seconds),
            recipe.__doc__,
        )
    return table
