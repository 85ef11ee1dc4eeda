"""What recipes cost on this machine: their size, and the time of a whole run by measured steps."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from smallvit.bench.floors import memory_lacking
from smallvit.bench.pace import measured_pace
from smallvit.bench.workload import Workload
from smallvit.config import RunConfig
from smallvit.device.choose import torch_kept
from smallvit.model.vit import count_macs, count_parameters
from smallvit.progress import duration


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a recipe costs."""

    num_parameters: int
    num_macs: int
    seconds: float | None
    """Of a whole `train`, its evaluations included, by a few measured steps; None where memory may not do."""


@torch_kept()
def cost(config: RunConfig) -> Cost:
    """Return the size of a recipe for a named data set, and how long its run takes on this machine.

    Takes a few steps on random images, with no data set needed.
    """
    gc.collect()  # what the recipe before took: compiled, it refers to itself
    work = Workload(config)
    model, choices = work.session.config.model, work.session.choices
    fits = memory_lacking(model, config.train.batch_size, choices.attention, choices.device) is None
    return Cost(
        num_parameters=count_parameters(work.session.model),
        num_macs=count_macs(model),
        seconds=measured_pace(work).seconds(config) if fits else None,
    )


def show_recipes(recipes: Mapping[str, Callable[[], RunConfig]], console: Console) -> None:
    """Print the recipes with parameters, multiply-accumulates and estimated time here; on a terminal, each as soon as
    it is measured.
    """
    table = Table("recipe", "data set", box=box.SIMPLE, pad_edge=False)
    for heading in ("parameters", "MACs", "time here"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what it is")
    with Live(table, console=console) as live:
        for number, (name, recipe) in enumerate(recipes.items(), start=1):
            table.caption = f"measuring some training steps of {name}, recipe {number} of {len(recipes)}"
            live.refresh()
            config = recipe()
            costs = cost(config)
            table.add_row(
                name,
                config.data.dataset,
                f"{costs.num_parameters / 1e6:.2f} M",
                f"{costs.num_macs / 1e6:,.0f} M",
                "too little memory" if costs.seconds is None else duration(costs.seconds),
                recipe.__doc__,
            )
        table.caption = None
