"""What recipes cost on this machine: their size, and their training time by measured steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table

from smallvit.bench.pace import measured_pace, num_steps
from smallvit.bench.workload import Workload
from smallvit.config import RunConfig
from smallvit.model.vit import count_macs, count_parameters
from smallvit.progress import duration


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
    work = Workload(config)
    pace = measured_pace(work)
    return Cost(
        num_parameters=count_parameters(work.session.model),
        num_macs=count_macs(work.session.config.model),
        train_seconds=num_steps(config, pace.num_train) * pace.step_seconds,
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
