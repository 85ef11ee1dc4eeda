"""What differs between the runs of two sides: fields of their configs, and what surrounded them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smallvit.config import leaves
from smallvit.record import SOURCE, RunRecord
from smallvit.report.compare_sides import Side
from smallvit.report.records import Run

_HARDWARE = {"memory_gib": "memory, GiB", "processor_model": "processor's model"}
_SOURCE = "smallvit's source"
FIRST = (
    *("device", "processor", "gpu", "precision", "attention", "convolution"),
    *("torch's version", _SOURCE, "training images"),
)
"""Of the surroundings those that a terminal tells: what right answers, and not times alone, may come of."""


@dataclass(frozen=True, kw_only=True)
class Differing:
    """Something that is not the same on both sides."""

    name: str
    a: str
    b: str
    decides: bool = True
    """Whether it makes them different runs."""


def config_differences(a: Side, b: Side) -> list[Differing]:
    """Return the fields of the config that differ; those that do not make another run come last.

    The seed is one of them only where each side is one run.
    """
    found = [
        Differing(name=name, a=_written(mine), b=_written(theirs), decides=counts)
        for (name, mine, counts), (_, theirs, _) in zip(leaves(a.first.config), leaves(b.first.config), strict=True)
        if mine != theirs
    ]
    several = len(a.runs) > 1
    kept = [each for each in found if each.name != "recipe" and not (several and each.name == "seed")]
    return sorted(kept, key=lambda each: not each.decides)


def surroundings(a: Side, b: Side) -> list[Differing]:
    """Return what differs between the runs beside their configs: versions, hardware, choices, notes on the data.

    Where both sides have several runs, they are of the same seeds in the same order, and each is held against its own.
    """
    sides = [[_surroundings(run) for run in side.runs] for side in (a, b)]
    names = dict.fromkeys(name for side in sides for each in side for name in each)
    rows = [(name, *([each.get(name, "none") for each in side] for side in sides)) for name in names]
    return [_differing(name, one, other) for name, one, other in rows if one != other]


def _surroundings(run: Run) -> dict[str, str]:
    record, choices = run.record, run.record.choices
    rows: dict[str, Any] = {
        "device": choices.device,
        "precision": choices.precision,
        "attention": choices.attention,
        "convolution": choices.convolution,
        "compiled": choices.compile,
        "threads": choices.num_threads,
        "processes": record.world_size,
        **{_HARDWARE.get(name, name): value for name, value in record.hardware.items()},
        **{_SOURCE if name == SOURCE else f"{name}'s version": value for name, value in record.versions.items()},
        "training images": record.num_train,
        "mean and deviation of their colours": _moments(record),
        "notes on the data": "; ".join(record.dataset_notes) or "none",
        "test was read": record.test_read,
        "steps left out": len(record.skipped_steps),
        "interruptions": len(record.resumed_at_steps),
    }
    return {name: _written(value) for name, value in rows.items()}


def _moments(record: RunRecord) -> str:
    if record.channel_mean is None or record.channel_std is None:
        return "not known"
    return "; ".join(", ".join(f"{value:.4f}" for value in each) for each in (record.channel_mean, record.channel_std))


def _differing(name: str, one: Sequence[str], other: Sequence[str]) -> Differing:
    """Return both sides' values, each once; all, in the order of the runs, where these are the same ones."""
    a, b = (" / ".join(dict.fromkeys(values)) for values in (one, other))
    return Differing(name=name, a=a, b=b) if a != b else Differing(name=name, a=" / ".join(one), b=" / ".join(other))


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
