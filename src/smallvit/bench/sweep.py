"""How a step's cost grows with width, tokens and batch: one field of a config changed at a time, a few steps each."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from smallvit.bench.clock import PeakMemory, take_turns
from smallvit.bench.floors import memory_lacking, utilisation
from smallvit.bench.record import BenchRecord, Speed, SweepPoint
from smallvit.bench.workload import Workload, spec_of
from smallvit.config import RunConfig
from smallvit.device.choose import Choices, timed
from smallvit.errors import SmallvitError, line_of, telling_line
from smallvit.model.vit import count_macs
from smallvit.progress import duration

SWEEP = {"model.embed_dim": (96, 192, 384), "model.patch_size": (4, 2), "train.batch_size": (64, 256, 1024)}
SWEEP_TURNS = 2
CALLS = SWEEP_TURNS + 2
"""Steps of a point, the first and the warm one included."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One point to measure."""

    field: str
    value: int
    config: RunConfig
    num_macs: int
    is_base: bool
    """Whether it is the config that was measured already."""

    @property
    def work(self) -> float:
        """Multiply-accumulates of a batch."""
        return float(self.num_macs * self.config.train.batch_size)


def sweep_cases(config: RunConfig) -> list[Case]:
    """Return the points around `config`, its own values among them; raise `UsageError` where one is not possible."""
    cases: list[Case] = []
    num_classes = spec_of(config).num_classes

    for field, values in SWEEP.items():
        section, name = field.split(".")
        for value in values:
            changed = replace(config, **{section: replace(getattr(config, section), **{name: value})})
            macs = count_macs(changed.resolve(num_classes).model)
            cases.append(Case(field=field, value=value, config=changed, num_macs=macs, is_base=changed == config))
    return cases


def run_sweep(base: BenchRecord, cases: Sequence[Case], seconds: float, say: Callable[[str], None]) -> list[SweepPoint]:
    """Measure the cases one after another, as far as `seconds` go; `base` is the measurement that they surround."""
    predicted = [0.0 if case.is_base else _seconds(base, case) for case in cases]
    say(f"the sweep would take about {duration(sum(predicted))}, and begins nothing after {duration(seconds)}")
    end = time.monotonic() + seconds
    points: list[SweepPoint] = []
    for case, needed in zip(cases, predicted, strict=True):
        if case.is_base:
            points.append(_point(case, base, step=base.speeds["step"], first_step=base.first_step_seconds))
            continue
        gc.collect()  # what was measured before: compiled, it refers to itself
        why = _too_much(case, needed, end - time.monotonic(), base.choices)
        if why is None:
            try:
                points.append(_measured(case, base))
                continue
            except SmallvitError as error:  # what the others have is not for its shape, say
                why = str(error)
            except (RuntimeError, ValueError, MemoryError) as error:  # torch refuses it, or has not the memory
                why = line_of(error) or telling_line(error)
        say(f"{case.field} {case.value} is left out: {why}")
        points.append(_point(case, base, left_out=why))
    return points


def _seconds(base: BenchRecord, case: Case) -> float:
    """Predict the seconds of a case from its arithmetic."""
    batch = RunConfig.from_json(base.config).train.batch_size
    step = base.speeds["step"].seconds * case.work / (base.num_macs * batch)
    return CALLS * step + (base.first_step_seconds if base.choices.compile else 0.0)


def _too_much(case: Case, needed: float, left: float, choices: Choices) -> str | None:
    if needed > left:
        return f"it needs about {duration(needed)}, and {duration(max(left, 0.0))} are left"
    return memory_lacking(case.config.model, case.config.train.batch_size, choices.attention, choices.device)


def _measured(case: Case, base: BenchRecord) -> SweepPoint:
    device = base.choices.device
    memory = PeakMemory()
    # What `auto` chose for the recipe holds for every point, so that one thing changes at a time.
    choices = replace(
        case.config.device,
        device=device,
        precision=base.choices.precision,
        attention=base.choices.attention,
        convolution=base.choices.convolution,
    )
    work = Workload(replace(case.config, device=choices))
    first_step = timed(work.step, device)
    work.settle(work.step)
    step = take_turns({"step": work.step}, device, SWEEP_TURNS)["step"]
    peak_memory = memory.read(device) if device == "cuda" else None
    speed = Speed.of(step, case.config.train.batch_size)
    return _point(case, base, step=speed, first_step=first_step, peak_memory=peak_memory)


def _point(
    case: Case,
    base: BenchRecord,
    *,
    left_out: str | None = None,
    step: Speed | None = None,
    first_step: float | None = None,
    peak_memory: int | None = None,
) -> SweepPoint:
    peak = base.machine.peak_flop_per_second[base.choices.precision]
    model = case.config.model
    return SweepPoint(
        field=case.field,
        value=case.value,
        num_tokens=model.num_tokens,
        batch_size=case.config.train.batch_size,
        num_macs=case.num_macs,
        left_out=left_out,
        step=step,
        first_step_seconds=first_step,
        utilisation=None if step is None else utilisation(case.num_macs, step.images_per_second, peak),
        peak_memory_bytes=peak_memory,
    )
