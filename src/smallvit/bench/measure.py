"""The whole measurement of a recipe: the step and what surrounds it, the machine's rates, peers, and the sweep."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from smallvit.bench.clock import PeakMemory, take_turns
from smallvit.bench.floors import step_bytes, step_flop, utilisation
from smallvit.bench.machine import MachineRates
from smallvit.bench.peers import PEERS, PeerStep, fastest_step, why_missing
from smallvit.bench.record import BenchRecord, PeerResult, Speed, circumstances
from smallvit.bench.sweep import run_sweep, sweep_cases
from smallvit.bench.workload import Workload
from smallvit.checks import require_one_of, require_whole
from smallvit.config import RunConfig
from smallvit.device.choose import timed, torch_kept
from smallvit.model.vit import count_macs, count_parameters

PART_STEPS = 3
Say = Callable[[str], None]


@torch_kept()
def measure_recipe(
    config: RunConfig,
    *,
    turns: int,
    against: Sequence[str] = (),
    sweep_seconds: float | None = None,
    say: Say = lambda line: None,
) -> BenchRecord:
    """Measure `config` on this machine, on random images.

    `against` names peers. With `sweep_seconds` the step is measured at other widths, patches and batches too, as far as
    that many seconds go. `say` is told, line by line, what will take long and what is left out. Raises `UsageError` for
    a config that cannot be measured so.
    """
    require_whole("turns", turns, 1)
    for name in against:
        require_one_of("against", name, tuple(PEERS))
    cases = [] if sweep_seconds is None else sweep_cases(config)
    record = _measure_one(config, turns, against, say)
    if sweep_seconds is None:
        return record
    return replace(record, sweep=run_sweep(record, cases, sweep_seconds, say))


def _measure_one(config: RunConfig, turns: int, against: Sequence[str], say: Say) -> BenchRecord:
    beginning = circumstances()
    memory = PeakMemory()
    work = Workload(config)
    config, choices, device = work.session.config, work.session.choices, work.device
    if device == "cuda":  # without what was tried to choose an attention, of which there are several
        memory = PeakMemory()
    say(str(choices))
    first_step = timed(work.step, device)
    timed(work.pipeline, device)
    work.settle(work.pipeline)
    peak_memory = memory.read(device)
    peers = _peers(against, work, say)
    rates = MachineRates(device)
    contestants = {**work.contestants(), **{name: peer.step for name, peer in peers.items()}, **rates.calls()}
    timings = take_turns(contestants, device, turns)
    parts = [work.step.parts(device) for _ in range(PART_STEPS)]
    batch = config.train.batch_size
    images = {"step": batch, "augmentation": batch, "pipeline": batch, "evaluation": config.evaluate.batch_size}
    speeds = {name: Speed.of(timings[name], count) for name, count in images.items()}
    num_macs, num_parameters = count_macs(config.model), count_parameters(work.session.model)
    num_bytes = step_bytes(config.model, num_parameters=num_parameters, batch_size=batch, precision=choices.precision)
    machine = rates.machine(timings)
    peak = machine.peak_flop_per_second[choices.precision]
    return BenchRecord(
        config=config.to_json(),
        config_digest=config.digest(),
        choices=choices,
        **beginning,
        num_parameters=num_parameters,
        num_macs=num_macs,
        first_step_seconds=first_step,
        speeds=speeds,
        step_parts={name: statistics.median(part[name] for part in parts) for name in parts[0]},
        utilisation={
            name: utilisation(num_macs, speeds[name].images_per_second, peak) for name in ("step", "pipeline")
        },
        machine=machine,
        floor_seconds={
            "arithmetic": step_flop(num_macs, batch) / peak,
            "bytes": num_bytes / machine.copy_bytes_per_second,
        },
        peak_memory_bytes=peak_memory,
        peers=[
            PeerResult(
                name=name,
                version=peer.version,
                differs=peer.differs,
                num_parameters=peer.num_parameters,
                first_step_seconds=peer.first_step_seconds,
                step=Speed.of(timings[name], batch),
            )
            for name, peer in peers.items()
        ],
        sweep=[],
    )


def _peers(against: Sequence[str], work: Workload, say: Say) -> dict[str, PeerStep]:
    found: dict[str, PeerStep] = {}
    for name in against:
        missing = why_missing(name)
        if missing is None:
            found[name] = fastest_step(name, work)
            say(f"{name} {found[name].version}: {found[name].differs}")
        else:
            say(f"left out: {missing}")
    if found and work.session.graphs:
        say("the others' steps are compiled as well, but not recorded as CUDA graphs")
    return found
